"""Moves of the VIP on purpose, and what they leave behind."""

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from dev.bench.world import KEEPALIVED, Machine, World, wait_for
from tests.watches import Watch

STATUS = "run/ha-api-held-connections/handover.json"
HANDOVER = "/usr/local/lib/ha-api/handover.py"


def move(world: World, grace: float | None = None) -> tuple[Machine, Machine]:
    """Move the VIP to the peer on purpose, as `systemctl restart keepalived` does: the old holder and the new one."""
    old, new = world.holder, world.peer
    if grace is not None:
        on(old, "/usr/bin/python3", HANDOVER, "--grace", str(grace))
    assert old.systemctl("restart", KEEPALIVED) is None
    wait_for("the VIP moves", lambda: world.holders.current() == [new.name], 5)
    return old, new


def on(machine: Machine, *command: str) -> str:
    """What a command on a machine prints."""
    enter = ["nsenter", "--target", str(machine.pid), "--all", "--root", *command]
    return subprocess.run(enter, check=True, capture_output=True, text=True, timeout=20).stdout


def left_behind(machine: Machine) -> str:
    """What of a handover is in a machine's kernel."""
    shown = [on(machine, "ip", *words) for words in (["link"], ["rule"], ["route", "show", "table", "all"])]
    shown.append(on(machine, "nft", "list", "ruleset"))
    return "".join(
        line for line in "\n".join(shown).splitlines(keepends=True) if "ha-handover" in line or "16443" in line
    )


def wait_until_nothing_is_left(*machines: Machine) -> None:
    """Of a handover that has ended: sooner than a peer would notice that nothing comes any more, which takes 2 s."""
    wait_for("nothing of the handover is left", lambda: not any(map(left_behind, machines)), 1.5)


def work(watches: Sequence[Watch]) -> int:
    """How many of them still work."""
    with ThreadPoolExecutor(len(watches)) as together:
        for it in watches:
            it.connection.settimeout(5)
        return sum(it.result() for it in [together.submit(watch.works) for watch in watches])
