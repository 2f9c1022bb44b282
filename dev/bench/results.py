"""What a bench run found, as it stands in the JSON file. All times are seconds, and count from the run's own start."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

Span = tuple[float, float]
"""From, to."""

MENDED = "mended"
"""The label of the mark at a fault's end."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Requests(_Model):
    """One kind of request: a new TLS connection each, at a fixed pace, whatever became of those before."""

    timeout: float
    count: int
    failed: int
    longest_gap: float
    """The longest time without an answer; with nothing broken it is about the pace."""
    failures: tuple[float, ...]
    """When the requests began that failed."""


class Held(_Model):
    """A connection that stood before the fault."""

    kind: str
    """`chatty` (asks all the time), `watch` (silent until the end) or `upload` (sends all the time)."""
    lost_at: float | None
    """When it was found to be gone; None if it lived."""


class Mark(_Model):
    """Something done to the system."""

    at: float
    label: str


class Run(_Model):
    """One fault, once, with one configuration."""

    configuration: str
    fault: str
    repeat: int
    duration: float
    injected_at: float
    marks: tuple[Mark, ...]
    """The fault, its end, and what else was done; the first is the fault."""
    quick: Requests
    """Time-out 250 ms, every 20 ms: what an impatient client feels."""
    patient: tuple[Requests, ...]
    """Time-outs of 1 s and 5 s, paced more slowly."""
    held: tuple[Held, ...]
    holders: dict[str, tuple[Span, ...]]
    """By load balancer: when it had the VIP, from its kernel's own messages."""
    backends_out: dict[str, float | None] = {}
    """By API server that the fault hit: how long after the fault the holder stopped sending requests to it."""
    longest_stall: float
    """By how much the probe itself was late at worst; a gap not longer than this is the probe's own."""

    @property
    def split_brain(self) -> float:
        """For how many seconds more than one load balancer had the VIP."""
        edges = sorted(
            (at, step) for spans in self.holders.values() for a, b in spans for at, step in ((a, 1), (b, -1))
        )
        total, holding, since = 0.0, 0, 0.0
        for at, step in edges:
            if holding > 1:
                total += at - since
            holding, since = holding + step, at
        return total

    @property
    def mended_at(self) -> float | None:
        """When the fault's end came; None for a fault that is not mended."""
        return next((mark.at for mark in self.marks if mark.label == MENDED), None)

    @property
    def changes(self) -> int:
        """How often a load balancer took the VIP after the run's start."""
        return sum(a > 0 for spans in self.holders.values() for a, _ in spans)

    @property
    def held_lost(self) -> int:
        """How many held connections were lost."""
        return sum(held.lost_at is not None for held in self.held)


class Machine(_Model):
    """Where and with what it was measured."""

    date: str
    cores: int
    memory_gib: float
    kernel: str
    keepalived: str
    haproxy: str
    load_before: float
    """Load average of a minute."""
    load_after: float
    seconds: float
    """How long the whole bench took."""


class Results(_Model):
    """A whole bench: the JSON file."""

    machine: Machine
    runs: tuple[Run, ...]

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        path.write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it; pydantic's ValidationError for what is no such file."""
        return cls.model_validate_json(path.read_text())
