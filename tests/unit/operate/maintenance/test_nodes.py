"""Which script a node's drain and resume run on which host, and what of its failure is reported."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncssh
import pytest

from operate.hosts.pair import PairError
from operate.hosts.ssh import HostError
from operate.maintenance import nodes
from operate.maintenance.nodes import drain_node, is_node, resume_node
from tests.unit.waiting import wait_until

CONTROL_PLANE = {f"dev-cp-{index}": f"198.51.100.2{index}" for index in range(3)}


class StandInHosts:
    """Runs nothing; remembers what it should have run, by address. Those in `down` refuse connections."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.scripts: dict[str, str] = {}
        self.status = 0
        self.cut = False
        """Whether the connection ends before the script does."""
        self.failing: list[BaseException] = []
        """Raised by the next command."""
        self.all: list[tuple[str, bytes]] = []

    def connect(self, address: str) -> Any:
        hosts = self

        class Connection:
            async def __aenter__(self) -> str:
                if address in hosts.down:
                    raise ConnectionRefusedError("refused")
                return address

            async def __aexit__(self, *_: object) -> None:
                pass

        return Connection()

    async def output(self, address: str, command: str, stdin: bytes, *, seconds: float) -> str:  # noqa: ARG002 - the real one's
        self.scripts[address] = stdin.decode()
        self.all.append((address, stdin))
        if self.cut:
            raise asyncssh.ConnectionLost("gone")
        if self.failing:
            raise self.failing.pop()
        if self.status:
            raise asyncssh.ProcessError({}, command, None, self.status, None, self.status, b"", b"the reason\n")
        return ""


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> StandInHosts:
    hosts = StandInHosts()
    monkeypatch.setattr(nodes, "output", hosts.output)
    monkeypatch.setattr(nodes, "replace", lambda *_, **__: hosts)  # pyright: ignore
    return hosts


def stack(*, version: str | None = "1.37.2", control_plane: dict[str, str] = CONTROL_PLANE) -> Any:
    outputs = SimpleNamespace(
        control_plane=control_plane, workers={"dev-worker-0": "198.51.100.31"}, kubernetes_version=version
    )
    return SimpleNamespace(outputs=outputs, access=None, settings=SimpleNamespace(control_plane_user="debian"))


def test_nodes_are_hosts_of_a_cluster():
    assert is_node(stack(), "dev-cp-1")
    assert is_node(stack(), "dev-worker-0")
    assert not is_node(stack(), "dev-lb-0")
    with pytest.raises(PairError, match="dev-cp-1 is a bare host"):
        is_node(stack(version=None), "dev-cp-1")


def test_a_control_plane_host_is_drained_if_etcd_keeps_its_majority_and_then_yields(hosts: StandInHosts):
    drain_node(stack(), "dev-cp-1", "it's a test")
    script = hosts.scripts.pop(CONTROL_PLANE["dev-cp-1"])
    assert not hosts.scripts
    assert (
        script.index("spare 198.51.100.21 $((2 + others))\n")
        < script.index("drain dev-cp-1")
        < script.index("etcd.py yield")
    )
    assert "it'\"'\"'s a test" in script


def test_the_only_control_plane_host_has_no_majority_without_it(hosts: StandInHosts):
    drain_node(stack(control_plane={"dev-cp-0": "198.51.100.20"}), "dev-cp-0", "a test")
    assert "spare 198.51.100.20 $((1 + others))\n" in hosts.scripts["198.51.100.20"]


def test_a_worker_is_drained_by_the_first_control_plane_host_that_answers(hosts: StandInHosts):
    hosts.down = {CONTROL_PLANE["dev-cp-0"]}
    drain_worker(stack())
    script = hosts.scripts.pop(CONTROL_PLANE["dev-cp-1"])
    assert not hosts.scripts
    assert "drain dev-worker-0" in script
    assert "etcd" not in script


