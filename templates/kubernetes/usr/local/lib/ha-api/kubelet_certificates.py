#!/usr/bin/env python3
"""Approves the serving certificates that kubelets request (signer kubernetes.io/kubelet-serving).

Kubernetes itself approves none, because it cannot know a host's addresses. Here a request is approved if everything in
it is the requesting node's own: its user name, and each name and address is one of its Node object's and of no other
Node's. (A node can write into its own Node object, but not into another's, so a node that claims another's address is
refused.) Everything else is left for a person, and reported once in each run. Runs on every control-plane host, by a
timer, and needs python3, kubectl and openssl.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from typing import Any

SIGNER = "kubernetes.io/kubelet-serving"
USAGES = {"digital signature", "key encipherment", "server auth"}


def kubectl(*arguments: str) -> str:
    """The answer of the API."""
    return subprocess.run(
        ["kubectl", "--request-timeout=20s", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def addresses(node: dict[str, Any]) -> set[tuple[str, str]]:
    """A Node's names and addresses, as in a request: ("DNS", name) or ("IP Address", address)."""
    return {
        ("IP Address" if it["type"] in ("InternalIP", "ExternalIP") else "DNS", it["address"])
        for it in node.get("status", {}).get("addresses", [])
    }


def content(request: str) -> tuple[str, set[tuple[str, str]]]:
    """Subject, and alternative names by kind, of a request in PEM. Raises `ValueError` for one that is unreadable."""
    done = subprocess.run(
        ["openssl", "req", "-noout", "-text", "-nameopt", "RFC2253"],
        input=request,
        capture_output=True,
        check=False,
        text=True,
    )
    subject = re.search(r"^ +Subject: ?(.*)$", done.stdout, re.MULTILINE)
    names = re.findall(r"X509v3 Subject Alternative Name:[^\n]*\n +(.*)$", done.stdout, re.MULTILINE)
    extensions = set(re.findall(r"^ +(X509v3 [^:]+):", done.stdout, re.MULTILINE))
    if done.returncode or not subject or len(names) != 1 or extensions != {"X509v3 Subject Alternative Name"}:
        raise ValueError("it is not a request for a kubelet's serving certificate")
    pairs = [name.strip().partition(":") for name in names[0].split(",")]
    return subject[1], {(kind, value) for kind, _, value in pairs}


def problem(request: dict[str, Any], nodes: dict[str, dict[str, Any]]) -> str | None:
    """Why a request is not approved; None if it is."""
    spec = request["spec"]
    name = spec["username"].removeprefix("system:node:")
    if spec["username"] == name or "system:nodes" not in spec.get("groups", []) or name not in nodes:
        return f"{spec['username']} is not a node of this cluster"
    if not set(spec["usages"]) <= USAGES or "server auth" not in spec["usages"]:
        return f"its usages are {', '.join(spec['usages'])}"
    try:
        subject, names = content(base64.b64decode(spec["request"]).decode())
    except ValueError as error:
        return str(error)
    # In either order, because RFC 2253 turns it round.
    if set(subject.split(",")) != {f"CN=system:node:{name}", "O=system:nodes"}:
        return f"its subject is {subject}, but {spec['username']} has requested it"
    return strangers(names, name, nodes)


def strangers(names: set[tuple[str, str]], name: str, nodes: dict[str, dict[str, Any]]) -> str | None:
    """Which of a request's names and addresses are not this node's alone; None if all are."""
    others = set[tuple[str, str]]().union(*(addresses(node) for key, node in nodes.items() if key != name))
    if strange := names - addresses(nodes[name]):
        return f"{name} does not have {', '.join(sorted(value for _, value in strange))}"
    if claimed := names & others:
        return f"another node has {', '.join(sorted(value for _, value in claimed))}, too"
    return None


def pending(request: dict[str, Any]) -> bool:
    """Whether nobody has decided on it."""
    return request["spec"]["signerName"] == SIGNER and not request.get("status", {}).get("conditions")


def main() -> None:
    """Decide on all requests once."""
    listed = json.loads(kubectl("get", "certificatesigningrequests", "--output=json"))["items"]
    requests = [request for request in listed if pending(request)]
    if not requests:
        return
    nodes = {it["metadata"]["name"]: it for it in json.loads(kubectl("get", "nodes", "--output=json"))["items"]}
    for request in requests:
        name, reason = request["metadata"]["name"], problem(request, nodes)
        if reason:
            print(f"{name} is not approved: {reason}", file=sys.stderr)  # noqa: T201 - the journal
        else:
            kubectl("certificate", "approve", name)
            print(f"{name} is approved, for {request['spec']['username']}")  # noqa: T201


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"kubectl failed with {error.returncode}")
