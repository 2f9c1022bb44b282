"""The whole program on a real cloud: built, changed, refused, continued after a kill.

The tests are one story and run in the order of the file; each leaves the system whole.
"""

import re
import time
from ipaddress import IPv4Address
from typing import Any

import openstack
import pytest

from dev.lab.progress import console
from dev.lab_stack import StackError
from dev.standin.apiserver import BACKEND_HEADER
from dev.standin.certificate import self_signed
from dev.standin.hosts import Health
from model.load_balancers import LoadBalancerHost, LoadBalancerPair
from model.rendering import HostFile, configure_script, load_balancer_files
from model.timers import PROFILES, Profile
from operate.hosts.pair import wait_for
from operate.probe import Probe
from program.holder import answering_load_balancer
from tests.e2e.harness import System

TIMERS = PROFILES[Profile.DEFAULT]
# Generous bounds, for a busy machine; what was measured is printed.
FAILOVER_SECONDS = TIMERS.master_down_interval / 1000 + 2
# The gratuitous ARP that a holder sends as long as it holds the VIP (vrrp_garp_master_refresh).
ANNOUNCEMENT_SECONDS = 5.0
# A planned move of the VIP costs the requests that are under way, at most those of half a second.
LOST_IN_A_MOVE = 25


def test_after_the_first_up_the_load_balancers_run_and_report_that_no_api_server_is_up(system: System):
    outputs = system.outputs
    assert answering_load_balancer(outputs.vip) in outputs.load_balancers
    assert len(system.holders()) == 1
    ready = system.run("e2e-lb-0", "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8404/readyz")
    assert ready.stdout == "503"


def test_services_firewall_and_kernel_settings_are_in_place(system: System):
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
    assert system.has_no_changes()
    console.print(f"a preview without changes took {time.monotonic() - began:.1f} s")


def test_the_vip_answers_once_there_is_an_api_server(system: System):
    system.serve()


def test_status_finds_nothing_wrong_after_an_up(system: System):
    assert "holds it" in system.ha("status").words


def test_growing_the_control_plane_changes_the_standby_s_configuration_first_and_drops_nothing(system: System):
    holder, standby = system.holder_and_standby()
    with system.undisturbed():
        changes = system.up(controlPlaneCount=3)
        system.serve()
    ran = [change.name for change in changes if change.op == "create-replacement"]
    assert ran[:2] == [f"{standby}-configure", f"{holder}-configure"]
    assert "update" not in {change.op for change in changes}
    # Steps that run again.
    replaced = {change.name for change in changes if "replace" in change.op or "delete" in change.op}
    assert replaced == {f"e2e-lb-{i}-{step}" for i in (0, 1) for step in ("configure", "prove")}
    created = {change.name for change in changes if change.op == "create"}
    assert created == {f"e2e-cp-{i}{part}" for i in (1, 2) for part in ("", "-host-key", "-prepare")}


def test_a_new_client_network_and_a_worker_touch_nothing_else(system: System):
    with system.undisturbed():
        changes = system.up(apiAllowedCidrs=["198.18.1.1/32", "198.18.0.1/32"], workerCount=1)
    worker = ("e2e-worker", "e2e-worker-0", "e2e-worker-0-host-key", "e2e-worker-0-prepare")
    assert {(change.op, change.name) for change in changes} == {
        ("create", name) for name in ("e2e-lb-api-from-198.18.0.1/32", *worker)
    }


def test_a_failing_api_server_is_taken_out_and_comes_back(system: System):
    stand_ins = system.stand_ins()
    stand_ins.set_health(Health.FAILING, ["e2e-cp-0"])
    time.sleep(3)
    with Probe(system.outputs.endpoint, limit=60, backend_header=BACKEND_HEADER) as probe:
        wait_for("the others answer", lambda: probe.steady >= 3, 30)
    assert set(probe.report().backends) == {"e2e-cp-1", "e2e-cp-2"}
    stand_ins.set_health(Health.HEALTHY, ["e2e-cp-0"])
    system.wait_for_all_backends()


def test_all_api_servers_down_does_not_move_the_vip(system: System):
    before = system.holders()
    stand_ins = system.stand_ins()
    stand_ins.stop()
    time.sleep(5)
    assert system.holders() == before
    stand_ins.start()
    system.wait_for_all_backends()


@pytest.mark.measures
def test_other_api_servers_take_the_requests_of_a_killed_one(system: System):
    stand_ins = system.stand_ins()
    with system.probed() as probe:
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
    system.wait_for_all_backends()


