"""The results of a bench, as in the JSON file. All times are seconds since the start of the run."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

Span = tuple[float, float]
"""From, to."""

FIXED = "fixed"
"""The label of the mark at which the fault is fixed."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Requests(_Model):
    """One kind of request: each on a new TLS connection, at a fixed pace, even if earlier ones are still waiting."""

    timeout: float
    count: int
    failed: int
    longest_gap: float
    """The longest time without an answer; about the pace if nothing is broken."""
    failures: tuple[float, ...]
    """When the failed requests started."""


class Held(_Model):
    """A connection that was open before the fault."""

    kind: str
    """`watch` (silent), `events` (a watch with two events a second), `http2` (silent, but client-go pings), `writes`
    (one after the other), or `upload`."""
    lost_at: float | None
    """When the client noticed that it was gone; None if it survived."""
    heard: float | None = None
    """The longest time until the client heard of the fault, or heard anything again; see dev/bench/heard.py."""


class Mark(_Model):
    """Something done to the system."""

    at: float
    label: str


class Run(_Model):
    """One fault, injected once, with one configuration."""

    configuration: str
    fault: str
    repeat: int
    duration: float
    injected_at: float
    marks: tuple[Mark, ...]
    """The fault, which is the first, the fix, and what else was done."""
    pace: float = 0.02
    """Seconds between two quick requests: more on a machine that is too slow, and in faults of several minutes."""
    quick: Requests
    """With a timeout of 250 ms: what an impatient client notices."""
    patient: tuple[Requests, ...]
    """Less often, with timeouts of 1 s and 5 s."""
    held: tuple[Held, ...]
    holders: dict[str, tuple[Span, ...]]
    """By load balancer: when it had the VIP, from its kernel's messages."""
    backends_out: dict[str, float | None] = {}
    """By API server that the fault hit: seconds after the fault until the holder sent it no more requests."""
    longest_stall: float
    """How late the probe itself was at worst; a gap up to this length may be the probe's own delay."""

    @property
    def two_holders(self) -> float:
        """Seconds during which both load balancers had the VIP."""
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
    def fixed_at(self) -> float | None:
        """When the fault was fixed; None for a fault that is not."""
        return next((mark.at for mark in self.marks if mark.label == FIXED), None)

    @property
    def changes(self) -> int:
        """How often a load balancer took the VIP after the start of the run."""
        return sum(a > 0 for spans in self.holders.values() for a, _ in spans)

    @property
    def held_lost(self) -> int:
        """How many held connections were lost."""
        return sum(held.lost_at is not None for held in self.held)


class Machine(_Model):
    """The machine and the versions."""

    date: str
    cores: int
    memory_gib: float
    kernel: str
    keepalived: str
    haproxy: str
    load_before: float
    """Load average over one minute."""
    load_after: float
    seconds: float
    """Duration of the whole bench."""


class Results(_Model):
    """A whole bench: the JSON file."""

    machine: Machine
    runs: tuple[Run, ...]
    quick: bool = False
    """Whether it did not wait for silent clients."""

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        path.write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the JSON file; raises pydantic's ValidationError if it is not one."""
        return cls.model_validate_json(path.read_text())
