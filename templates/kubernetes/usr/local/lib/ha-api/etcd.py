#!/usr/bin/env python3
"""The etcd members, through its JSON gateway, so that a host needs no etcdctl.

etcd.py [--endpoint URL]... ACTION
    members          one line each: id, name or -, address, what it is (voter, learner, unstarted), and how it is
                     (leader, follower, unhealthy)
    healthy ADDRESS  whether the member with this address votes and has a leader
    remove ADDRESS   removes the member with this address, if there is one; repeated while etcd refuses
    spare ADDRESS N  whether N others are healthy, and enough of them to remove this member
    yield            if the local member leads, another one that is healthy becomes the leader

By default it talks to the local member. A member is known by its peer address, because one that has never started has
no name. The credential is what kubeadm creates for the kubelet's own health check of etcd.
"""

from __future__ import annotations

import argparse
import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

PKI = "/etc/kubernetes/pki/etcd"
LOCAL = "https://127.0.0.1:2379"
TIMEOUT = 10
"""Seconds for one request: etcd itself gives up after 7."""
REMOVAL_TIMEOUT = 30
"""Seconds. etcd refuses a removal ("unhealthy cluster") until its members have been connected for 5 s, and while it
elects a leader. Both follow the previous host's restart or removal, which in one `pulumi up` is seconds ago."""


def context() -> ssl.SSLContext:
    """TLS with etcd's CA and the host's own credential."""
    found = ssl.create_default_context(cafile=f"{PKI}/ca.crt")
    found.load_cert_chain(f"{PKI}/healthcheck-client.crt", f"{PKI}/healthcheck-client.key")
    return found


def ask(endpoint: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Etcd's answer. Raises `OSError` if there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(endpoint + path, data=data)  # noqa: S310 - etcd's own URLs
    # No proxy: it has no route to these addresses.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context())
    )
    with opener.open(request, timeout=TIMEOUT) as answer:
        return json.load(answer)


def members(endpoints: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """The first endpoint that answers for the whole cluster, and its list. Raises `OSError` if none does."""
    reasons: list[str] = []
    for endpoint in endpoints:
        try:
            return endpoint, ask(endpoint, "/v3/cluster/member/list", {"linearizable": True})["members"]
        except OSError as error:
            reasons.append(f"{endpoint}: {reason(error)}")
    raise OSError(f"no etcd member answers: {'; '.join(reasons)}")


def reason(error: OSError) -> str:
    """Why a request failed, in etcd's own words where it has some."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            return str(json.load(error).get("message", error))
        except ValueError:
            return str(error)
    return str(error)


def address(member: dict[str, Any]) -> str:
    """A member's own, from its peer URL."""
    return urlsplit(str(member["peerURLs"][0])).hostname or ""


def kind(member: dict[str, Any]) -> str:
    """What a member is."""
    if member.get("isLearner"):
        return "learner"
    return "voter" if member.get("clientURLs") else "unstarted"


def healthy(member: dict[str, Any]) -> bool:
    """Whether a member answers, and has a leader."""
    if not member.get("clientURLs"):
        return False
    try:
        return str(ask(member["clientURLs"][0], "/health").get("health")) == "true"
    except OSError:
        return False


def yield_leadership(endpoint: str, found: list[dict[str, Any]]) -> None:
    """Make another member the leader. Only the leader can do that, so `endpoint` has to be the local one."""
    status = ask(endpoint, "/v3/maintenance/status", {})
    own = status["header"]["member_id"]
    if status.get("leader") != own:
        return
    others = [member for member in found if member["ID"] != own and kind(member) == "voter" and healthy(member)]
    if not others:
        sys.exit("no other etcd member is healthy, so this one stays the leader")
    ask(endpoint, "/v3/maintenance/transfer-leadership", {"targetID": others[0]["ID"]})
    print(f"{others[0].get('name')} leads etcd now")  # noqa: T201


def remove(endpoints: list[str], its_address: str) -> None:
    """Remove the member with this address. Raises `OSError` if etcd still refuses after `REMOVAL_TIMEOUT`."""
    deadline = time.monotonic() + REMOVAL_TIMEOUT
    while True:
        try:
            # Listed again each time: a request without an answer may have succeeded.
            endpoint, found = members(endpoints)
            for member in found:
                if address(member) == its_address:
                    ask(endpoint, "/v3/cluster/member/remove", {"ID": member["ID"]})
                    name = member.get("name") or "a member that never started"
                    print(f"removed {name} ({its_address}) from etcd")  # noqa: T201
            return
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(1)


def main(arguments: list[str]) -> None:
    """What the command line asks for; exits with 1 for "no"."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", action="append", default=[])
    parser.add_argument("action", choices=["members", "healthy", "remove", "spare", "yield"])
    parser.add_argument("address", nargs="?")
    parser.add_argument("count", nargs="?", type=int, default=0)
    options = parser.parse_args(arguments)
    endpoints = options.endpoint or [LOCAL]
    if options.action == "remove":
        remove(endpoints, options.address)
        return
    endpoint, found = members(endpoints)
    its = [member for member in found if address(member) == options.address]
    if options.action == "members":
        leader = ask(endpoint, "/v3/maintenance/status", {}).get("leader")
        for member in found:
            role = "leader" if member["ID"] == leader else "follower"
            health = role if healthy(member) else "unhealthy"
            print(member["ID"], member.get("name") or "-", address(member), kind(member), health)  # noqa: T201
    elif options.action == "healthy":
        if not (its and kind(its[0]) == "voter" and healthy(its[0])):
            sys.exit(f"etcd member {options.address} does not vote, or has no leader")
    elif options.action == "spare":
        voters = [member for member in found if not member.get("isLearner")]
        others = [member for member in voters if member not in its]
        well = [member for member in others if healthy(member)]
        # The removal needs a majority of the members before it, and what is left needs one of those after it.
        alive = len(well) + len([member for member in its if healthy(member)])
        if its and (len(well) < options.count or alive <= len(voters) // 2 or len(well) <= len(others) // 2):
            names = ", ".join(it.get("name") or address(it) for it in others if it not in well)
            wanted = max(options.count, len(others) // 2 + 1)
            unhealthy = f"; unhealthy: {names}" if names else ""
            sys.exit(f"{len(well)} other etcd members are healthy, and {wanted} must be{unhealthy}")
    else:
        yield_leadership(endpoint, found)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(reason(error))
