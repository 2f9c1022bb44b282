"""What is told of a pair whose files and services are not as they were applied."""

from typing import Any

import pytest

from operate.load_balancer import HostState
from operate.report import DriftKind, Report, examine

ADDRESSES = {"k8s-lb-0": "198.51.100.11", "k8s-lb-1": "198.51.100.12"}
NOW = 1_800_000_000
HAPROXY_CFG, KEEPALIVED_CONF = "etc/haproxy/haproxy.cfg", "etc/keepalived/keepalived.conf"
DIGESTS = {name: {HAPROXY_CFG: "cfg", KEEPALIVED_CONF: f"conf of {name}"} for name in ADDRESSES}


def state(name: str, *, holds_vip: bool) -> dict[str, Any]:
    """What a load balancer in order answers, as operate/on_host.py prints it."""

    def file(path: str, mode: int) -> dict[str, Any]:
        digest = DIGESTS[name][path]
        return {"digest": digest, "mode": mode, "owner": "root:root", "changed": NOW, "proven_digest": digest}

    return {
        "time": NOW,
        "booted": NOW - 1000,
        "services": {
            unit: {"state": "active", "enabled": True, "since": NOW - 900}
            for unit in ("firewalld", "haproxy", "ha-api-watchdog", "keepalived")
        },
        "vrrp": {"state": "MASTER" if holds_vip else "BACKUP", "since": NOW - 800},
        "holds_vip": holds_vip,
        "haproxy": {
            "alive": True,
            "ready": True,
            "version": "2.6.12",
            "configuration_id": "abc",
            "configured_id": "abc",
            "api_servers": {"k8s-cp-0": {"state": "UP", "check": "L7OK", "since": NOW - 700}},
        },
        "files": {HAPROXY_CFG: file(HAPROXY_CFG, 0o644), KEEPALIVED_CONF: file(KEEPALIVED_CONF, 0o640)},
    }


@pytest.fixture
def first() -> dict[str, Any]:
    return state("k8s-lb-0", holds_vip=True)


@pytest.fixture
def second() -> dict[str, Any]:
    return state("k8s-lb-1", holds_vip=False)


def report(first: dict[str, Any] | str, second: dict[str, Any] | str) -> Report:
    states = {
        name: found if isinstance(found, str) else HostState.model_validate(found)
        for name, found in zip(ADDRESSES, (first, second), strict=True)
    }
    return examine("dev", ADDRESSES, DIGESTS, states)


def test_a_pair_in_order_is_whole(first: dict[str, Any], second: dict[str, Any]):
    found = report(first, second)
    assert found.whole
    assert found.remedy is None


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (None, DriftKind.MISSING),
        ({"digest": "by hand"}, DriftKind.EDITED),
        ({"digest": "before", "proven_digest": "before"}, DriftKind.OLDER),
        ({"mode": 0o666}, DriftKind.MODE),
        ({"owner": "debian:root"}, DriftKind.MODE),
    ],
)
def test_drift_is_told_with_the_command_that_mends_it(
    first: dict[str, Any], second: dict[str, Any], change: dict[str, Any] | None, kind: DriftKind
):
    files = second["files"]
    files[KEEPALIVED_CONF] = files[KEEPALIVED_CONF] | change if change else None
    found = report(first, second)
    assert not found.whole
    assert [(drift.path, drift.kind) for drift in found.hosts["k8s-lb-1"].drift] == [(KEEPALIVED_CONF, kind)]
    assert found.hosts["k8s-lb-0"].drift == []
    assert found.remedy == (
        "pulumi up --stack dev --replace '**::k8s-lb-1-configure' "
        "--replace '**::k8s-lb-0-prove' --replace '**::k8s-lb-1-prove'"
    )


@pytest.mark.parametrize(
    ("part", "change", "told"),
    [
        (("services", "haproxy"), {"state": "failed"}, "haproxy is failed"),
        (("services", "keepalived"), {"enabled": False}, "keepalived does not start at boot"),
        (("haproxy",), {"alive": False}, "HAProxy does not answer /healthz"),
        (("haproxy",), {"configuration_id": "old"}, "answers with the configuration old, and the file has abc"),
        (("haproxy", "api_servers", "k8s-cp-0"), {"state": "DOWN", "check": "L4TOUT"}, "k8s-cp-0 is DOWN (L4TOUT)"),
        (("vrrp",), {"state": "FAULT"}, "takes no part in the election: it is FAULT"),
        (("vrrp",), {"state": "MASTER"}, "keepalived is MASTER, and the host does not hold the VIP"),
    ],
)
def test_what_does_not_run_is_told(
    first: dict[str, Any], second: dict[str, Any], part: tuple[str, ...], change: dict[str, Any], told: str
):
    place = second
    for key in part:
        place = place[key]
    place.update(change)
    found = report(first, second)
    assert not found.whole
    (trouble,) = found.hosts["k8s-lb-1"].troubles
    assert told in trouble
    assert found.remedy is None, "nothing that a run of the steps would mend"


def test_a_host_that_is_down_is_a_trouble_and_no_drift(first: dict[str, Any]):
    found = report(first, "TimeoutError: ")
    assert not found.whole
    assert found.hosts["k8s-lb-1"].troubles == ["not reachable: TimeoutError: "]
    assert found.troubles == [], "the one that is left holds the VIP"


def test_two_holders_and_none_are_troubles_of_the_pair(first: dict[str, Any], second: dict[str, Any]):
    two = report(first, second | {"holds_vip": True, "vrrp": first["vrrp"]})
    assert "k8s-lb-0, k8s-lb-1" in two.troubles[0]
    none = report(first | {"holds_vip": False, "vrrp": second["vrrp"]}, second)
    assert none.troubles == ["no load balancer holds the VIP"]
