"""The whole program on a real cloud: built, changed, broken, continued, destroyed.

The tests are one story and run in the order of the file; each leaves the system whole.
"""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Any

import asyncssh
import openstack
import pytest

from dev.demo.failover import Failover, Faults
from dev.lab.progress import console
from dev.lab_stack import CLOUD, Change, Outputs, Stack, StackError, environment
from dev.standin.apiserver import BACKEND_HEADER
from dev.standin.certificate import self_signed
from dev.standin.hosts import Health, StandIns
from model.rendering import HostFile, LoadBalancerHost, configure_script, load_balancer_files
from model.timers import PROFILES, Profile
from operate.hosts.pair import wait_for
from operate.hosts.ssh import Access
from operate.probe import Probe
from operate.stack.files import ROOT
from program.holder import answering_load_balancer

CLUSTER = "e2e"
TIMERS = PROFILES[Profile.DEFAULT]
# Generous bounds, for a busy machine; what was measured is printed. Advertisements that are missing take longest to be
# noticed.
FAILOVER_SECONDS = TIMERS.master_down_interval / 1000 + 2
# The gratuitous ARP that a holder sends as long as it holds the VIP (vrrp_garp_master_refresh).
ANNOUNCEMENT_SECONDS = 5.0
# A move of the VIP that was told costs those requests that are under way.
PLANNED_MOVE_SECONDS = 0.5
# Where nothing may be dropped a request has this long, for both cores may be booting instances meanwhile.
PATIENCE_SECONDS = 2.0


