"""What the end-to-end tests' harness does by itself, without a lab."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests.e2e import harness
from tests.e2e.harness import System


class StandInCloud:
    """A cloud with some resources; what is asked for is listed, and what is deleted is gone."""

    def __init__(self, **resources: list[str]) -> None:
        self.resources = {kind: [SimpleNamespace(name=name) for name in names] for kind, names in resources.items()}
        self.compute = self.network = self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("delete_"):
            return self.resources[f"{name.removeprefix('delete_')}s"].remove
        if name == "wait_for_delete":
            return MagicMock()
        return lambda: [*self.resources.get(name, [])]


def test_what_a_killed_run_has_left_is_deleted_even_if_pulumi_does_not_know_of_it(monkeypatch: pytest.MonkeyPatch):
    cloud = StandInCloud(
        servers=["e2e-lb-1", "other-lb-1"], ports=["e2e-vip", "e2e2-vip"], security_groups=["e2e-lb"], keypairs=["e2e"]
    )
    monkeypatch.setattr(harness.openstack, "connect", MagicMock(return_value=cloud))
    monkeypatch.setattr(harness, "Stack", MagicMock())
    System("lab-e2e", "e2e").delete_leftovers()
    left = [it.name for kind in cloud.resources.values() for it in kind]
    assert left == ["other-lb-1", "e2e2-vip"]
