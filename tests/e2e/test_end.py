"""The end of the pair's story: it shrinks, and is destroyed."""

import time

import pytest

from dev.lab.progress import console
from tests.e2e.harness import System


@pytest.mark.extended
def test_shrinking_the_control_plane_drops_nothing(system: System):
    if len(system.outputs.control_plane) != 3:  # this module runs alone
        system.up(controlPlaneCount=3)
    system.serve()
    with system.undisturbed():
        changes = system.up(controlPlaneCount=1)
    deleted = {change.name for change in changes if change.op == "delete"}
    assert deleted == {f"e2e-cp-{i}{part}" for i in (1, 2) for part in ("", "-host-key", "-prepare")}
    steps = [(change.op, change.name) for change in changes]
    for name in ("e2e-lb-0-configure", "e2e-lb-1-configure"):
        assert steps.index(("create-replacement", name)) < steps.index(("delete", "e2e-cp-2"))


def test_destroy_leaves_nothing_in_the_cloud(system: System):
    began = time.monotonic()
    system.stack.destroy()
    console.print(f"destroy took {time.monotonic() - began:.1f} s")
    assert system.left_in_the_cloud() == []