class System:
    """The stack under test and what the tests ask of it."""

    def __init__(self) -> None:
        self.stack = Stack("lab-e2e", {"clusterName": CLUSTER, "controlPlaneCount": 1, "workerCount": 0})
        self.config: dict[str, object] = {}
        self.router_id = 51
        self.outputs: Outputs
        self.access: Access

    def up(self, **config: object) -> list[Change]:
        """Bring it up with a change that lasts."""
        began = time.monotonic()
        changes = [*self.stack.up(self.config | config)]
        self.config |= config
        self.outputs, self.access = self.stack.outputs(), self.stack.access()
        console.print(f"up took {time.monotonic() - began:.1f} s and changed {len(changes)} resources")
        return changes

    @property
    def pair(self) -> Faults:
        return Faults(self.outputs, self.access)

    def stand_ins(self) -> StandIns:
        return StandIns(self.access, self.outputs.control_plane, self.outputs.vip)

    def status(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """What `make status` prints, and its exit status."""
        return subprocess.run(
            [ROOT / "ha", "status", "--stack", self.stack.name, *arguments],
            cwd=ROOT,
            env=os.environ | environment() | env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def holder_and_standby(self) -> tuple[str, str]:
        """Wait for exactly one holder; its name, and the other's."""
        holders: list[str] = []

        def one() -> bool:
            holders[:] = self.holders()
            return len(holders) == 1

        wait_for("one load balancer holds the VIP", one, 30)
        (holder,) = holders
        (standby,) = self.outputs.load_balancers.keys() - {holder}
        return holder, standby

    def run(self, host: str, command: str, stdin: str = "") -> asyncssh.SSHCompletedProcess:
        """Run a command on a load balancer, whatever its exit code."""

        async def run() -> asyncssh.SSHCompletedProcess:
            async with self.access.connect(self.outputs.load_balancers[host]) as connection:
                return await connection.run(command, input=stdin, check=False, timeout=120)

        return asyncio.run(run())

    def holders(self) -> list[str]:
        """The load balancers that have the VIP on an interface."""
        show = f"ip -oneline address show to {self.outputs.vip}/32"
        return [name for name in self.outputs.load_balancers if str(self.run(name, show).stdout).strip()]

    def load_balancer(self, name: str) -> LoadBalancerHost:
        """What the program renders a load balancer's files from."""
        outputs = self.outputs
        (peer,) = (address for other, address in outputs.load_balancers.items() if other != name)
        return LoadBalancerHost(
            name=name,
            address=IPv4Address(outputs.load_balancers[name]),
            peer_address=IPv4Address(peer),
            interface="eth0",
            vip=IPv4Address(outputs.vip),
            api_servers=tuple((host, IPv4Address(address)) for host, address in outputs.control_plane.items()),
            vrrp_router_id=self.router_id,
            vrrp_password="",
            timers=TIMERS,
            api_ca_certificate="",
            api_client_certificate="",
        )


def left_in_the_cloud() -> list[str]:
    """Everything in the cloud that has the cluster's name."""
    cloud: Any = openstack.connect(cloud=CLOUD)
    everything = [
        *cloud.compute.servers(),
        *cloud.compute.server_groups(),
        *cloud.compute.keypairs(),
        *cloud.network.ports(),
        *cloud.network.security_groups(),
    ]
    return [
        f"{type(it).__name__} {it.name}" for it in everything if it.name == CLUSTER or it.name.startswith(f"{CLUSTER}-")
    ]


@pytest.fixture(scope="module")
def system() -> Generator[System]:
    system = System()
    # What an earlier run, which was killed, has left; cancelled, for its lock may be there still.
    system.stack.destroy()
    assert left_in_the_cloud() == []
    system.up()
    yield system
    system.stack.destroy()


@contextmanager
def probed(system: System) -> Generator[Probe]:
    """A probe with patience runs meanwhile; what it saw is printed."""
    with Probe(system.outputs.endpoint, timeout=PATIENCE_SECONDS, limit=600) as probe:
        yield probe
    console.print(probe.report().render())


@contextmanager
def undisturbed(system: System) -> Generator[None]:
    """No request fails meanwhile. Up to one in a hundred may be late, which is the busy machine's doing."""
    with probed(system) as probe:
        yield
    report = probe.report()
    late = report.reasons.get("TimeoutError", 0)
    assert report.failures == late
    assert late <= report.requests / 100


def failed_over(system: System, failover: Failover, *, within: float = FAILOVER_SECONDS) -> None:
    """The fault cost less than is promised, and moved the VIP, which stays where it went."""
    console.print(failover.report.render())
    assert failover.report.longest_gap <= within + failover.report.longest_stall
    assert failover.after != failover.before
    assert system.holder_and_standby() == (failover.after, failover.before)


def test_from_nothing_the_load_balancers_are_up_and_say_that_no_api_server_is(system: System):
    outputs = system.outputs
    assert answering_load_balancer(outputs.vip) in outputs.load_balancers
    assert len(system.holders()) == 1
    ready = system.run("e2e-lb-0", "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8404/readyz")
    assert ready.stdout == "503"


def test_what_the_issue_names_is_on_the_hosts(system: System):
    for name in system.outputs.load_balancers:
        checks = {
            "systemctl is-active firewalld haproxy ha-api-watchdog keepalived": "\n".join(["active"] * 4),
            "systemctl is-enabled firewalld haproxy ha-api-watchdog keepalived": "\n".join(["enabled"] * 4),
            "cat /run/ha-api/haproxy": "0",
            "sudo firewall-cmd --get-zone-of-interface=eth0": "public",
            "sudo firewall-cmd --zone=public --list-ports": "6443/tcp 8404/tcp 8405/tcp 9100/tcp",
            "/sbin/sysctl -n net.ipv4.ip_nonlocal_bind": "1",
        }
        for command, expected in checks.items():
            assert str(system.run(name, command).stdout).strip() == expected, command
        rule = str(system.run(name, "sudo firewall-cmd --zone=public --list-rich-rules").stdout)
        assert 'protocol value="112" accept' in rule


def test_a_second_preview_has_no_changes(system: System):
    began = time.monotonic()
    assert [*system.stack.preview(system.config, expect_no_changes=True)] == []
    console.print(f"a preview without changes took {time.monotonic() - began:.1f} s")


def test_the_vip_answers_once_there_is_an_api_server(system: System):
    system.stand_ins().install()
    with Probe(system.outputs.endpoint, limit=60, backend_header=BACKEND_HEADER) as probe:
        wait_for("the VIP answers", lambda: probe.steady >= 2, 60)
    assert set(probe.report().backends) == {"e2e-cp-0"}


def test_status_finds_nothing_wrong_after_an_up(system: System):
    found = system.status()
    console.print(found.stdout)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "holds it" in found.stdout


def test_growing_the_control_plane_touches_the_configuration_and_drops_nothing(system: System):
    with undisturbed(system):
        changes = system.up(controlPlaneCount=3)
    updated = {change.name for change in changes if change.op == "update"}
    assert updated == {"e2e-lb-0-configure", "e2e-lb-1-configure"}
    # The proof is made again, and it alone is replaced.
    replaced = {change.name for change in changes if "replace" in change.op or "delete" in change.op}
    assert replaced == {"e2e-lb-0-prove", "e2e-lb-1-prove"}
    created = {change.name for change in changes if change.op == "create"}
    assert created == {f"e2e-cp-{i}{part}" for i in (1, 2) for part in ("", "-host-key", "-prepare")}
    system.stand_ins().install()
    with Probe(system.outputs.endpoint, limit=60, backend_header=BACKEND_HEADER) as probe:
        wait_for("all API servers answer", lambda: len(probe.report().backends) == 3, 60)


def test_a_new_client_network_is_one_rule_and_nothing_else(system: System):
    with undisturbed(system):
        changes = system.up(apiAllowedCidrs=["198.18.1.1/32", "198.18.0.1/32"])
    assert [(change.op, change.name) for change in changes] == [("create", "e2e-lb-api-from-198.18.0.1/32")]


def test_an_api_server_that_fails_is_taken_out_and_comes_back(system: System):
    stand_ins = system.stand_ins()
    stand_ins.set_health(Health.FAILING, ["e2e-cp-0"])
    time.sleep(5)
    with Probe(system.outputs.endpoint, limit=60, backend_header=BACKEND_HEADER) as probe:
        wait_for("the others answer", lambda: probe.steady >= 5, 30)
    assert set(probe.report().backends) == {"e2e-cp-1", "e2e-cp-2"}
    stand_ins.set_health(Health.HEALTHY, ["e2e-cp-0"])
    with Probe(system.outputs.endpoint, limit=60, backend_header=BACKEND_HEADER) as probe:
        wait_for("all API servers answer", lambda: len(probe.report().backends) == 3, 30)


def test_all_api_servers_down_does_not_move_the_vip(system: System):
    before = system.holders()
    stand_ins = system.stand_ins()
    stand_ins.stop()
    time.sleep(5)
    assert system.holders() == before
    stand_ins.start()
    with Probe(system.outputs.endpoint, limit=60, backend_header=BACKEND_HEADER) as probe:
        wait_for("all API servers answer", lambda: len(probe.report().backends) == 3, 30)


def test_an_api_server_is_killed_and_the_others_take_its_requests(system: System):
    stand_ins = system.stand_ins()
    with probed(system) as probe:
        wait_for("the VIP answers", lambda: probe.steady >= 2, 60)
        probe.mark("e2e-cp-1 is killed")
        stand_ins.kill(["e2e-cp-1"])
        time.sleep(5)
        probe.mark("e2e-cp-1 is started")
        stand_ins.start(["e2e-cp-1"])
        time.sleep(5)
    report = probe.report()
    # Those that it had taken are lost.
    assert report.failures <= report.requests / 50
    assert report.longest_gap <= 1 + report.longest_stall
    with Probe(system.outputs.endpoint, limit=60, backend_header=BACKEND_HEADER) as probe:
        wait_for("all API servers answer", lambda: len(probe.report().backends) == 3, 30)


def test_haproxy_is_killed(system: System):
    failed_over(system, system.pair.kill_haproxy_of_holder())


def test_haproxy_hangs(system: System):
    failed_over(system, system.pair.hang_haproxy_of_holder())


def test_keepalived_is_killed_with_all_its_processes(system: System):
    # It leaves the VIP behind, and HAProxy goes on serving it until the other has taken over.
    failed_over(system, system.pair.kill_keepalived_of_holder(), within=PLANNED_MOVE_SECONDS)


def test_an_instance_that_is_shut_down_says_goodbye_and_one_that_is_cut_off_cannot(system: System):
    stopped = system.pair.stop_instance_of_holder()
    failed_over(system, stopped, within=PLANNED_MOVE_SECONDS)
    cut_off = system.pair.cut_off_holder()
    console.print(cut_off.report.render())
    assert cut_off.report.longest_gap <= FAILOVER_SECONDS + cut_off.report.longest_stall
    assert stopped.report.longest_gap - stopped.report.longest_stall < cut_off.report.longest_gap
    assert cut_off.after != cut_off.before
    # Both held it meanwhile; of two equals the one with the higher address keeps it (RFC 5798, 6.4.3).
    system.holder_and_standby()


def test_status_tells_that_a_host_is_down_and_ends(system: System):
    _, standby = system.holder_and_standby()
    with undisturbed(system):
        system.pair.stop(standby)
        try:
            began = time.monotonic()
            found = system.status()
            console.print(found.stdout)
            console.print(f"status with a host down took {time.monotonic() - began:.1f} s")
        finally:
            system.pair.start(standby)
            system.pair.wait_until_whole()
    assert found.returncode == 1
    assert f"{standby}: not reachable" in found.stdout
    wait_for("all is whole again", lambda: system.status().returncode == 0, 60)


def test_what_was_changed_by_hand_is_told_and_put_right(system: System):
    holder, standby = system.holder_and_standby()
    system.run(standby, "echo '# by hand' | sudo tee --append /etc/keepalived/keepalived.conf")
    system.run(standby, "sudo rm /etc/sysctl.d/60-ha-api.conf")
    system.run(holder, "sudo chmod 0666 /etc/haproxy/haproxy.cfg")
    found = system.status()
    console.print(found.stdout)
    assert found.returncode == 1
    for told in (
        f"{standby}: /etc/keepalived/keepalived.conf is edited manually",
        f"{standby}: /etc/sysctl.d/60-ha-api.conf is missing",
        f"{holder}: /etc/haproxy/haproxy.cfg is mode or owner changed",
    ):
        assert told in " ".join(found.stdout.split())
    with undisturbed(system):
        reapplied = system.status("--reapply", PULUMI_SKIP_CONFIRMATIONS="true")
    assert reapplied.returncode == 0, reapplied.stdout + reapplied.stderr
    found = system.status()
    assert found.returncode == 0, found.stdout + found.stderr
    assert [*system.stack.preview(system.config, expect_no_changes=True)] == []
    assert system.holder_and_standby() == (holder, standby)


# Not `fast`, with which a machine that is only busy looks dead.
@pytest.mark.parametrize("profile", ["steady", "default"])
def test_other_timers_are_rolled_out_one_host_after_the_other_and_drop_nothing(system: System, profile: str):
    holder, standby = system.holder_and_standby()
    with undisturbed(system):
        changes = system.up(failoverProfile=profile)
    assert [change.name for change in changes if change.op == "update"] == [
        f"{standby}-configure", f"{holder}-configure",
    ]  # fmt: skip
    assert system.holder_and_standby() == (holder, standby)
    assert system.status().returncode == 0


def test_another_router_id_leaves_the_vip_answering(system: System):
    """Neither understands the other until both have it: both hold the VIP for a while, and one is left.

    Clients that went to the other one meanwhile are lost until the one that is left announces itself again.
    """
    with probed(system) as probe:
        system.up(vrrpRouterId=52)
    system.router_id = 52
    assert probe.report().longest_gap <= ANNOUNCEMENT_SECONDS + FAILOVER_SECONDS + probe.report().longest_stall
    system.holder_and_standby()
    assert system.status().returncode == 0


def test_a_change_that_loses_all_api_servers_fails_on_the_standby_and_is_put_back_there(system: System):
    holder, standby = system.holder_and_standby()
    stranger = self_signed("not-the-cluster-s-ca", []).certificate.decode()
    began = time.monotonic()
    with undisturbed(system), pytest.raises(StackError) as failed:
        system.up(apiCaCertificate=stranger)
    console.print(f"it failed after {time.monotonic() - began:.1f} s: {failed.value}", markup=False)
    assert f"{standby}: the change was undone, and the old configuration serves" in str(failed.value)
    assert "took all API servers out of service" in str(failed.value)
    assert f"{holder}:" not in str(failed.value)
    found = system.status()
    assert found.returncode == 0, found.stdout + found.stderr
    assert system.holder_and_standby() == (holder, standby)
    assert [*system.stack.preview(system.config, expect_no_changes=True)] == []


@pytest.mark.parametrize("flavor", ["lab.medium", "lab.small"])
def test_both_instances_are_replaced_the_standby_first_with_one_move_of_the_vip(system: System, flavor: str):
    """Twice, for each of the two is the standby once."""
    holder, standby = system.holder_and_standby()
    with probed(system) as probe:
        changes = system.up(loadBalancerFlavor=flavor)
    report = probe.report()
    steps = [(change.op, change.name) for change in changes]
    assert [name for op, name in steps if op == "delete-replaced" and name in (holder, standby)] == [standby, holder]
    assert steps.index(("create-replacement", f"{standby}-configure")) < steps.index(("delete-replaced", holder))
    assert system.holder_and_standby() == (standby, holder)
    late = report.reasons.get("TimeoutError", 0)
    assert report.failures - late <= PLANNED_MOVE_SECONDS * 50
    assert report.longest_gap <= PLANNED_MOVE_SECONDS + report.longest_stall
    found = system.status()
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_worker_is_added_and_touches_nothing_else(system: System):
    changes = system.up(workerCount=1)
    assert {(change.op, change.name) for change in changes} == {
        ("create", name) for name in ("e2e-worker", "e2e-worker-0", "e2e-worker-0-host-key", "e2e-worker-0-prepare")
    }


def refuse(system: System, name: str, file: HostFile) -> str:
    """Have a load balancer configured with one file exchanged; returns what it says."""
    host = system.load_balancer(name)
    files = [file if it.path == file.path else it for it in load_balancer_files(host)]
    result = system.run(name, "sudo -n bash -s", stdin=configure_script(host, files))
    assert result.exit_status == 1, result.stdout
    return str(result.stderr).strip()


def exchanged(system: System, name: str, path: str, old: str, new: str) -> HostFile:
    (file,) = (it for it in load_balancer_files(system.load_balancer(name)) if it.path == path)
    assert old in file.text
    text = file.text.replace(old, new)
    if text != file.text:  # an id of its own, as every text has that is rendered
        text = re.sub(r"X-Configuration-Id \w+", "X-Configuration-Id 0123456789abcdef", text)
    return HostFile(path=path, mode=file.mode, text=text)


HAPROXY_CFG, KEEPALIVED_CONF = "etc/haproxy/haproxy.cfg", "etc/keepalived/keepalived.conf"


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        (HAPROXY_CFG, "balance roundrobin", "balance nonsense", "HAProxy refuses the new configuration"),
        (KEEPALIVED_CONF, "advert_int 0.1", "advert_int x", "keepalived refuses the new configuration"),
        # `haproxy -c` finds nothing wrong with it, but the process cannot load it: SSH has that port.
        (
            HAPROXY_CFG,
            "bind *:8405",
            "bind *:22",
            "the change was undone, and the old configuration serves: HAProxy does",
        ),
        # Loaded and healthy, but nobody reaches an API server through it.
        (HAPROXY_CFG, "bind *:6443", "bind 127.0.0.2:6443", "passes no connection on to it from port 6443"),
    ],
)
def test_a_configuration_that_is_refused_leaves_the_old_one_serving(
    system: System, path: str, old: str, new: str, message: str
):
    _, standby = system.holder_and_standby()
    with undisturbed(system):
        said = refuse(system, standby, exchanged(system, standby, path, old, new))
    console.print(said, markup=False)
    assert message in said
    assert len(said.splitlines()) <= 12
    assert str(system.run(standby, f"sudo cat /{path}").stdout) == exchanged(system, standby, path, old, old).text


