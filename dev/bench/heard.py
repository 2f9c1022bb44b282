"""How long a client with a held connection was left in the dark: until it heard of the fault, or heard anything again.

The connection may have worked for a part of that time. What the client expects regularly shows it. A silent connection
shows nothing, but the one with events to the same API server does.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from dev.bench.held import PAUSES, SILENT, Events, HeldResult

LATE_SECONDS = 0.25
"""Something that is expected counts as late after this time, as an answer does for an impatient client."""


def heard_after(held: HeldResult, others: Sequence[HeldResult], injected_at: float) -> float | None:
    """The longest time in seconds; 0 if there was nothing to hear of, infinite if it heard nothing before the fix.

    Times are time.monotonic(). None for an upload, and for a connection that ended before the fault.
    """
    if held.lost_at is not None and held.lost_at < injected_at:
        return None
    if held.kind in SILENT:
        return math.inf if held.deaf else _silence(held, others, injected_at)
    if held.kind in PAUSES:
        return math.inf if held.deaf else _longest_gap(held, injected_at)
    return None


def _silence(held: HeldResult, others: Sequence[HeldResult], injected_at: float) -> float:
    if held.lost_at is None:
        return 0.0
    alike = [other for other in others if other.kind == Events.kind and other.backend == held.backend]
    worked = [at for it in (held, *alike) for at in it.heard if injected_at < at < held.lost_at]
    return held.lost_at - max(worked, default=injected_at)


def _longest_gap(held: HeldResult, injected_at: float) -> float:
    last = [] if held.lost_at is None else [held.lost_at]
    gaps = [
        b - max(a, injected_at)
        for a, b in pairwise([*held.heard, *last])
        if b > injected_at and (b == held.lost_at or b - a > PAUSES[held.kind] + LATE_SECONDS)
    ]
    return max(gaps, default=0.0)
