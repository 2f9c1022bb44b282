"""What runs have in common: a line for each fault and configuration, and the one number that tells most about a fault.

All times are seconds. The median of an even number of runs is the worse of the two in the middle: a value that was
measured, and no better than what half of the runs were.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_high

from rich.console import Console
from rich.table import Table

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.faults import FAULTS
from dev.bench.results import Requests, Results, Run, Span

QUIET_SECONDS = 1.0
"""A failure after so long without any begins an interruption of its own."""
HANDOVER_SECONDS = 0.01
"""So long two load balancers may have the VIP when one takes it over in order: nobody sees that."""
STALL_SECONDS = 0.1
"""A probe that was late by more than this makes its numbers doubtful."""
STALL_SIGN = "†"
STALL_NOTE = (
    f"{STALL_SIGN} the probe itself was late by more than {STALL_SECONDS:g} s in a run: that much may be its own"
)


def interruptions(run: Run) -> tuple[Span, ...]:
    """From the first to the last failure of the quick requests, anew after `QUIET_SECONDS` without a failure."""
    failures = run.quick.failures
    if not failures:
        return ()
    edges = [edge for a, b in pairwise(failures) if b - a >= QUIET_SECONDS for edge in (a, b)]
    bounds = [failures[0], *edges, failures[-1]]
    return tuple(zip(bounds[::2], bounds[1::2], strict=True))


def pace(run: Run) -> float:
    """Seconds between two of the quick requests."""
    return run.duration / max(1, run.quick.count)


def fault_end(run: Run) -> float:
    """When the fault was mended, or else the run was over."""
    return run.duration if run.mended_at is None else run.mended_at


def lasting(run: Run) -> bool:
    """Whether nobody was served any more when the fault was mended: nothing but the mending ended that outage.

    All but a tenth of the requests of the last second failed.
    """
    end = fault_end(run)
    failed = sum(end - 1 <= at < end for at in run.quick.failures)
    return failed >= 0.9 / pace(run)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One number of several runs."""

    median: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value for each run."""
        return cls(median=median_high(values), worst=max(values))


@dataclass(frozen=True, kw_only=True)
class Failed:
    """One kind of request: how many failed, of how many, in the run where that is the median."""

    timeout: float
    failed: int
    count: int

    @classmethod
    def of(cls, runs: Sequence[Requests]) -> "Failed":
        """Of the same kind of each run."""
        middle = sorted(runs, key=lambda requests: requests.failed)[len(runs) // 2]
        return cls(timeout=middle.timeout, failed=middle.failed, count=middle.count)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All runs of one fault with one configuration."""

    fault: str
    configuration: str
    runs: int
    outage: Spread
    """The longest time without an answer; 0 where no request failed, infinite where only the mending ended it."""
    quick: Failed
    patient: tuple[Failed, ...]
    held_lost: int
    """Held connections that were lost; the median."""
    held: int
    """Of how many."""
    split_brain: Spread
    changes: Spread
    """How often a load balancer took the VIP."""
    again: Spread
    """Interruptions after the first."""
    got_requests: Spread | None
    """For how long API servers that the fault hit still got requests, the slowest to be taken out; infinite where one
    got them until the end; None for faults of something else."""
    stall: float
    """By how much the probe itself was late at worst."""

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Summary":
        """Of all runs of one fault with one configuration."""
        return cls(
            fault=runs[0].fault,
            configuration=runs[0].configuration,
            runs=len(runs),
            outage=Spread.of([outage(run) for run in runs]),
            quick=Failed.of([run.quick for run in runs]),
            patient=tuple(Failed.of(kinds) for kinds in zip(*(run.patient for run in runs), strict=True)),
            held_lost=median_high(run.held_lost for run in runs),
            held=len(runs[0].held),
            split_brain=Spread.of([run.split_brain for run in runs]),
            changes=Spread.of([run.changes for run in runs]),
            again=Spread.of([max(0, len(interruptions(run)) - 1) for run in runs]),
            got_requests=Spread.of([_got_requests(run) for run in runs]) if runs[0].backends_out else None,
            stall=max(run.longest_stall for run in runs),
        )

    @property
    def doubtful(self) -> bool:
        """Whether the probe was too late for its numbers to be trusted."""
        return self.stall > STALL_SECONDS


def outage(run: Run) -> float:
    """The longest time without an answer; 0 where no request failed, infinite where only the mending ended it."""
    if lasting(run):
        return math.inf
    # A gap without a failure is the pace, a slow answer, or the probe's own.
    return run.quick.longest_gap if run.quick.failures else 0.0