KUBECTL = """
case "$*" in
*" get lease "*)
    asked=$(grep --count " get lease " "${0%/*}/calls")
    # Once, the API server does not answer.
    [ "$asked" != 2 ] || exit 1
    [ "$asked" -lt 4 ] && echo before || echo later ;;
*"metadata.name!="*) printf "$OTHERS" ;;
*"metadata.name="*) printf "$ITSELF" ;;
*"annotations.openstack-ha-api/drained-by}"*) printf "$BY" ;;
*" drain "*) echo "cannot evict" >&2; exit $DRAINS ;;
esac
"""


BLOCK = """
case "$*" in *"$BLOCKS"*) until [ -e "${0%/*}/unblocked" ]; do read -r -t 0.02 _ <> <(:) || true; done ;; esac
"""


def start_on_host(folder: Path, script: str, **environment: str) -> subprocess.Popen[str]:
    """Start a script as on a control-plane host; what it calls is written to a file."""
    for name, text in {"kubectl": KUBECTL, "etcd.py": "", "sleep": ""}.items():
        program = folder / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >>{folder}/calls\n{BLOCK}\n{text}\n')
        program.chmod(0o755)
    (folder / "script").write_text(script.replace("/usr/local/lib/ha-api/", ""))
    return subprocess.Popen(
        # Through a pipe, as from sshd.
        ["bash", "-c", 'cat "$1" | bash -s', "bash", folder / "script"],
        env={
            "PATH": f"{folder}:/usr/bin:/bin",
            "OTHERS": "",
            "ITSELF": "",
            "BY": "",
            "DRAINS": "0",
            "BLOCKS": "nothing",
        }
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return re.sub(r"--kubeconfig=\S+ ", "", file.read_text()).splitlines() if file.exists() else []


@pytest.mark.parametrize(
    ("environment", "spare", "last"),
    [
        ({}, 2, "etcd.py yield"),
        ({"OTHERS": "node/dev-cp-2\n"}, 3, "etcd.py yield"),
        ({"DRAINS": "1"}, 2, "kubectl uncordon dev-cp-1"),
        ({"DRAINS": "1", "ITSELF": "node/dev-cp-1\n"}, 2, "kubectl drain dev-cp-1 --ignore-daemonsets"),
    ],
    ids=["alone", "beside one that is drained", "refused", "refused, and cordoned before"],
)
def test_a_drain_counts_drained_members_as_gone_and_undoes_itself(
    hosts: StandInHosts, tmp_path: Path, environment: dict[str, str], spare: int, last: str
):
    drain_node(stack(), "dev-cp-1", "a test")
    with start_on_host(tmp_path, hosts.scripts[CONTROL_PLANE["dev-cp-1"]], **environment) as running:
        _, said = running.communicate()
    assert f"etcd.py spare 198.51.100.21 {spare}" in calls(tmp_path)
    assert calls(tmp_path)[-1].startswith(last)
    assert (running.returncode == 0) is ("DRAINS" not in environment)
    assert "DRAINS" not in environment or "cannot evict" in said


def test_a_node_that_is_drained_already_stays_its_first_operator_s(hosts: StandInHosts, tmp_path: Path):
    drain_node(stack(), "dev-cp-1", "a test")
    (_, script) = hosts.all[0]
    with start_on_host(tmp_path, script.decode(), ITSELF="node/dev-cp-1\n", BY="ada on desk, since today") as running:
        _, said = running.communicate()
    assert running.returncode == 1
    assert said == "already drained by ada on desk, since today: `./ha resume dev-cp-1` first\n"
    assert all(" get " in call for call in calls(tmp_path))


INTERRUPTIONS = {
    "Ctrl-C": KeyboardInterrupt(),
    "time-out": asyncssh.TimeoutError({}, "bash", None, None, None, None, b"", b""),
    "lost connection": asyncssh.ConnectionLost("lost"),
}


@pytest.mark.parametrize(
    ("blocks", "drained"),
    [("metadata.name!=", False), ("spare", False), (" drain ", True), ("annotate", True), ("yield", True)],
)
@pytest.mark.parametrize("interruption", INTERRUPTIONS.values(), ids=INTERRUPTIONS.keys())
def test_an_interrupted_drain_ends_on_the_host_too_and_undoes_itself(
    hosts: StandInHosts, tmp_path: Path, blocks: str, *, drained: bool, interruption: BaseException
):
    # No other process here has this name: `pkill` looks at all of them.
    name = f"test-{os.getpid()}-cp-1"
    hosts.failing = [interruption]
    with pytest.raises((KeyboardInterrupt, HostError)):
        drain_node(stack(control_plane={name: "198.51.100.21"}), name, "a test")
    (_, script), (_, end) = hosts.all
    with start_on_host(tmp_path, script.decode(), BLOCKS=blocks) as running:
        wait_until("it is there", lambda: any(blocks in f"{call} " for call in calls(tmp_path)))
        subprocess.run(["bash", "-s"], input=end, check=True)
        (tmp_path / "unblocked").touch()
        running.communicate()
    assert running.returncode != 0
    assert any(" drain " in call for call in calls(tmp_path)) is drained
    assert (calls(tmp_path)[-1] == f"kubectl uncordon {name}") is drained


def test_a_worker_s_interrupted_drain_is_ended_wherever_it_may_run(hosts: StandInHosts):
    hosts.failing = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        drain_worker(stack())
    assert [address for address, script in hosts.all if b"pkill" in script] == [*CONTROL_PLANE.values()]


def drain_worker(stack: Any) -> None:
    drain_node(stack, "dev-worker-0", "a test")


def resume_worker(stack: Any) -> None:
    resume_node(stack, "dev-worker-0")


@pytest.mark.parametrize("act", [drain_worker, resume_worker])
def test_a_refusal_is_reported_and_no_other_host_is_tried(hosts: StandInHosts, act: Callable[[Any], None]):
    hosts.status = 1
    with pytest.raises(HostError, match=r"dev-worker-0: .*the reason"):
        act(stack())
    assert len(hosts.scripts) == 1


def test_no_other_host_is_tried_if_the_script_may_still_be_running_on_the_first(hosts: StandInHosts):
    hosts.cut = True
    with pytest.raises(HostError, match="dev-worker-0: ConnectionLost: gone"):
        drain_worker(stack())
    assert [address for address, script in hosts.all if b"pkill" not in script] == [CONTROL_PLANE["dev-cp-0"]]


def test_every_host_s_reason_is_reported_if_none_answers(hosts: StandInHosts):
    hosts.down = {*CONTROL_PLANE.values()}
    with pytest.raises(HostError, match=r"(?s)dev-cp-0: .*dev-cp-1: .*dev-cp-2: "):
        resume_worker(stack())


def test_a_control_plane_host_is_resumed_when_its_member_is_healthy(hosts: StandInHosts):
    resume_node(stack(), "dev-cp-1")
    script = hosts.scripts[CONTROL_PLANE["dev-cp-1"]]
    assert (
        script.index("condition=Ready node/dev-cp-1") < script.index("healthy 198.51.100.21") < script.index("uncordon")
    )


def test_a_node_has_not_renewed_its_lease_because_the_api_does_not_answer(hosts: StandInHosts, tmp_path: Path):
    resume_node(stack(), "dev-worker-0")
    with start_on_host(tmp_path, hosts.scripts[CONTROL_PLANE["dev-cp-0"]]) as running:
        _, said = running.communicate()
    assert running.returncode == 0, said
    *asked, _, _, last = ("lease" if " get lease " in call else call for call in calls(tmp_path))
    assert asked == ["lease", "lease", "sleep 1", "lease", "sleep 1", "lease"]
    assert last == "kubectl uncordon dev-worker-0"
