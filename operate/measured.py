"""Every figure that documents and drills quote: docs/failover/measured.json.

`make bench-report`, `make bench-storm` and `make bench-lab` replace what they have measured, and nothing else; the
documents are generated from it (dev/documents.py). What was measured on real clusters, and with parts of OVN stopped,
is written there manually. Times are seconds.
"""

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias

from pydantic import BaseModel, ConfigDict

from operate.stack.files import ROOT

Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | bool | None"

FLAT, FLOATING_IP = "flat network", "floating IP"
"""The paths to the lab's VIP."""
FILE = ROOT / "docs" / "failover" / "measured.json"


class Spread(NamedTuple):
    """A number over several runs."""

    median: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """From one value for each run. The median of an even number is the worse of the two in the middle."""
        ordered = sorted(values)
        return cls(round(ordered[len(ordered) // 2], 3), round(ordered[-1], 3))


class Share(NamedTuple):
    """A number, and the total that it is part of."""

    number: int
    of: int


class Range(NamedTuple):
    """The least and the most of several rounds."""

    least: int
    most: int


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Bench(_Model):
    """One bench: the machine, and how much was measured."""

    runs: int
    minutes: int
    cores: int
    memory_gib: float
    kernel: str
    keepalived: str
    haproxy: str
    load_before: float
    """Load average over one minute."""
    load_after: float


class Summary(_Model):
    """All runs of one fault with one configuration, in one bench."""

    fault: str
    configuration: str
    bench: str
    """When it was written (ISO 8601, UTC), which is its key in `benches`."""
    runs: int
    watched: int | None = None
    """Seconds from the fault until its fix, or until the end of the run; the least of all runs."""
    interruption: Spread
    """The longest interruption: 0 if no request failed, infinite if only the fix ended it."""
    failed: tuple[Share, ...]
    """Requests with timeouts of 0.25 s, 1 s and 5 s that failed, in the runs with the median number of failures."""
    cut: Share
    """Held connections that were lost, median."""
    heard: Spread | None = None
    """The longest time until the client of a watch heard of the fault, or heard anything again; infinite if it did not
    while the fault lasted."""
    kinds: dict[str, Spread] = {}
    """The same by kind: `watch`, `events` and `http2`, which `heard` is the worst of, and `writes`."""
    two_holders: Spread = Spread(0, 0)
    changes: Spread = Spread(0, 0)
    """How often a load balancer took the VIP."""
    again: Spread = Spread(0, 0)
    """Interruptions after the first."""
    got_requests: Spread | None = None
    """How long API servers that the fault hit still got requests, the last of them to be taken out: infinite if one got
    them until the end, None for a fault that hits no API server."""
    stall: float
    """How late the probe itself was at worst."""


class Choice(_Model):
    """The measurements of one choice of the two advertisement timers."""

    missed: int
    interval: int
    """Milliseconds."""
    interruption: Spread
    """Without an answer when the holder dies."""
    pause: int
    """Milliseconds: the longest pause of the holder such that the VIP never moved in it or in a shorter one."""
    moves: float
    """Moves of the VIP in 10 minutes while 30 % of the packets between the pair are lost."""

    @property
    def waits(self) -> int:
        """Milliseconds without an advertisement after which the VIP moves."""
        return self.missed * self.interval


class Timers(_Model):
    """The comparison of advertisement timers, in one bench."""

    bench: str
    choices: tuple[Choice, ...]


class Arrivals(_Model):
    """Connections that arrive at once: the time until the last answer."""

    connections: int
    at_vip: float
    after_death: float
    """At the VIP, from the moment its holder died."""
    at_one_api_server: float
    """A third of them, without a load balancer."""
    unanswered: int
    moved: bool
    """Whether the VIP moved before its holder died."""


class Storms(_Model):
    """Thousands of connections at once."""

    date: str | None
    arrivals: tuple[Arrivals, ...]
    idle_mib: int
    """Memory of HAProxy before the last of them."""
    busy_mib: int


class OnPath(_Model):
    """What a fault cost on one path to the lab's VIP."""

    interruption: Spread
    failed: Range
    """Requests."""


class LabFault(_Model):
    """A fault on the lab, or a move, by path."""

    fault: str
    title: str
    paths: dict[str, OnPath]


class Lab(_Model):
    """What faults cost on the lab, in this many rounds of all."""

    date: str | None
    rounds: int
    faults: tuple[LabFault, ...]


class PartStopped(_Model):
    """HAProxy was killed while a part of OVN's control plane was stopped; None where it was not tried."""

    part: str
    direct: float | None
    floating_ip: float | None


class ClusterFault(_Model):
    """What a client of a real cluster noticed."""

    fault: str
    reads: float
    """The longest gap between two answers."""
    reads_failed: Share
    writes: float
    writes_failed: Share
    watch: float
    """How long a watch with events all the time was silent."""


class Measurements(_Model):
    """The whole file."""

    benches: dict[str, Bench]
    """By time."""
    faults: tuple[Summary, ...]
    timers: Timers
    storm: Storms
    lab: Lab
    ovn: tuple[PartStopped, ...]
    cluster: tuple[ClusterFault, ...]
    drill: dict[str, Spread]
    """The longest interruption in drills of a real cluster with the default profile, by fault."""

    def summary(self, fault: str, configuration: str) -> Summary | None:
        """What a fault cost with a configuration on the bench; None if it was not measured."""
        return next((it for it in self.faults if (it.fault, it.configuration) == (fault, configuration)), None)

    def on_lab(self, fault: str, path: str) -> OnPath | None:
        """What a fault cost on a path to the lab's VIP; None if it was not measured."""
        return next((it.paths.get(path) for it in self.lab.faults if it.fault == fault), None)

    def write(self, path: Path = FILE) -> None:
        """Write the file, an object a line, without benches of which no figure is left."""
        used = {it.bench for it in self.faults} | {self.timers.bench}
        kept = self.model_copy(update={"benches": {key: it for key, it in self.benches.items() if key in used}})
        path.write_text(_text(json.loads(kept.model_dump_json(exclude_defaults=True))) + "\n")

    @classmethod
    def read(cls, path: Path = FILE) -> Self:
        """Read the file; raises OSError, or pydantic's ValidationError if it is invalid."""
        return cls.model_validate_json(path.read_text())


def _text(value: Json) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(map(_line, value)) + "\n]"
    if isinstance(value, dict):
        parts = {key: _text(it) for key, it in value.items()}
        if any(it.startswith("{") or "\n" in it for it in parts.values()):
            return "{\n" + ",\n".join(f"{json.dumps(key)}: {it}" for key, it in parts.items()) + "\n}"
    return _line(value)


def _line(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))


@cache
def measurements() -> Measurements:
    """The figures of this checkout."""
    return Measurements.read()


def seconds(value: float) -> str:
    """As people read it: two decimals below 10 s, one above."""
    if math.isinf(value):
        return "until fixed"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def interruption(value: float) -> str:
    """The same of an interruption, which may be none."""
    return seconds(value) if value else "none"