def test_a_full_disk_leaves_the_old_configuration_serving(system: System):
    _, standby = system.holder_and_standby()
    # Again and again: what ext4 sets aside while it writes is free again afterwards.
    fill = "dd if=/dev/zero of=/fill bs=64k oflag=append conv=notrunc status=none; sync"
    system.run(standby, f"sudo sh -c 'for turn in 1 2 3; do {fill}; done'")
    try:
        larger = exchanged(system, standby, HAPROXY_CFG, "retries 3", "retries 3\n" + "#" * 100_000)
        said = refuse(system, standby, larger)
    finally:
        system.run(standby, "sudo rm /fill")
    assert "nothing was changed" in said
    assert answering_load_balancer(system.outputs.load_balancers[standby]) == standby


def test_an_archive_that_is_out_of_reach_fails_with_a_reason_and_the_next_up_succeeds(system: System):
    # Nothing listens there: port 9 of the host.
    unreachable = pytest.raises(StackError, match="APT could not reach a package archive")
    with undisturbed(system), unreachable:
        system.up(aptMirror="http://198.18.1.1:9/debian", haproxyBranch="3.0")
    system.up(aptMirror="", haproxyBranch="")


def test_a_host_that_never_answers_ssh_fails_with_a_reason_and_the_next_up_succeeds(system: System):
    system.up(adminCidrs=["198.18.0.1/32"])  # the groups let nobody in from here; no host is asked for that
    with pytest.raises(StackError, match="cannot log in"):
        system.up(workerCount=2, sshTimeout=30)
    system.up(workerCount=2, adminCidrs=["198.18.1.1/32"], sshTimeout=600)
    assert "e2e-worker-1" in system.outputs.workers


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"controlPlaneCount": 4}, "Raft"),
        ({"loadBalancerFlavor": "nonsense"}, "loadBalancerFlavor = 'nonsense'"),
        ({"controlPlaneImage": "nonsense"}, "controlPlaneImage = 'nonsense'"),
        ({"network": "nonsense"}, "network = 'nonsense'"),
        ({"vip": "198.18.1.1"}, "is the gateway"),
        ({"vip": "10.0.0.1"}, "is not in the subnet"),
        ({"vrrpRouterId": 256}, "vrrpRouterId = '256'"),
        ({"clusterName": "$(reboot)"}, "clusterName"),
    ],
)
def test_a_wrong_value_ends_before_anything_is_touched(system: System, config: dict[str, object], message: str):
    with pytest.raises(StackError) as refused:
        system.stack.preview(system.config | config)
    assert message in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_a_vip_that_is_in_use_is_refused(system: System):
    taken = next(iter(system.outputs.control_plane.values()))
    with pytest.raises(StackError, match="is in use by port"):
        system.stack.preview(system.config | {"vip": taken})


