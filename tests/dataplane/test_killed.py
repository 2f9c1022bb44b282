"""A process killed in the bench dies at once with all its children: none of them sends priority 0."""

import os
import signal
import time
from pathlib import Path

import pytest

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.world import KEEPALIVED, World


def test_a_killed_keepalived_sends_no_priority_0_even_if_its_last_process_is_killed_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kill = os.kill

    def kill_and_be_preempted(pid: int, number: int) -> None:
        kill(pid, number)
        time.sleep(0.1)

    with World(CONFIGURATIONS["seed"].files, tmp_path) as world:
        for machine in world.machines:
            world.boot(machine)
        world.wait_until_serving(40, world.machines)
        holder = world.holder
        monkeypatch.setattr(os, "kill", kill_and_be_preempted)
        holder.signal(signal.SIGKILL, KEEPALIVED)
        assert holder.name in world.holders.current()
