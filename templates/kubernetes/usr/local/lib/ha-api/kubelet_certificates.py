#!/usr/bin/env python3
"""Approves the serving certificates that kubelets request (signer kubernetes.io/kubelet-serving).

Kubernetes itself approves none, because it cannot know a host's addresses. Here a request is approved if everything in
it is the requesting node's own: its user name, its name, and each address is one of its Node object's, of no other
Node's, and not the API's. (A node can write any name and address into its own Node object. The same CA signs the API
servers' certificates, so with the VIP in one, a node could pose as the API.) Everything else is left for a person, and
reported once in each run. Runs on every control-plane host, by a timer, and needs python3, kubectl and openssl.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from typing import Any

SIGNER = "kubernetes.io/kubelet-serving"
API_SERVER = "/etc/kubernetes/pki/apiserver.crt"
"""This host's: it has the VIP and all other names of the API."""
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


def pairs(names: str) -> set[tuple[str, str]]:
    """Alternative names by kind, as OpenSSL prints them."""
    return {(kind, value) for kind, _, value in (name.strip().partition(":") for name in names.split(","))}


def of_the_api() -> set[tuple[str, str]]:
    """The names and addresses in this host's API server's certificate."""
    printed = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", API_SERVER],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return pairs(printed.strip().splitlines()[-1])


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
    return subject[1], pairs(names[0])


def problem(request: dict[str, Any], nodes: dict[str, dict[str, Any]], api: set[tuple[str, str]]) -> str | None:
    """Why a request is not approved; None if it is. `api` has the names and addresses of this host's API server."""
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
    return strangers(names, name, nodes, api)


def strangers(
    names: set[tuple[str, str]], name: str, nodes: dict[str, dict[str, Any]], api: set[tuple[str, str]]
) -> str | None:
    """Which of a request's names and addresses are not this node's alone; None if all are."""
    others = set[tuple[str, str]]().union(*(addresses(node) for key, node in nodes.items() if key != name))
    own = {it for it in addresses(nodes[name]) if it[0] == "IP Address"} | {("DNS", name)}
    if strange := names - own:
        return f"{name} does not have {', '.join(sorted(value for _, value in strange))}"
    # The certificate of this host's own API server has this host's name and address, too.
    if ("DNS", name) not in api and (stolen := names & api):
        return f"the API has {', '.join(sorted(value for _, value in stolen))}"
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
    api = of_the_api()
    for request in requests:
        name, reason = request["metadata"]["name"], problem(request, nodes, api)
        if reason:
            print(f"{name} is not approved: {reason}", file=sys.stderr)  # noqa: T201 - the journal
        else:
            kubectl("certificate", "approve", name)
            print(f"{name} is approved, for {request['spec']['username']}")  # noqa: T201


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed with {error.returncode}")
