"""The lab's networks keep what the program relies on: address pairs, virtual ports, groups, floating IPs, one MTU."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from dev.lab import host_network
from dev.lab.cloud import NETWORK, TENANT_NETWORK
from dev.lab.container import Container
from dev.lab.settings import LabSettings
from operate.hosts.pair import wait_for
from tests.e2e.instances import NAME, Instance, Instances

PORT = 8080


@pytest.fixture(scope="module")
def behind_router(made: Instances, member: Any) -> Instance:
    """An instance on the tenant network; `address` is its floating IP."""
    instance = made.make("tenant", TENANT_NETWORK)
    external = member.network.find_network(NETWORK, ignore_missing=False)
    floating = member.network.create_ip(floating_network_id=external.id, port_id=instance.port, description=NAME)
    reached = instance.at(floating.floating_ip_address)
    reached.wait_for_ssh()
    return reached


def test_every_hop_has_one_mtu(member: Any, instances: list[Instance]) -> None:
    guest = int(instances[0].run("cat /sys/class/net/eth0/mtu").stdout)
    assert guest == member.network.find_network(NETWORK).mtu == host_network.MTU
    for link in host_network.LINKS:
        assert int((Path("/sys/class/net") / link / "mtu").read_text()) == guest


def test_a_vip_answers_only_with_its_address_pair(
    settings: LabSettings, member: Any, instances: list[Instance]
) -> None:
    holder, other = instances
    vip = str(settings.instance_network[240])
    assert holder.run(f"sudo ip address replace {vip}/32 dev eth0").returncode == 0

    def answers() -> bool:
        return other.run(f"sudo ip neigh flush all; ping -c 1 -W 1 {vip}").returncode == 0

    assert not answers()
    member.network.update_port(holder.port, allowed_address_pairs=[{"ip_address": vip}])
    wait_for("the VIP's answer", answers, 30)
    member.network.update_port(holder.port, allowed_address_pairs=[])
    wait_for("the VIP's silence", lambda: not answers(), 30)


def test_a_vip_s_port_is_virtual_and_its_parent_follows_the_holder(
    settings: LabSettings, member: Any, instances: list[Instance]
) -> None:
    vip = str(settings.instance_network[241])
    network = member.network.find_network(NETWORK)
    reserved = member.network.create_port(
        name=NAME, network_id=network.id, fixed_ips=[{"ip_address": vip}], is_admin_state_up=False, security_groups=[]
    )

    def binding(column: str) -> str:
        find = ("ovn-sbctl", "--db=tcp:127.0.0.1:6642", "--bare", f"--columns={column}", "find", "Port_Binding")
        return Container(settings).run(*find, f"logical_port={reserved.id}").strip()

    for instance in instances:
        member.network.update_port(instance.port, allowed_address_pairs=[{"ip_address": vip}])
    wait_for("the VIP's port is virtual", lambda: binding("type") == "virtual", 30)
    for holder in (*instances, instances[0]):
        # Its ARP request for the gateway has the VIP as its sender.
        announce = f"sudo ip address replace {vip}/32 dev eth0; sudo ip neigh flush all; ping -c 1 -I {vip} "
        holder.run(announce + str(settings.instance_gateway))
        wait_for("the parent is the holder", lambda holder=holder: binding("virtual_parent") == holder.port, 30)
        holder.run(f"sudo ip address delete {vip}/32 dev eth0")
    for instance in instances:
        member.network.update_port(instance.port, allowed_address_pairs=[])
    member.network.delete_port(reserved)


def test_a_group_admits_the_members_of_another_group_and_nobody_else(
    member: Any, made: Instances, instances: list[Instance]
) -> None:
    server, client = instances
    rule = member.network.create_security_group_rule(
        security_group_id=made.group.id,
        direction="ingress",
        ethertype="IPv4",
        protocol="tcp",
        port_range_min=PORT,
        port_range_max=PORT,
        remote_group_id=made.group.id,
    )
    server.run(f"sudo systemd-run --collect --unit=served python3 -m http.server {PORT}")
    connect = f"python3 -c 'import socket; socket.create_connection((\"{server.address}\", {PORT}), 2)'"
    wait_for("the member's connection", lambda: client.run(connect).returncode == 0, 30)
    with pytest.raises(TimeoutError):
        socket.create_connection((server.address, PORT), timeout=2)
    member.network.delete_security_group_rule(rule)
    wait_for("the end of it", lambda: client.run(connect).returncode != 0, 30)
    server.run("sudo systemctl stop served")


@pytest.mark.parametrize("network", [NETWORK, TENANT_NETWORK])
def test_an_instance_finds_its_metadata(network: str, instances: list[Instance], behind_router: Instance) -> None:
    instance = instances[0] if network == NETWORK else behind_router
    url = "http://169.254.169.254/openstack/latest/meta_data.json"
    answer = instance.run(f"python3 -c 'import urllib.request as r; print(r.urlopen(\"{url}\").read().decode())'")
    assert json.loads(answer.stdout)["name"].startswith(NAME), answer.stderr


def test_a_floating_ip_works_both_ways_with_the_mtu_of_the_rest(
    settings: LabSettings, member: Any, behind_router: Instance
) -> None:
    assert int(behind_router.run("cat /sys/class/net/eth0/mtu").stdout) == host_network.MTU
    assert member.network.find_network(TENANT_NETWORK).mtu == host_network.MTU
    # As long as the MTU allows, and not in fragments.
    length = host_network.MTU - 28
    assert behind_router.run(f"ping -c 1 -W 2 -M do -s {length} {settings.instance_gateway}").returncode == 0
    with socket.create_server((str(settings.instance_gateway), 0)) as listener:
        listener.settimeout(10)
        address = f'{listener.getsockname()[0]}", {listener.getsockname()[1]}'
        behind_router.run(f"python3 -c 'import socket; socket.create_connection((\"{address}), 5)'")
        _, (source, _) = listener.accept()
    assert source == behind_router.address
