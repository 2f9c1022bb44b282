"""What is read of Pulumi's state."""

import json

import pytest

from operate.stack import resources
from operate.stack.resources import INSTANCE, PORT, recorded_ids


def test_ids_are_those_of_the_state_and_not_of_what_a_replacement_still_has_to_delete(monkeypatch: pytest.MonkeyPatch):
    parent = "urn:pulumi:dev::openstack-ha-api::openstack-ha-api:loadbalancer:LoadBalancers$"
    recorded = [
        {"urn": "urn:pulumi:dev::openstack-ha-api::pulumi:pulumi:Stack::dev", "type": "pulumi:pulumi:Stack"},
        {"urn": f"{parent}{PORT}::dev-lb-0", "type": PORT, "id": "port"},
        {"urn": f"{parent}{INSTANCE}::dev-lb-0", "type": INSTANCE, "id": "new"},
        {"urn": f"{parent}{INSTANCE}::dev-lb-0", "type": INSTANCE, "id": "old", "delete": True},
    ]
    asked: list[tuple[str, ...]] = []

    def query(*arguments: str) -> str:
        asked.append(arguments)
        return json.dumps({"deployment": {"resources": recorded}})

    monkeypatch.setattr(resources, "query", query)
    assert recorded_ids("dev") == {(PORT, "dev-lb-0"): "port", (INSTANCE, "dev-lb-0"): "new"}
    # Without --show-secrets: nobody needs them.
    assert asked == [("stack", "export", "--stack", "dev")]
