"""etcd's members, by the program that control-plane hosts have: against a stand-in of etcd's JSON gateway."""

import importlib.util
from typing import Any

import pytest

from model.rendering import KUBERNETES_TEMPLATES


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("etcd", KUBERNETES_TEMPLATES / "usr/local/lib/ha-api/etcd.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


etcd = _load()


def member(number: int, **changes: Any) -> dict[str, Any]:
    address = f"198.51.100.2{number}"
    return {
        "ID": f"1000{number}",
        "name": f"k8s-cp-{number}",
        "peerURLs": [f"https://{address}:2380"],
        "clientURLs": [f"https://{address}:2379"],
    } | changes


class StandInGateway:
    """Answers as etcd's JSON gateway; members in `down` do not. The local one is the first."""

    def __init__(self, *members: dict[str, Any]) -> None:
        self.members = list(members)
        self.down: set[str] = set()
        self.removed: list[str] = []
        self.refusals = 0
        self.leader = "10000"

    def ask(self, endpoint: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if endpoint in self.down:
            raise OSError("connection refused")
        if path == "/health":
            return {"health": "true"}
        if path == "/v3/cluster/member/list":
            assert body == {"linearizable": True}
            return {"members": self.members}
        if path == "/v3/maintenance/status":
            return {"leader": self.leader, "header": {"member_id": "10000"}}
        if path == "/v3/maintenance/transfer-leadership":
            assert endpoint == etcd.LOCAL
            assert body
            self.leader = body["targetID"]
            return {}
        assert path == "/v3/cluster/member/remove"
        assert body
        if self.refusals:
            self.refusals -= 1
            raise OSError("etcdserver: unhealthy cluster")
        self.removed.append(body["ID"])
        return {}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> StandInGateway:
    gateway = StandInGateway(*map(member, range(3)))
    monkeypatch.setattr(etcd, "ask", gateway.ask)
    return gateway


def url(number: int) -> str:
    return f"https://198.51.100.2{number}:2379"


def refusal(*arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        etcd.main([*arguments])
    return str(stopped.value)


def test_members_are_listed_with_what_they_are(gateway: StandInGateway, capsys: pytest.CaptureFixture[str]):
    gateway.members[1] |= {"isLearner": True}
    gateway.members[2] = member(2, name="", clientURLs=[])
    etcd.main(["members"])
    assert capsys.readouterr().out.splitlines() == [
        "10000 k8s-cp-0 198.51.100.20 voter leader",
        "10001 k8s-cp-1 198.51.100.21 learner follower",
        "10002 - 198.51.100.22 unstarted unhealthy",
    ]


def test_a_member_that_never_started_is_removed_by_its_address(gateway: StandInGateway):
    gateway.members[2] = member(2, name="", clientURLs=[])
    etcd.main(["--endpoint", url(0), "remove", "198.51.100.22"])
    assert gateway.removed == ["10002"]


def test_a_member_that_is_not_there_needs_no_removal(gateway: StandInGateway):
    etcd.main(["remove", "198.51.100.29"])
    assert gateway.removed == []


def test_a_removal_is_repeated_until_the_members_have_been_connected_for_long_enough(
    gateway: StandInGateway, monkeypatch: pytest.MonkeyPatch
):
    waits: list[float] = []
    monkeypatch.setattr(etcd.time, "sleep", waits.append)
    gateway.refusals = 6
    etcd.main(["remove", "198.51.100.22"])
    assert gateway.removed == ["10002"]
    assert len(waits) == 6


def test_a_removal_that_etcd_goes_on_refusing_fails_with_its_reason(
    gateway: StandInGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(etcd, "REMOVAL_TIMEOUT", 0)
    gateway.refusals = 100
    with pytest.raises(OSError, match="unhealthy cluster"):
        etcd.main(["remove", "198.51.100.22"])
    assert gateway.removed == []


def test_a_leader_yields_to_a_voter_that_is_healthy(gateway: StandInGateway):
    gateway.members.insert(1, member(3, isLearner=True))
    gateway.down = {url(1)}
    etcd.main(["yield"])
    assert gateway.leader == "10002"


def test_a_follower_has_nothing_to_yield(gateway: StandInGateway):
    gateway.leader = "10001"
    etcd.main(["yield"])
    assert gateway.leader == "10001"


def test_a_leader_goes_on_if_nobody_could_follow(gateway: StandInGateway):
    gateway.down = {url(1), url(2)}
    assert "no other etcd member is healthy" in refusal("yield")
    assert gateway.leader == "10000"


def test_the_first_endpoint_that_answers_is_used(gateway: StandInGateway):
    gateway.down = {url(0)}
    etcd.main(["--endpoint", url(0), "--endpoint", url(1), "remove", "198.51.100.22"])
    assert gateway.removed == ["10002"]


def test_every_reason_is_reported_if_no_endpoint_answers(gateway: StandInGateway):
    gateway.down = {url(0), url(1)}
    with pytest.raises(OSError, match=r"198\.51\.100\.20:2379: connection refused; https://198\.51"):
        etcd.main(["--endpoint", url(0), "--endpoint", url(1), "members"])


def test_a_learner_and_a_stranger_are_not_healthy(gateway: StandInGateway):
    etcd.main(["healthy", "198.51.100.20"])
    gateway.members[1] |= {"isLearner": True}
    assert "does not vote" in refusal("healthy", "198.51.100.21")
    assert "does not vote" in refusal("healthy", "198.51.100.29")
    gateway.down = {url(2)}
    assert "does not vote" in refusal("healthy", "198.51.100.22")


def test_one_of_three_can_be_spared(gateway: StandInGateway):
    assert len(gateway.members) == 3
    etcd.main(["spare", "198.51.100.20", "2"])


def test_a_dead_member_can_be_spared(gateway: StandInGateway):
    gateway.down = {url(0)}
    etcd.main(["spare", "198.51.100.20", "2"])


def test_the_majority_cannot_be_spared(gateway: StandInGateway):
    gateway.down = {url(2)}
    problem = refusal("spare", "198.51.100.20", "2")
    assert "1 other etcd members are healthy, and 2 must be; unhealthy: k8s-cp-2" in problem


def test_a_second_one_is_not_spared_before_the_first_is_back(gateway: StandInGateway):
    """One of three was replaced, and has not joined yet: two are left."""
    gateway.members = gateway.members[1:]
    assert "1 other" in refusal("spare", "198.51.100.21", "2")
    # On the way from three to one, two are enough.
    etcd.main(["spare", "198.51.100.21", "1"])


def test_a_learner_does_not_count(gateway: StandInGateway):
    gateway.members[2] |= {"isLearner": True}
    assert "1 other" in refusal("spare", "198.51.100.20", "2")


def test_a_host_that_is_no_member_can_be_spared_whatever_the_others_do(gateway: StandInGateway):
    gateway.down = {url(2)}
    etcd.main(["spare", "198.51.100.29", "2"])
