"""What is reported about a pair whose files and services differ from what was applied."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from operate.hosts.report import DriftKind, PairReport, compare_with_applied
from operate.hosts.state import HostState

ADDRESSES = {"k8s-lb-0": "198.51.100.11", "k8s-lb-1": "198.51.100.12"}
NOW = 1_800_000_000
DAY = 86_400
HAPROXY_CFG, KEEPALIVED_CONF = "etc/haproxy/haproxy.cfg", "etc/keepalived/keepalived.conf"
DIGESTS = {name: {HAPROXY_CFG: "cfg", KEEPALIVED_CONF: f"conf of {name}"} for name in ADDRESSES}


@cache
def certificate(*, expires: int) -> str:
    """A certificate (PEM) that expires then."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kube-apiserver")])
    builder = x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
    builder = builder.serial_number(1).not_valid_before(datetime.fromtimestamp(expires - 365 * DAY, UTC))
    made = builder.not_valid_after(datetime.fromtimestamp(expires, UTC)).sign(key, None)
    return made.public_bytes(Encoding.PEM).decode()


def state(name: str, *, holds_vip: bool) -> dict[str, Any]:
    """The state of a healthy load balancer, as operate/hosts/on_host.py prints it."""

    def file(path: str, mode: int) -> dict[str, Any]:
        digest = DIGESTS[name][path]
        return {"digest": digest, "mode": mode, "owner": "root:root", "changed": NOW, "proven_digest": digest}

    return {
        "time": NOW,
        "booted": NOW - 1000,
        "versions": {
            "keepalived": "2.2.7",
            "kernel": "6.1.0-18-amd64",
            "distribution": "Debian GNU/Linux 12 (bookworm)",
        },
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
            "api_servers": {
                "k8s-cp-0": {"state": "UP", "check": "L7OK", "code": 200, "duration_ms": 3, "since": NOW - 700}
            },
            "frontends": {
                "ingress": {
                    "k8s-worker-0": {"state": "UP", "check": "L4OK", "code": None, "duration_ms": 1, "since": NOW - 60}
                }
            },
        },
        "files": {HAPROXY_CFG: file(HAPROXY_CFG, 0o644), KEEPALIVED_CONF: file(KEEPALIVED_CONF, 0o640)},
        "changes": [{"time": NOW - 800, "source": "keepalived", "text": "VI_1 is now MASTER with priority 200"}],
        "reboot": {"required": False, "packages": [], "newer_kernel": None},
        "disks": {"/": {"size": 3 * 2**30, "free": 2 * 2**30, "free_inodes": 0.9}},
        "locked_by": None,
        "certificates": {"k8s-cp-0": {"pem": certificate(expires=NOW + 300 * DAY)}},
    }


@pytest.fixture
def first() -> dict[str, Any]:
    return state("k8s-lb-0", holds_vip=True)


@pytest.fixture
def second() -> dict[str, Any]:
    return state("k8s-lb-1", holds_vip=False)


def report(first: dict[str, Any] | str, second: dict[str, Any] | str) -> PairReport:
    states = {
        name: found if isinstance(found, str) else HostState.model_validate(found)
        for name, found in zip(ADDRESSES, (first, second), strict=True)
    }
    return compare_with_applied("dev", ADDRESSES, DIGESTS, states)


def test_nothing_is_wrong_with_a_healthy_pair(first: dict[str, Any], second: dict[str, Any]):
    found = report(first, second)
    assert found.healthy
    assert found.remedy is None


