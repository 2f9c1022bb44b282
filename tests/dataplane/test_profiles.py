"""A running pair is given another failover profile: its real keepaliveds reload, the standby first."""

import time
from itertools import pairwise
from pathlib import Path

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.world import KEEPALIVED, World, hosts
from model.timers import Profile

KEEPALIVED_CONF = "etc/keepalived/keepalived.conf"
# Each of the three after each of the others.
ORDER = (
    Profile.STEADY, Profile.FAST, Profile.STEADY, Profile.DEFAULT, Profile.FAST, Profile.DEFAULT, Profile.STEADY,
)  # fmt: skip


def keepalived_conf(profile: Profile) -> dict[str, str]:
    """Its text on each load balancer."""
    return {
        host.name: next(file.text for file in CONFIGURATIONS[profile].files(host) if file.path == KEEPALIVED_CONF)
        for host in hosts()
    }


def test_the_vip_stays_whichever_profile_replaces_which(tmp_path: Path):
    moved: list[str] = []
    with World(CONFIGURATIONS[ORDER[0]].files, tmp_path) as world:
        for machine in world.machines:
            world.boot(machine)
        world.wait_until_serving(40, world.machines)
        for before, after in pairwise(ORDER):
            last_change = world.holders.last_change
            for machine in (world.peer, world.holder):
                assert machine.reload_with(KEEPALIVED_CONF, keepalived_conf(after)[machine.name], KEEPALIVED) is None
                # `configure` takes at least as long on a host; no profile waits that long for a dead holder.
                time.sleep(3)
            if world.holders.last_change != last_change:
                moved.append(f"{before} to {after}")
            world.wait_until_serving(40, world.machines, steady=0.5)
    assert moved == []
