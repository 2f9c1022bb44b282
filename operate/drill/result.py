"""What a drill measured. Times in a measurement are seconds since its probe started. Pure; no I/O."""

from datetime import datetime
from itertools import pairwise

from pydantic import BaseModel, Field, computed_field

from operate.probe import Sample


class Planned(BaseModel):
    """A fault in the plan; `left_out` is the reason if it is skipped."""

    fault: str
    title: str
    where: str
    longest: str
    """The longest interruption measured with the stack's failover profile (docs/failover.md)."""
    notice: str
    way_back: str
    left_out: str | None


class Seen(BaseModel):
    """Which load balancer answered on the VIP from `at` on; None if none did."""

    at: float
    holder: str | None


class Answers(BaseModel):
    """What the clients of one port got."""

    inflicted: float | None = None
    """When the fault struck; None if the drill ended before."""
    duration: float = 0
    longest_stall: float = 0
    """How late the probe itself was at worst: a shorter interruption may be the probe's own."""
    samples: list[Sample] = Field(default=[], exclude=True)

    @computed_field
    @property
    def requests(self) -> int:
        """How many requests ended."""
        return len(self.samples)

    @computed_field
    @property
    def failed(self) -> int:
        """How many requests got no answer."""
        return sum(sample.failure is not None for sample in self.samples)

    @property
    def gap(self) -> tuple[float, float]:
        """Start and end of the longest time without an answer, among those that ended after the fault struck."""
        answered = [0.0, *sorted(sample.ended for sample in self.samples if sample.failure is None), self.duration]
        gaps = [gap for gap in pairwise(answered) if gap[1] >= (self.inflicted or 0)]
        return max(gaps, key=lambda gap: gap[1] - gap[0])

    @computed_field
    @property
    def longest_interruption(self) -> float:
        """Seconds."""
        began, ended = self.gap
        return ended - began


class Measured(Answers):
    """What was measured of one fault: of the API's clients, and of those of each frontend, by its name."""

    fault: str
    title: str
    host: str
    before: str
    after: str | None = None
    """The holder after recovery. Like all that follows, None if the drill ended before."""
    undone: float | None = None
    healthy: float | None = None
    frontends: dict[str, Answers] = {}
    seen: list[Seen] = []
    undo_result: str | None = None
    """What was undone; None if there was nothing to do, or it was not undone."""
    left: str | None = None
    """Why it could not be undone."""

    @computed_field
    @property
    def taken_over(self) -> float | None:
        """Seconds from the fault until the peer answered on the VIP; None if it never did."""
        if self.inflicted is None:
            return None
        others = (it.at for it in self.seen if it.at > self.inflicted and it.holder not in (None, self.before))
        return next((at - self.inflicted for at in others), None)

    @computed_field
    @property
    def whole_after(self) -> float | None:
        """Seconds until the pair was healthy, counted from the undo, or from the fault if systemd undoes it."""
        if self.healthy is None or self.inflicted is None:
            return None
        return self.healthy - (self.inflicted if self.undo_result is None or self.undone is None else self.undone)


class DrillResult(BaseModel):
    """A whole drill."""

    stack: str
    began: datetime
    seconds: float
    max_outage: float
    """The objective in seconds: no interruption may be longer."""
    profile: str
    versions: dict[str, str]
    plan: list[Planned]
    measured: list[Measured]
    ended_by: str | None
    """Why it ended early."""
    interrupted_by: int | None = None
    """The signal that ended it early."""

    @computed_field
    @property
    def over(self) -> list[str]:
        """The faults whose interruption was longer than the objective."""
        return [it.fault for it in self.measured if it.longest_interruption > self.max_outage]

    @computed_field
    @property
    def left(self) -> list[str]:
        """What was not undone."""
        return [it.left for it in self.measured if it.left]

    @property
    def worst(self) -> Measured | None:
        """The fault with the longest interruption."""
        return max(self.measured, key=lambda it: it.longest_interruption, default=None)

    @computed_field
    @property
    def status(self) -> int:
        """The command's exit status: 1 if something is wrong, 2 if the drill did not finish."""
        if self.left:
            return 1
        if self.interrupted_by is not None:
            return 128 + self.interrupted_by
        if self.ended_by:
            return 2
        return 1 if self.over else 0

    @computed_field
    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if self.left:
            return f"Not undone: {'; '.join(self.left)}"
        if self.ended_by:
            return f"Ended early: {self.ended_by}"
        if self.over:
            return f"Over the objective of {self.max_outage:g} s: {', '.join(self.over)}"
        return f"Within the objective: no interruption was longer than {self.max_outage:g} s"
