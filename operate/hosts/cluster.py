"""The cluster's nodes and etcd members, as the first control-plane host that answers sees them."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import asyncssh
from pydantic import BaseModel

from operate.hosts.ssh import failure_of, output
from operate.stack.applied import AppliedStack

ANSWER_SECONDS = 30
SCRIPT = b"""set -eu
export KUBECONFIG=/etc/kubernetes/admin.conf
kubectl --request-timeout=10s get nodes --output=json
echo ---
/usr/local/lib/ha-api/etcd.py members
"""
ROLE = "node-role.kubernetes.io/"
DRAINED = "openstack-ha-api/drained-by"
"""The annotation with which `./ha drain` signs a node."""


class Node(BaseModel):
    """A node, as the API has it."""

    name: str
    role: str
    version: str
    ready: bool
    reason: str
    """What its kubelet says of its readiness."""
    cordoned: bool = False
    drained_by: str | None = None
    """Who drained it with `./ha drain`, why, and since when."""

    @property
    def why_cordoned(self) -> str:
        """Why no pods go there, if it is cordoned."""
        return f"drained by {self.drained_by}" if self.drained_by else "cordoned"


class Member(BaseModel):
    """An etcd member."""

    name: str
    address: str
    kind: str
    """`voter`, `learner` or `unstarted`."""
    health: str
    """`leader`, `follower` or `unhealthy`."""


class ClusterReport(BaseModel):
    """The cluster."""

    nodes: list[Node] = []
    members: list[Member] = []
    problems: list[str] = []

    @property
    def notes(self) -> Iterator[str]:
        """What is no problem."""
        for node in self.nodes:
            if node.cordoned:
                yield f"{node.name}: {node.why_cordoned}: `./ha resume {node.name}` lets pods run there again"


def parse_cluster(answer: str, hosts: set[str]) -> ClusterReport:
    """A report from what the script printed; `hosts` are the names that the stack has. Raises `ValueError`."""
    listed, _, etcd = answer.partition("\n---\n")
    nodes = [_node(it) for it in json.loads(listed)["items"]]
    members = [
        Member(name=name, address=address, kind=kind, health=health)
        for _, name, address, kind, health in (line.split() for line in etcd.splitlines())
    ]
    return ClusterReport(nodes=nodes, members=members, problems=[*_problems(nodes, members, hosts)])


def _node(item: dict[str, Any]) -> Node:
    labels: dict[str, str] = item["metadata"].get("labels", {})
    conditions: list[dict[str, str]] = item["status"]["conditions"]
    ready = next((it for it in conditions if it["type"] == "Ready"), dict[str, str]())
    return Node(
        name=item["metadata"]["name"],
        role=", ".join(key.removeprefix(ROLE) for key in labels if key.startswith(ROLE)) or "none",
        version=item["status"]["nodeInfo"]["kubeletVersion"],
        ready=ready.get("status") == "True",
        reason=ready.get("message", ""),
        cordoned=item["spec"].get("unschedulable", False),
        drained_by=item["metadata"].get("annotations", {}).get(DRAINED),
    )


def _problems(nodes: list[Node], members: list[Member], hosts: set[str]) -> Iterator[str]:
    for node in nodes:
        if not node.ready:
            yield f"{node.name} is not Ready: {node.reason}"
        if node.name not in hosts:
            yield f"the Node {node.name} belongs to no host of the stack: `kubectl delete node {node.name}`"
    for name in sorted(hosts - {node.name for node in nodes}):
        yield f"{name} is not in the cluster: run `pulumi up`"
    for member in members:
        if member.health == "unhealthy":
            problem = f"etcd member {member.name} ({member.address}, {member.kind}) does not answer"
            # One that never started has no name; its host removes it when it joins.
            if member.name not in {*hosts, "-"}:
                problem += (
                    "; the stack has no such host, so remove it, on a control-plane host: "
                    f"sudo /usr/local/lib/ha-api/etcd.py remove {member.address}"
                )
            yield problem


def look_at_cluster(stack: AppliedStack) -> ClusterReport | None:
    """What there is to report; None for bare hosts."""
    outputs = stack.outputs
    if not outputs.kubernetes_version:
        return None
    access = replace(stack.access, user=stack.settings.control_plane_user)

    async def ask(address: str) -> str:
        async with asyncio.timeout(ANSWER_SECONDS), access.connect(address) as connection:
            return await output(connection, "sudo -n bash -s", SCRIPT, seconds=ANSWER_SECONDS)

    reasons: list[str] = []
    for name, address in outputs.control_plane.items():
        try:
            return parse_cluster(asyncio.run(ask(address)), {*outputs.control_plane, *outputs.workers})
        except (OSError, asyncssh.Error) as error:
            reasons.append(f"{name}: {failure_of(error)}")
        except (ValueError, KeyError) as error:
            reasons.append(f"{name}: unexpected answer: {error}")
    return ClusterReport(problems=[f"no control-plane host answered: {'; '.join(reasons)}"])