def test_an_up_that_was_killed_is_continued(system: System):
    """Killed between two resources' creation; the lock and the half-made are the next run's business."""
    system.stack.preview(system.config | {"workerCount": 3})  # writes the configuration
    process = subprocess.Popen(
        ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--stack", "lab-e2e"],
        cwd=ROOT,
        env=os.environ | environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    for line in process.stdout:
        if "e2e-worker-2-prepare creating" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    system.up(workerCount=3)
    assert "e2e-worker-2" in system.outputs.workers
    assert [*system.stack.preview(system.config, expect_no_changes=True)] == []


def test_shrinking_the_control_plane_drops_nothing(system: System):
    with undisturbed(system):
        changes = system.up(controlPlaneCount=1)
    deleted = {change.name for change in changes if change.op == "delete"}
    assert deleted == {f"e2e-cp-{i}{part}" for i in (1, 2) for part in ("", "-host-key", "-prepare")}
    names = [change.name for change in changes]
    assert all(names.index(f"e2e-lb-{i}-configure") < names.index("e2e-cp-2") for i in (0, 1))


def test_destroy_leaves_nothing_in_the_cloud(system: System):
    began = time.monotonic()
    system.stack.destroy()
    console.print(f"destroy took {time.monotonic() - began:.1f} s")
    assert left_in_the_cloud() == []
