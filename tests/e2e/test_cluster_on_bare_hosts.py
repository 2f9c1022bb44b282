"""A cluster on hosts that were bare until then, whose repository and registry are out of reach at first.

The tests are one story and run in the order of the file.
"""

from collections.abc import Generator

import pytest

from dev.cluster_faults import wait_until_whole
from dev.lab.kubernetes import versions
from dev.lab_stack import StackError, cluster_config
from tests.e2e.harness import System

pytestmark = pytest.mark.extended
# Nothing listens there: port 9 of the host.
NOBODY = "//198.18.1.1:9"


@pytest.fixture(scope="module")
def bare() -> Generator[System]:
    """One control-plane host, as `lab_config` has it: without Kubernetes."""
    system = System("lab-later", "later", controlPlaneFlavor=cluster_config()["controlPlaneFlavor"])
    system.delete_leftovers()
    system.up()
    yield system
    system.destroy()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"kubernetesRepository": f"http:{NOBODY}"}, r"the Kubernetes packages of .* are unavailable"),
        ({"kubernetesVersion": "1.36"}, r"kubernetesVersion = 1\.36: .* has only "),
        ({"registryMirror": f"https:{NOBODY}"}, "could not be pulled"),
    ],
    ids=["repository", "version", "registry"],
)
def test_what_is_out_of_reach_is_named(bare: System, wrong: dict[str, object], reason: str):
    with pytest.raises(StackError, match=reason):
        bare.stack.up(bare.config | cluster_config() | wrong)


def test_ups_that_were_killed_while_the_cluster_was_created_are_finished_by_the_next(bare: System):
    bare.config |= cluster_config()
    bare.configure()
    for step, seconds in (("later-cp-0-kubernetes-init", 5), ("later-cp-0-kubernetes-network", 0)):
        bare.kill_up(step, seconds)
        bare.stack.cancel()
    instance = bare.pair.instance("later-cp-0").id
    bare.up()
    assert bare.pair.instance("later-cp-0").id == instance
    (node,) = wait_until_whole(bare.applied()).nodes
    assert (node.name, node.ready, node.version) == ("later-cp-0", True, f"v{versions.KUBERNETES}")
    assert bare.has_no_changes()


def test_a_running_cluster_serves_on_while_its_repository_is_out_of_reach(bare: System):
    unavailable = pytest.raises(StackError, match=r"the Kubernetes packages of .* are unavailable")
    with bare.undisturbed(), unavailable:
        bare.up(kubernetesRepository=f"http:{NOBODY}")
    with bare.undisturbed():
        bare.up()
    assert bare.has_no_changes()


@pytest.mark.parametrize("version", ["1.36", ""])
def test_another_version_and_none_are_refused(bare: System, version: str):
    assert f'kubernetesVersion = "{version}": the cluster' in bare.refusal(kubernetesVersion=version)
