"""What a drill has found. Times in a measurement are seconds since its probe began. Pure; no I/O."""

from datetime import datetime
from itertools import pairwise

from pydantic import BaseModel, Field, computed_field

from operate.probe import Sample


class Planned(BaseModel):
    """A fault of the plan; `left_out` is the reason where it cannot be done here."""

    fault: str
    title: str
    where: str
    longest: str
    """The longest time without an answer that was measured for the stack's profile."""
    notice: str
    way_back: str
    left_out: str | None


class Seen(BaseModel):
    """Who answered on the VIP from a moment on; None when nobody did."""

    at: float
    holder: str | None


class Measured(BaseModel):
    """What one fault has cost."""

    fault: str
    title: str
    host: str
    before: str
    after: str | None = None
    """The holder when all was whole again, as all that follows None where the drill did not come so far."""
    inflicted: float | None = None
    undone: float | None = None
    whole: float | None = None
    duration: float = 0
    longest_stall: float = 0
    """By which the probe itself was late at worst: an interruption not longer than this may be its own."""
    samples: list[Sample] = Field(default=[], exclude=True)
    seen: list[Seen] = []
    put_back: str | None = None
    left: str | None = None
    """Why it could not be put back."""

    @computed_field
    @property
    def requests(self) -> int:
        """How many ended."""
        return len(self.samples)

    @computed_field
    @property
    def failed(self) -> int:
        """How many of them got no answer."""
        return sum(sample.failure is not None for sample in self.samples)

    @property
    def gap(self) -> tuple[float, float]:
        """From when to when there was no answer for the longest time; what ended before the fault is none of its."""
        answered = [0.0, *sorted(sample.ended for sample in self.samples if sample.failure is None), self.duration]
        gaps = [gap for gap in pairwise(answered) if gap[1] >= (self.inflicted or 0)]
        return max(gaps, key=lambda gap: gap[1] - gap[0])

    @computed_field
    @property
    def longest_interruption(self) -> float:
        """Seconds."""
        began, ended = self.gap
        return ended - began

    @computed_field
    @property
    def taken_over(self) -> float | None:
        """Seconds from the fault until the other load balancer answered on the VIP; None if it never did."""
        if self.inflicted is None:
            return None
        others = (it.at for it in self.seen if it.at > self.inflicted and it.holder not in (None, self.before))
        return next((at - self.inflicted for at in others), None)

    @computed_field
    @property
    def whole_after(self) -> float | None:
        """Seconds until the pair was whole, from when it was put back, or from the fault where systemd does that."""
        if self.whole is None or self.inflicted is None:
            return None
        return self.whole - (self.inflicted if self.put_back is None or self.undone is None else self.undone)


class DrillResult(BaseModel):
    """A whole drill."""

    stack: str
    began: datetime
    seconds: float
    max_outage: float
    """The objective: no interruption is longer, in seconds."""
    profile: str
    versions: dict[str, str]
    plan: list[Planned]
    measured: list[Measured]
    ended_by: str | None
    """Why it ended before its time."""
    interrupted_by: int | None = None
    """The signal, if it was one."""

    @computed_field
    @property
    def over(self) -> list[str]:
        """The faults that cost more than the objective allows."""
        return [it.fault for it in self.measured if it.longest_interruption > self.max_outage]

    @computed_field
    @property
    def left(self) -> list[str]:
        """What was not put back."""
        return [it.left for it in self.measured if it.left]

    @property
    def worst(self) -> Measured | None:
        """The fault with the longest interruption."""
        return max(self.measured, key=lambda it: it.longest_interruption, default=None)

    @computed_field
    @property
    def status(self) -> int:
        """The program's exit status: 1 where something is wrong, 2 where the drill did not come to its end."""
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
        """In one sentence."""
        if self.left:
            return f"Not put back: {'; '.join(self.left)}"
        if self.ended_by:
            return f"Ended before its time: {self.ended_by}"
        if self.over:
            return f"Over the objective of {self.max_outage:g} s: {', '.join(self.over)}"
        return f"Within the objective: no interruption was longer than {self.max_outage:g} s"
