"""What the watchdog finds in real networks, and what the real keepalived makes of it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.world import Machine, World, wait_for
from model.rendering import LOAD_BALANCER_TEMPLATES
from tests.dataplane.benched import OURS

PROGRAMS = LOAD_BALANCER_TEMPLATES / "usr/local/lib/ha-api"
# Sets what a host has, and writes what the watchdog finds.
SCRIPT = """
set -e
ip link set lo up
ip link add ens3 type veth peer name switch
ip link set switch up
ip link set ens3 up
ip address add 198.51.100.200/32 dev ens3
{commands}
exec {python} - <<'END'
import sys
from pathlib import Path
sys.path.insert(0, "{programs}")
import watchdog
Path("/proc/sys/net/ipv4/ip_nonlocal_bind").write_text("1")
watchdog.Network("198.51.100.11", "198.51.100.12", Path("{folder}")).check()
END
"""
ADDRESS, ROUTE = "ip address add 198.51.100.11/24 dev ens3", "ip route add default via 198.51.100.1"


@pytest.mark.parametrize(
    ("commands", "own_address", "default_route"),
    [
        ((ADDRESS, ROUTE), "0", "0"),
        ((ADDRESS,), "0", "-25"),
        # The route does not name the address and stays without it: the host would send from the VIP.
        ((ADDRESS, ROUTE, "ip address delete 198.51.100.11/24 dev ens3"), "1", "-25"),
        # Another address came first, so the kernel prefers it; keepalived sends from its own.
        (("ip address add 198.51.100.77/24 dev ens3", ADDRESS, ROUTE), "0", "0"),
        (("ip address add 198.51.100.77/24 dev ens3", ROUTE), "1", "-25"),
        ((ADDRESS, ROUTE, "ip link set ens3 down"), "1", "-25"),
        ((ADDRESS, "ip route add unreachable default"), "0", "-25"),
    ],
)
def test_a_host_without_its_own_address_or_a_default_route_is_reported(
    tmp_path: Path, commands: tuple[str, ...], own_address: str, default_route: str
):
    script = SCRIPT.format(commands="\n".join(commands), python=sys.executable, programs=PROGRAMS, folder=tmp_path)
    subprocess.run(["unshare", "--net", "sh", "-c", script], check=True)
    found = [(tmp_path / name).read_text().strip() for name in ("own_address", "default_route")]
    assert found == [own_address, default_route]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(CONFIGURATIONS[OURS].files, tmp_path) as world:
        for machine in world.machines:
            world.boot(machine)
        world.wait_until_serving(40, world.machines)
        yield world


def priority(machine: Machine) -> int:
    return int(machine.vrrp()["Effective priority"])


def test_the_vip_goes_to_a_host_with_a_default_route_and_stays_if_none_has_one(world: World):
    holder, peer = world.holder, world.peer
    holder.lose_default_route()
    wait_for("the VIP is on the other host alone", lambda: world.holders.current() == [peer.name], 10)
    # Neither has one: clients in the subnet need none.
    peer.lose_default_route()
    wait_for("both have noticed", lambda: priority(holder) == priority(peer) < 250, 10)
    before = world.holders.last_change
    world.wait_until_serving(20, world.machines)
    holder.get_default_route()
    wait_for("the VIP is back", lambda: world.holders.current() == [holder.name], 10)
    peer.get_default_route()
    wait_for("both have noticed", lambda: priority(holder) == priority(peer) == 250, 10)
    after = world.holders.last_change
    world.wait_until_serving(20, world.machines)
    assert world.holders.last_change == after > before


def test_a_pair_that_lost_its_addresses_has_no_holder_and_comes_back_by_itself(world: World):
    for machine in world.machines:
        machine.lose_address()
    wait_for("no host has the VIP", lambda: world.holders.current() == [], 10)
    for machine in world.machines:
        machine.get_address()
    world.wait_until_serving(40, world.machines)