def test_a_default_route_that_only_the_peer_has_is_missed(first: dict[str, Any], second: dict[str, Any]):
    second["default_route"] = False
    found = report(first, second)
    (problem,) = found.hosts["k8s-lb-1"].problems
    assert "no default route" in problem and "`ip route`" in problem
    assert not found.hosts["k8s-lb-0"].problems
    # On a network without a gateway.
    first["default_route"] = False
    assert report(first, second).healthy


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (None, DriftKind.MISSING),
        ({"digest": "by hand"}, DriftKind.EDITED),
        ({"digest": "before", "proven_digest": "before"}, DriftKind.OLDER),
        ({"digest": "tried", "staged_digest": "tried"}, DriftKind.FAILED),
        ({"digest": "before", "proven_digest": "before", "staged_digest": "before"}, DriftKind.OLDER),
        ({"mode": 0o666}, DriftKind.MODE),
        ({"owner": "debian:root"}, DriftKind.MODE),
    ],
)
def test_drift_is_reported_with_the_command_that_restores_the_file(
    first: dict[str, Any], second: dict[str, Any], change: dict[str, Any] | None, kind: DriftKind
):
    files = second["files"]
    files[KEEPALIVED_CONF] = files[KEEPALIVED_CONF] | change if change else None
    found = report(first, second)
    assert not found.healthy
    assert [(drift.path, drift.kind) for drift in found.hosts["k8s-lb-1"].drift] == [(KEEPALIVED_CONF, kind)]
    assert found.hosts["k8s-lb-0"].drift == []
    if kind is DriftKind.FAILED:
        # Pulumi has no record of a step that failed: an `up` with --replace has other changes to apply, and is refused.
        assert found.remedy == "pulumi up --stack dev"
        return
    assert found.remedy == (
        "pulumi up --stack dev --replace '**::k8s-lb-1-configure' "
        "--replace '**::k8s-lb-0-prove' --replace '**::k8s-lb-1-prove'"
    )


def test_an_interface_with_another_name_is_reported_with_the_command_that_finds_it(
    first: dict[str, Any], second: dict[str, Any]
):
    second["interface"] = {"name": "enp3s0", "configured": "ens3"}
    found = report(first, second)
    assert not found.healthy
    (drift,) = found.hosts["k8s-lb-1"].drift
    assert (drift.path, drift.kind, drift.detail) == (KEEPALIVED_CONF, DriftKind.RENAMED, "enp3s0 instead of ens3")
    assert found.remedy
    assert "--replace '**::k8s-lb-1-prepare' --replace '**::k8s-lb-1-configure'" in found.remedy
    assert "k8s-lb-0-prepare" not in found.remedy


@pytest.mark.parametrize(
    "interface", [None, {"name": "ens3", "configured": "ens3"}, {"name": None, "configured": "ens3"}]
)
def test_an_interface_that_is_the_configured_one_or_unknown_is_no_drift(
    first: dict[str, Any], second: dict[str, Any], interface: dict[str, str] | None
):
    second["interface"] = interface
    assert report(first, second).healthy


@pytest.mark.parametrize(
    ("part", "change", "expected"),
    [
        (("services", "haproxy"), {"state": "failed"}, "haproxy is failed"),
        (("services", "keepalived"), {"enabled": False}, "keepalived does not start at boot"),
        (("haproxy",), {"alive": False}, "HAProxy does not answer /healthz"),
        (("haproxy",), {"configuration_id": "old"}, "runs the configuration old, but the file has abc"),
        (
            ("haproxy", "frontends", "ingress", "k8s-worker-0"),
            {"state": "DOWN", "check": "L4CON"},
            "server k8s-worker-0 of frontend ingress is DOWN (L4CON)",
        ),
        (("haproxy", "api_servers", "k8s-cp-0"), {"state": "DOWN", "check": "L4TOUT"}, "k8s-cp-0 is DOWN (L4TOUT)"),
        (("disks", "/"), {"free": 2**20}, "/ is nearly full (1 MiB and 90% of the inodes free)"),
        (("disks", "/"), {"free_inodes": 0.0}, "/ is nearly full (2048 MiB and 0% of the inodes free)"),
        (("vrrp",), {"state": "FAULT"}, "election: it is FAULT"),
        (("vrrp",), {"state": "MASTER"}, "does not hold the VIP"),
    ],
)
def test_whatever_does_not_run_is_reported(
    first: dict[str, Any], second: dict[str, Any], part: tuple[str, ...], change: dict[str, Any], expected: str
):
    place = second
    for key in part:
        place = place[key]
    place.update(change)
    found = report(first, second)
    assert not found.healthy
    (problem,) = found.hosts["k8s-lb-1"].problems
    assert expected in problem
    assert found.remedy is None, "nothing that running the steps again would fix"


def test_a_host_that_is_down_is_a_problem_not_drift(first: dict[str, Any]):
    found = report(first, "TimeoutError: ")
    assert not found.healthy
    assert found.hosts["k8s-lb-1"].problems == ["not reachable: TimeoutError: "]
    assert found.problems == [], "the one that is left holds the VIP"


