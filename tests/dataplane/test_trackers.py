"""A move there and back on purpose, with a tracker at each port, as security groups have it.

It sees what the port sees: nothing of a connection while the other load balancer passes it on. These are the kernel's,
as with Open vSwitch's kernel datapath and with the iptables driver.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from dev.bench.world import Namespace, World
from tests.dataplane.client import Client
from tests.dataplane.moves import move

# The tracker forgets a connection that was reset after 10 s.
FORGOTTEN_SECONDS = 12
# Longer than it all takes.
DOWNLOAD_BYTES = 600 << 20


class Port(Namespace):
    """What is between a load balancer and the segment: a bridge that drops what its tracker does not know."""

    def __init__(self, world: World, host: str) -> None:
        super().__init__(f"port of {host}")
        segment = world.segment
        segment.run("ip", "link", "set", host, "netns", str(self.pid))
        self.run("ip", "-batch", "-", stdin=(
            "link add br0 type bridge mcast_snooping 0\n"
            "link set br0 up\n"
            f"link set {host} master br0 up\n"
            f"link add segment type veth peer name {host} netns {segment.pid}\n"
            "link set segment master br0 up\n"
        ))  # fmt: skip
        segment.run("ip", "link", "set", host, "master", "br0", "up")
        self.run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
        rules = "type filter hook forward priority 0; ct state invalid drop;"
        self.run("nft", "-f", "-", stdin=f"table ip port {{ chain forward {{ {rules} }}; }}\n")


@pytest.fixture
def tracked(built: World) -> Iterator[World]:
    """The world, whole, with trackers."""
    if not Path("/proc/sys/net/bridge").exists():
        subprocess.run(["modprobe", "br_netfilter"], check=True)
    built.repair()
    with ExitStack() as ports:
        for machine in built.machines:
            ports.enter_context(closing(Port(built, machine.name)))
        built.repair()
        yield built


def test_a_download_that_is_under_way_survives_a_move_there_and_back(tracked: World):
    with closing(Client(tracked)) as client:
        received = client.begin_download(DOWNLOAD_BYTES)
        time.sleep(1)
        move(tracked)
        time.sleep(FORGOTTEN_SECONDS)
        move(tracked)
        assert received() == DOWNLOAD_BYTES