def test_manual_changes_are_reported_and_reapply_fixes_them(system: System):
    holder, standby = system.holder_and_standby()
    system.run(standby, "echo '# by hand' | sudo tee --append /etc/keepalived/keepalived.conf")
    system.run(standby, "sudo rm /etc/sysctl.d/60-ha-api.conf")
    system.run(holder, "sudo chmod 0666 /etc/haproxy/haproxy.cfg")
    found = system.ha("status", status=1)
    for expected in (
        f"{standby}: /etc/keepalived/keepalived.conf is edited",
        f"{standby}: /etc/sysctl.d/60-ha-api.conf is missing",
        f"{holder}: /etc/haproxy/haproxy.cfg is mode or owner changed",
    ):
        assert expected in found.words
    with system.undisturbed():
        system.ha("status", "--reapply", "--yes")
    system.ha("status")
    assert system.has_no_changes()
    assert system.holder_and_standby() == (holder, standby)


@pytest.mark.extended
# Not `fast`, with which a machine that is only busy looks dead.
@pytest.mark.parametrize("profile", ["steady", "default"])
def test_new_timers_are_rolled_out_to_the_standby_first_and_drop_nothing(system: System, profile: str):
    holder, standby = system.holder_and_standby()
    with system.undisturbed():
        changes = system.up(failoverProfile=profile)
    ran = [change.name for change in changes if change.op == "create-replacement"]
    assert ran[:2] == [f"{standby}-configure", f"{holder}-configure"]
    assert sorted(ran[2:]) == ["e2e-lb-0-prove", "e2e-lb-1-prove"]
    assert system.holder_and_standby() == (holder, standby)
    system.ha("status")


def test_a_change_that_loses_all_api_servers_fails_on_the_standby_and_is_rolled_back_there(system: System):
    holder, standby = system.holder_and_standby()
    stranger = self_signed("not-the-cluster-s-ca", []).certificate.decode()
    began = time.monotonic()
    with system.undisturbed(), pytest.raises(StackError) as failed:
        system.up(apiCaCertificate=stranger)
    console.print(f"it failed after {time.monotonic() - began:.1f} s: {failed.value}", markup=False)
    assert f"{standby}: the change was rolled back, and the old configuration serves" in str(failed.value)
    assert "took all API servers out of service" in str(failed.value)
    assert f"{holder}:" not in str(failed.value)
    system.ha("status")
    assert system.holder_and_standby() == (holder, standby)
    # With the old configuration the step runs once more, whatever the failed run has left.
    with system.undisturbed():
        again = [change.name for change in system.up() if change.op in ("create", "create-replacement")]
    assert again[0] == f"{standby}-configure"
    assert f"{holder}-configure" not in again
    assert system.has_no_changes()


@pytest.mark.extended
@pytest.mark.measures
def test_another_router_id_leaves_the_vip_answering(system: System):
    """Neither understands the other until both have it: both hold the VIP for a while, and one is left.

    Clients that went to the other one meanwhile are lost until the one that is left announces itself again.
    """
    with system.probed() as probe:
        system.up(vrrpRouterId=52)
    assert probe.report().longest_gap <= ANNOUNCEMENT_SECONDS + FAILOVER_SECONDS + probe.report().longest_stall
    system.holder_and_standby()
    system.ha("status")


def test_both_instances_are_replaced_the_standby_first_with_one_move_of_the_vip(system: System):
    """Whichever of the two is the standby: that the order follows the holder is a unit test."""
    holder, standby = system.holder_and_standby()
    with system.undisturbed(lost=LOST_IN_A_MOVE):
        changes = system.up(loadBalancerFlavor="lab.medium")
    steps = [(change.op, change.name) for change in changes]
    assert [name for op, name in steps if op == "delete-replaced" and name in (holder, standby)] == [standby, holder]
    assert steps.index(("create-replacement", f"{standby}-configure")) < steps.index(("delete-replaced", holder))
    assert system.holder_and_standby() == (standby, holder)
    system.ha("status")


@pytest.mark.extended
def test_a_worker_whose_flavor_is_gone_keeps_it_and_its_network_plugin_s_address_pairs(system: System):
    admin: Any = openstack.connect(cloud="lab-admin")
    small = next(it for it in admin.compute.flavors() if it.name == "lab.small")
    size = {key: small[key] for key in ("ram", "vcpus", "disk")}
    if left := admin.compute.find_flavor("e2e-retired"):  # by a run that was killed
        admin.compute.delete_flavor(left)
    flavor = admin.compute.create_flavor(name="e2e-retired", **size)
    # The worker of the tests before has another one.
    system.up(workerCount=0)
    try:
        system.up(workerCount=1, workerFlavor=flavor.name)
        name = "e2e-worker-0"
        (port,) = admin.network.ports(name=name)
        pods = [{"ip_address": "10.244.0.0/16", "mac_address": port.mac_address}]
        admin.network.update_port(port, allowed_address_pairs=pods)
        admin.compute.delete_flavor(flavor)

        done = system.pulumi("up", "--yes", "--skip-preview", "--refresh")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "workerFlavor = 'e2e-retired'" in done.words
        assert system.has_no_changes()
        assert admin.network.get_port(port.id).allowed_address_pairs == pods
        # What could not be created again is not deleted.
        assert system.pulumi("up", "--yes", "--skip-preview", "--target-replace", f"**:Instance::{name}").returncode
        assert admin.network.get_port(port.id).device_id == port.device_id
    finally:
        admin.compute.delete_flavor(flavor, ignore_missing=True)
        system.up(workerCount=0, workerFlavor=small.name)