def _got_requests(run: Run) -> float:
    return max(math.inf if after is None else after for after in run.backends_out.values())


def median_run(runs: Sequence[Run]) -> Run:
    """The one whose outage is the median."""
    ordered = sorted(runs, key=lambda run: (outage(run), run.repeat))
    return ordered[len(ordered) // 2]


def grouped(results: Results) -> dict[str, dict[str, tuple[Run, ...]]]:
    """The runs by fault and configuration, each in the order of its table."""
    runs = sorted(results.runs, key=lambda run: (_place(run.fault, FAULTS), _place(run.configuration, CONFIGURATIONS)))
    found: dict[str, dict[str, tuple[Run, ...]]] = {}
    for run in runs:
        of_fault = found.setdefault(run.fault, {})
        of_fault[run.configuration] = (*of_fault.get(run.configuration, ()), run)
    return found


def _place(name: str, known: Mapping[str, object]) -> int:
    # What a file has and the bench no longer knows comes last.
    return list(known).index(name) if name in known else len(known)


def summaries(results: Results) -> dict[str, tuple[Summary, ...]]:
    """By fault, one for each configuration."""
    return {
        fault: tuple(Summary.of(runs) for runs in configurations.values())
        for fault, configurations in grouped(results).items()
    }


def title_of_configuration(name: str) -> str:
    """Its title; the name itself if the bench does not know it."""
    return CONFIGURATIONS[name].title if name in CONFIGURATIONS else name


def title_of_fault(name: str) -> str:
    """Its title; the name itself if the bench does not know it."""
    return FAULTS[name].title if name in FAULTS else name


def why_of_fault(name: str) -> str:
    """Why it matters; empty if the bench does not know it."""
    return FAULTS[name].why if name in FAULTS else ""


# ---- as text ---------------------------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    """As people read it: two decimals as long as they say something."""
    if math.isinf(value):
        return "until mended"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def _two(spread: Spread, text: Callable[[float], str]) -> str:
    """Median and worst; one where they do not differ."""
    median, worst = text(spread.median), text(spread.worst)
    return median if median == worst else f"{median} / {worst}"


def _outage(value: float) -> str:
    return seconds(value) if value else "none"


def _of(failed: Failed) -> str:
    return f"{failed.failed} of {failed.count}"


def _outages(summary: Summary) -> str:
    sign = f" {STALL_SIGN}" if summary.doubtful else ""
    return _two(summary.outage, _outage) + sign


def _two_holders(value: float) -> str:
    return "none" if value < HANDOVER_SECONDS else seconds(value)


def _count(value: float) -> str:
    return f"{value:.0f}"


COLUMNS: Mapping[str, Callable[[Summary], str]] = {
    "runs": lambda summary: str(summary.runs),
    "outage": _outages,
    "failed": lambda summary: _of(summary.quick),
    "failed, 1 s": lambda summary: _of(summary.patient[0]) if summary.patient else "",
    "failed, 5 s": lambda summary: _of(summary.patient[1]) if len(summary.patient) > 1 else "",
    "cut": lambda summary: f"{summary.held_lost} of {summary.held}",
    "VIP taken": lambda summary: _two(summary.changes, _count),
    "two holders": lambda summary: (
        _two(summary.split_brain, _two_holders) if summary.split_brain.worst >= HANDOVER_SECONDS else ""
    ),
    "again": lambda summary: _two(summary.again, _count) if summary.again.worst > 0 else "",
    "in use": lambda summary: "" if summary.got_requests is None else _two(summary.got_requests, seconds),
}
"""The columns of a fault's table, by heading."""

LEGEND: Mapping[str, str] = {
    "outage": "the longest time without an answer: median / worst; `until mended`: it ended with the fault only",
    "failed": "requests with a time-out of 0.25 s that failed, of all, from 2 s before the fault on; median",
    "failed, 1 s": "the same with a time-out of 1 s",
    "failed, 5 s": "the same with a time-out of 5 s",
    "cut": "connections that stood before the fault and were lost, of all; median",
    "VIP taken": "how often a load balancer took the VIP: median / worst",
    "two holders": "for how long both load balancers had the VIP, be one of them paused or cut off: median / worst",
    "again": f"interruptions after the first, each after {QUIET_SECONDS:g} s or more without a failure: median / worst",
    "in use": "for how long API servers that the fault hits still got requests, or nobody did: median / worst",
}
"""What the columns say that their headings do not."""


def columns(of_fault: Sequence[Summary]) -> dict[str, Callable[[Summary], str]]:
    """Those that say something about a fault."""
    return {heading: text for heading, text in COLUMNS.items() if any(text(summary) for summary in of_fault)}


# ---- the number that tells most about a fault ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Headline:
    """Which number tells configurations apart."""

    name: str
    text: Callable[[Summary], str]
    rank: Callable[[Summary], float]
    """The lower the better."""
    near: float
    """Differences up to this say nothing."""

    def best(self, of_fault: Sequence[Summary]) -> frozenset[str]:
        """The configurations that are no worse than any other; none where there is nothing to tell apart."""
        limit = min(map(self.rank, of_fault)) + self.near
        best = frozenset(summary.configuration for summary in of_fault if self.rank(summary) <= limit)
        return best if len(best) < len(of_fault) else frozenset()


OUTAGE = Headline(
    name="outage",
    text=lambda summary: _outage(summary.outage.median),
    rank=lambda summary: summary.outage.median,
    near=0.05,
)
PAUSE = Headline(
    name="outage; VIP",
    text=lambda summary: OUTAGE.text(summary) + ("; moves" if summary.changes.median else ""),
    rank=lambda summary: summary.outage.median,
    near=0.05,
)
FAILED = Headline(
    name="failed",
    text=lambda summary: str(summary.quick.failed),
    rank=lambda summary: summary.quick.failed,
    near=2,
)
TWO_HOLDERS = Headline(
    name="outage; two holders",
    # For how long there are two says little by itself: the sooner a configuration notices, the longer they are two.
    text=lambda summary: f"{OUTAGE.text(summary)}; {_two_holders(summary.split_brain.median)}",
    rank=lambda summary: summary.outage.median,
    near=0.05,
)
CUT = Headline(
    name="outage; cut",
    text=lambda summary: f"{OUTAGE.text(summary)}; {summary.held_lost} of {summary.held}",
    # Who is connected must not feel it: a connection that is cut weighs like a second without answers.
    rank=lambda summary: summary.outage.median + summary.held_lost,
    near=0.05,
)
CHANGES = Headline(
    name="VIP taken",
    text=lambda summary: _count(summary.changes.median),
    rank=lambda summary: summary.changes.median,
    near=0,
)
IN_USE = Headline(
    name="in use; failed",
    text=lambda summary: f"{seconds(_got(summary))}; {summary.quick.failed}",
    rank=lambda summary: summary.quick.failed,
    near=2,
)
KEPT = Headline(
    name="in use",
    text=lambda summary: seconds(_got(summary)),
    # A server that is slow is none to be taken out.
    rank=lambda summary: -min(_got(summary), 1e9),
    near=0.5,
)


def _got(summary: Summary) -> float:
    return 0.0 if summary.got_requests is None else summary.got_requests.median


HEADLINES: Mapping[str, Headline] = {
    "partition": TWO_HOLDERS,
    "keepalived-hung": TWO_HOLDERS,
    "haproxy-crash-loop": FAILED,
    "api-killed": IN_USE,
    "api-black-holed": IN_USE,
    "api-hung": IN_USE,
    "api-500": IN_USE,
    "api-slow": KEPT,
    "pair-loss-10": CHANGES,
    "pair-loss-30": CHANGES,
    "cpu-burn": CHANGES,
    "nothing": CUT,
    "haproxy-reload": CUT,
    "haproxy-refused": CUT,
    "api-servers-changed": CUT,
}
"""By fault; of a pause it is `PAUSE`, of all others `OUTAGE`."""


def headline(fault: str) -> Headline:
    """Which number tells most about a fault."""
    return PAUSE if fault.startswith("stall-") else HEADLINES.get(fault, OUTAGE)


# ---- on the console --------------------------------------------------------------------------------------------------


def print_summary(results: Results, console: Console) -> None:
    """A table of all faults, with a line for each configuration; for 120 columns or more."""
    for fault, of_fault in summaries(results).items():
        best = headline(fault).best(of_fault)
        texts = columns(of_fault)
        table = Table(
            title=f"[bold]{fault}[/]: {title_of_fault(fault)}", title_justify="left", title_style="", box=None
        )
        table.add_column("", width=17)
        for heading in texts:
            table.add_column(heading, justify="right")
        for summary in of_fault:
            style = "bold" if summary.configuration in best else ""
            cells = [text(summary) for text in texts.values()]
            table.add_row(title_of_configuration(summary.configuration), *cells, style=style)
        console.print(table, highlight=False)
