"""A stack's resources in Pulumi's state: their types, and their ids in the cloud."""

import json

from operate.stack.engine import query

INSTANCE = "openstack:compute/instance:Instance"
PORT = "openstack:networking/port:Port"
RECORD = "openstack:dns/recordSet:RecordSet"
SERVER_GROUP = "openstack:compute/serverGroup:ServerGroup"


def recorded_ids(stack: str) -> dict[tuple[str, str], str]:
    """The ids in Pulumi's state of what a stack has in the cloud, by type and name of the resource."""
    exported = json.loads(query("stack", "export", "--stack", stack))
    found: dict[tuple[str, str], str] = {}
    for it in exported["deployment"].get("resources", ()):
        # Of a resource that is being replaced, the state has the old one too, marked to be deleted.
        if it.get("id") and not it.get("delete"):
            found[it["type"], it["urn"].rpartition("::")[2]] = it["id"]
    return found