def test_two_holders_and_none_are_problems_of_the_pair(first: dict[str, Any], second: dict[str, Any]):
    two = report(first, second | {"holds_vip": True, "vrrp": first["vrrp"]})
    assert "k8s-lb-0, k8s-lb-1" in two.problems[0]
    none = report(first | {"holds_vip": False, "vrrp": second["vrrp"]}, second)
    assert none.problems == ["no load balancer holds the VIP"]


def test_the_holder_is_reported_with_its_time_as_holder(first: dict[str, Any], second: dict[str, Any]):
    assert report(first, second).holders == {"k8s-lb-0": datetime.fromtimestamp(NOW - 800, UTC)}
    # A killed keepalived leaves the VIP behind, and the next one has not reported a state yet.
    assert report(first | {"vrrp": None}, second).holders == {"k8s-lb-0": None}


@pytest.mark.parametrize(
    ("left", "expected"),
    [(15 * DAY, None), (13 * DAY, "expires in 13 days"), (3600, "expires in 0 days"), (-1, "has expired")],
)
def test_a_certificate_that_expires_soon_is_one_problem_of_the_pair(
    first: dict[str, Any], second: dict[str, Any], left: int, expected: str | None
):
    for host in (first, second):
        host["certificates"]["k8s-cp-0"] = {"pem": certificate(expires=NOW + left)}
    found = report(first, second)
    assert found.certificates == {"k8s-cp-0": datetime.fromtimestamp(NOW + left, UTC)}
    assert found.healthy == (expected is None)
    assert [expected in problem for problem in found.problems if expected] == ([True] if expected else [])


def test_a_ca_that_ends_before_its_certificates_is_the_date_of_all(first: dict[str, Any], second: dict[str, Any]):
    found = report(first | {"ca_expires": NOW + 9 * DAY}, second | {"ca_expires": NOW + 9 * DAY})
    assert found.certificates == {"k8s-cp-0": datetime.fromtimestamp(NOW + 9 * DAY, UTC)}
    (problem,) = found.problems
    assert "expires in 9 days" in problem
    assert "the CA" in problem


@pytest.mark.parametrize("shown", [{"error": "Connection refused"}, {"pem": "no certificate"}])
def test_an_unavailable_certificate_is_not_a_problem(
    first: dict[str, Any], second: dict[str, Any], shown: dict[str, str]
):
    first["certificates"]["k8s-cp-0"] = shown
    found = report(first, second)
    assert found.healthy, "HAProxy's checks say whether the API server is well"
    assert found.hosts["k8s-lb-0"].state
    assert found.hosts["k8s-lb-0"].state.certificates["k8s-cp-0"].error
    assert found.certificates.keys() == {"k8s-cp-0"}, "the other load balancer's"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"reboot": {"required": True, "packages": ["libc6", "dbus"], "newer_kernel": None}},
            "reboot required (libc6, dbus)",
        ),
        (
            {"reboot": {"required": False, "packages": [], "newer_kernel": "6.1.0-32-amd64"}},
            "6.1.0-32-amd64 is installed",
        ),
        ({"clock_difference": 2.5}, "its clock is 2.5 s ahead of this machine's"),
        ({"clock_difference": -61.0}, "its clock is 61.0 s behind this machine's"),
        ({"locked_by": "ada on desk, drill, since 2027-01-15"}, "in use by ada on desk, drill"),
    ],
)
def test_notes_do_not_make_a_pair_unhealthy(
    first: dict[str, Any], second: dict[str, Any], change: dict[str, Any], expected: str
):
    found = report(first, second | change)
    assert found.healthy
    (note,) = found.hosts["k8s-lb-1"].notes
    assert expected in note
    assert found.hosts["k8s-lb-0"].notes == []


def test_the_cloud_s_view_of_a_host_that_is_down_follows_the_reason(first: dict[str, Any]):
    states = {"k8s-lb-0": HostState.model_validate(first), "k8s-lb-1": "TimeoutError"}
    found = compare_with_applied("dev", ADDRESSES, DIGESTS, states, {"k8s-lb-1": "its instance is SHUTOFF"})
    assert found.hosts["k8s-lb-1"].problems == ["not reachable: TimeoutError", "its instance is SHUTOFF"]


def test_no_digest_is_shown(first: dict[str, Any], second: dict[str, Any]):
    assert "digest" not in report(first, second).model_dump_json()