def load_balancer(system: System, name: str) -> LoadBalancerHost:
    """What the program renders a load balancer's files from."""
    outputs = system.outputs
    return LoadBalancerHost(
        name=name,
        address=IPv4Address(outputs.load_balancers[name]),
        peer_address=IPv4Address(outputs.load_balancers[system.pair.peer_of(name)]),
        interface="eth0",
        pair=LoadBalancerPair(
            vip=IPv4Address(outputs.vip),
            api_servers=tuple((host, IPv4Address(address)) for host, address in outputs.control_plane.items()),
            vrrp_router_id=int(str(system.config.get("vrrpRouterId", 51))),
            timers=TIMERS,
        ),
    )


def refuse(system: System, name: str, file: HostFile) -> str:
    """Have a load balancer configured with one file exchanged; returns what it says."""
    host = load_balancer(system, name)
    files = [file if it.path == file.path else it for it in load_balancer_files(host)]
    result = system.run(name, "sudo -n bash -s", stdin=configure_script(host, files))
    assert result.exit_status == 1, result.stdout
    return str(result.stderr).strip()


def exchanged(system: System, name: str, path: str, old: str, new: str) -> HostFile:
    (file,) = (it for it in load_balancer_files(load_balancer(system, name)) if it.path == path)
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
            "the change was rolled back, and the old configuration serves: HAProxy does",
        ),
        # Loaded and healthy, but nobody reaches an API server through it.
        (HAPROXY_CFG, "bind *:6443", "bind 127.0.0.2:6443", "no connection to it from port 6443"),
    ],
)
def test_a_rejected_configuration_leaves_the_old_one_serving(
    system: System, path: str, old: str, new: str, message: str
):
    _, standby = system.holder_and_standby()
    with system.undisturbed():
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


@pytest.mark.extended
def test_an_unreachable_package_archive_fails_with_a_reason_and_the_next_up_succeeds(system: System):
    # Nothing listens there: port 9 of the host.
    unreachable = pytest.raises(StackError, match="APT could not reach a package archive")
    with system.undisturbed(), unreachable:
        system.up(aptMirror="http://198.18.1.1:9/debian", haproxyBranch="3.0")
    system.up(aptMirror="", haproxyBranch="")


@pytest.mark.extended
def test_a_host_that_never_answers_ssh_fails_with_a_reason_and_the_next_up_succeeds(system: System):
    system.up(adminCidrs=["198.18.0.1/32"])  # the groups let nobody in from here; no host is asked for that
    with pytest.raises(StackError, match="cannot log in"):
        system.up(workerCount=2, sshTimeout=10)
    system.up(workerCount=2, adminCidrs=["198.18.1.1/32"], sshTimeout=600)
    assert "e2e-worker-1" in system.outputs.workers


@pytest.mark.parametrize(
    ("config", "problems"),
    [
        (
            {"controlPlaneCount": 4, "vrrpRouterId": 256, "clusterName": "$(reboot)"},
            ["controlPlaneCount = '4'", "vrrpRouterId = '256'", "clusterName = '$(reboot)'"],
        ),
        (
            {"network": "nowhere", "loadBalancerFlavor": "no-flavor", "controlPlaneImage": "no-image"},
            ["network = 'nowhere'", "loadBalancerFlavor = 'no-flavor'", "controlPlaneImage = 'no-image'"],
        ),
        ({"vip": "198.18.1.1", "workerFlavor": "no-flavor"}, ["is the gateway", "workerFlavor = 'no-flavor'"]),
    ],
    ids=["values", "names", "VIP"],
)
def test_everything_wrong_is_reported_at_once_before_anything_is_touched(
    system: System, config: dict[str, object], problems: list[str]
):
    refusal = system.refusal(**config)
    assert [problem for problem in problems if problem not in refusal] == []
    assert "Traceback" not in refusal


def test_a_vip_in_use_by_another_port_is_refused(system: System):
    taken = next(iter(system.outputs.control_plane.values()))
    assert "is in use by port" in system.refusal(vip=taken)


@pytest.mark.extended
def test_the_next_up_continues_one_that_was_killed(system: System):
    """Killed between two resources' creation; the lock and the half-made are the next run's business."""
    system.configure(workerCount=3)
    system.kill_up("e2e-worker-2-prepare")
    system.up(workerCount=3)
    assert "e2e-worker-2" in system.outputs.workers
    assert system.has_no_changes()
