"""How the program reads its own state."""

from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from dev.review.recording_cloud import RecordingCloud
from model.settings import Settings
from program import existing_cluster
from tests.unit.example import example_values

EMPTY = "invocation of pulumi:pulumi:readStackResourceOutputs returned an error: failed to load checkpoint: EOF"


def reads(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Each error in turn, and then a state without resources; returns what was not asked for."""
    left = list(answers)

    def invoke(*_: object) -> Any:
        if left:
            raise RuntimeError(left.pop(0))
        return SimpleNamespace(value={"outputs": {}})

    monkeypatch.setattr(pulumi.runtime, "invoke", invoke)
    monkeypatch.setattr(existing_cluster, "WAIT_SECONDS", 0)
    return left


def test_a_state_that_is_being_written_is_read_again(monkeypatch: pytest.MonkeyPatch):
    assert reads(monkeypatch, EMPTY, EMPTY) == [EMPTY, EMPTY]
    assert existing_cluster.existing_cluster(Settings.parse(example_values())) is None


def test_other_errors_are_reported_at_once(monkeypatch: pytest.MonkeyPatch):
    left = reads(monkeypatch, "no such backend", EMPTY)
    with pytest.raises(RuntimeError, match="no such backend"):
        existing_cluster.existing_cluster(Settings.parse(example_values()))
    assert left == [EMPTY]


def test_a_state_that_stays_empty_is_an_error(monkeypatch: pytest.MonkeyPatch):
    reads(monkeypatch, *[EMPTY] * 100)
    with pytest.raises(RuntimeError, match="EOF"):
        existing_cluster.existing_cluster(Settings.parse(example_values()))


VIP_PORT = (
    "urn:pulumi:test::openstack-ha-api::openstack-ha-api:network:VirtualIp$openstack:networking/port:Port::k8s-vip"
)


def test_the_name_of_what_a_stack_has_cannot_be_changed():
    cloud = RecordingCloud(state={VIP_PORT: {"outputs": {}}})
    with pytest.raises(pulumi.RunError, match=r"clusterName = 'new': .*`pulumi config set clusterName k8s`"):
        cloud.run(example_values(clusterName="new"))
    assert cloud.resources == []
    cloud.run(example_values())
