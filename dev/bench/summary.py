"""Summaries of runs: one for each fault and configuration, and the most telling number for each fault.

All times are seconds. The median of an even number of runs is the worse of the two in the middle: a measured value, and
no better than half of the runs.
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
"""After this long without a failure, the next one starts a new interruption."""
HANDOVER_SECONDS = 0.01
"""Two holders for this long are part of an orderly takeover, and nobody notices."""
STALL_SECONDS = 0.1
"""If the probe was later than this, its numbers are doubtful."""
STALL_SIGN = "†"
STALL_NOTE = (
    f"{STALL_SIGN} the probe itself was late by more than {STALL_SECONDS:g} s in a run, and the number may include that"
)


def interruptions(run: Run) -> tuple[Span, ...]:
    """From the first to the last failure of the quick requests; `QUIET_SECONDS` without a failure end one."""
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
    """When the fault was fixed, or the run ended."""
    return run.duration if run.fixed_at is None else run.fixed_at


def lasting(run: Run) -> bool:
    """Whether only the fix ended the interruption: nine tenths of the requests in the second before it failed."""
    end = fault_end(run)
    failed = sum(end - 1 <= at < end for at in run.quick.failures)
    return failed >= 0.9 / pace(run)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A number over several runs."""

    median: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """From one value for each run."""
        return cls(median=median_high(values), worst=max(values))


@dataclass(frozen=True, kw_only=True)
class Failed:
    """One kind of request: how many failed, out of how many, in the run with the median number of failures."""

    timeout: float
    failed: int
    count: int

    @classmethod
    def of(cls, runs: Sequence[Requests]) -> "Failed":
        """From the same kind of request in each run."""
        middle = sorted(runs, key=lambda requests: requests.failed)[len(runs) // 2]
        return cls(timeout=middle.timeout, failed=middle.failed, count=middle.count)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All runs of one fault with one configuration."""

    fault: str
    configuration: str
    runs: int
    interruption: Spread
    """The longest interruption: 0 if no request failed, infinite if only the fix ended it."""
    quick: Failed
    patient: tuple[Failed, ...]
    held_lost: int
    """Held connections that were lost, median."""
    held: int
    """How many connections were held."""
    two_holders: Spread
    changes: Spread
    """How often a load balancer took the VIP."""
    again: Spread
    """Interruptions after the first."""
    got_requests: Spread | None
    """How long API servers that the fault hit still got requests, the last of them to be taken out: infinite if one got
    them until the end, None for a fault that hits no API server."""
    stall: float
    """How late the probe itself was at worst."""

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Summary":
        """From all runs of one fault with one configuration."""
        return cls(
            fault=runs[0].fault,
            configuration=runs[0].configuration,
            runs=len(runs),
            interruption=Spread.of([longest_interruption(run) for run in runs]),
            quick=Failed.of([run.quick for run in runs]),
            patient=tuple(Failed.of(kinds) for kinds in zip(*(run.patient for run in runs), strict=True)),
            held_lost=median_high(run.held_lost for run in runs),
            held=len(runs[0].held),
            two_holders=Spread.of([run.two_holders for run in runs]),
            changes=Spread.of([run.changes for run in runs]),
            again=Spread.of([max(0, len(interruptions(run)) - 1) for run in runs]),
            got_requests=Spread.of([_got_requests(run) for run in runs]) if runs[0].backends_out else None,
            stall=max(run.longest_stall for run in runs),
        )

    @property
    def doubtful(self) -> bool:
        """Whether the probe was so late that its numbers are doubtful."""
        return self.stall > STALL_SECONDS


def longest_interruption(run: Run) -> float:
    """The longest time without an answer; 0 if no request failed, infinite if only the fix ended it."""
    if lasting(run):
        return math.inf
    # A gap without a failure is the pace, a slow answer, or the probe's own delay.
    return run.quick.longest_gap if run.quick.failures else 0.0


def _got_requests(run: Run) -> float:
    return max(math.inf if after is None else after for after in run.backends_out.values())


def median_run(runs: Sequence[Run]) -> Run:
    """The run with the median interruption."""
    ordered = sorted(runs, key=lambda run: (longest_interruption(run), run.repeat))
    return ordered[len(ordered) // 2]


def grouped(results: Results) -> dict[str, dict[str, tuple[Run, ...]]]:
    """The runs by fault and configuration, in the order of `FAULTS` and `CONFIGURATIONS`."""
    runs = sorted(results.runs, key=lambda run: (_place(run.fault, FAULTS), _place(run.configuration, CONFIGURATIONS)))
    found: dict[str, dict[str, tuple[Run, ...]]] = {}
    for run in runs:
        of_fault = found.setdefault(run.fault, {})
        of_fault[run.configuration] = (*of_fault.get(run.configuration, ()), run)
    return found


def _place(name: str, known: Mapping[str, object]) -> int:
    # A fault or configuration that the bench no longer has comes last.
    return list(known).index(name) if name in known else len(known)


def summaries(results: Results) -> dict[str, tuple[Summary, ...]]:
    """By fault, one summary for each configuration."""
    return {
        fault: tuple(Summary.of(runs) for runs in configurations.values())
        for fault, configurations in grouped(results).items()
    }


def title_of_configuration(name: str) -> str:
    """The title of a configuration, or its name if the bench no longer has it."""
    return CONFIGURATIONS[name].title if name in CONFIGURATIONS else name


def title_of_fault(name: str) -> str:
    """The title of a fault, or its name if the bench no longer has it."""
    return FAULTS[name].title if name in FAULTS else name


def why_of_fault(name: str) -> str:
    """Why a fault matters; empty if the bench no longer has it."""
    return FAULTS[name].why if name in FAULTS else ""


# ---- as text ---------------------------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    """As people read it: two decimals below 10 s, one above."""
    if math.isinf(value):
        return "until fixed"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def _two(spread: Spread, text: Callable[[float], str]) -> str:
    """Median and worst, or one number if they are the same."""
    median, worst = text(spread.median), text(spread.worst)
    return median if median == worst else f"{median} / {worst}"


def _interruption(value: float) -> str:
    return seconds(value) if value else "none"


def _of(failed: Failed) -> str:
    return f"{failed.failed} of {failed.count}"


def _interruptions(summary: Summary) -> str:
    sign = f" {STALL_SIGN}" if summary.doubtful else ""
    return _two(summary.interruption, _interruption) + sign


def _two_holders(value: float) -> str:
    return "none" if value < HANDOVER_SECONDS else seconds(value)


def _count(value: float) -> str:
    return f"{value:.0f}"


COLUMNS: Mapping[str, Callable[[Summary], str]] = {
    "runs": lambda summary: str(summary.runs),
    "interruption": _interruptions,
    "failed": lambda summary: _of(summary.quick),
    "failed, 1 s": lambda summary: _of(summary.patient[0]) if summary.patient else "",
    "failed, 5 s": lambda summary: _of(summary.patient[1]) if len(summary.patient) > 1 else "",
    "cut": lambda summary: f"{summary.held_lost} of {summary.held}",
    "VIP taken": lambda summary: _two(summary.changes, _count),
    "two holders": lambda summary: (
        _two(summary.two_holders, _two_holders) if summary.two_holders.worst >= HANDOVER_SECONDS else ""
    ),
    "again": lambda summary: _two(summary.again, _count) if summary.again.worst > 0 else "",
    "in use": lambda summary: "" if summary.got_requests is None else _two(summary.got_requests, seconds),
}
"""The columns of the table of a fault, by heading."""

LEGEND: Mapping[str, str] = {
    "interruption": "the longest time without an answer: median / worst; `until fixed`: only fixing the fault ended it",
    "failed": "requests with a timeout of 0.25 s that failed, out of all since 2 s before the fault; median",
    "failed, 1 s": "the same with a timeout of 1 s",
    "failed, 5 s": "the same with a timeout of 5 s",
    "cut": "connections open before the fault that were lost, out of all; median",
    "VIP taken": "how often a load balancer took the VIP: median / worst",
    "two holders": "how long both load balancers had the VIP, even if one was paused or cut off: median / worst",
    "again": f"further interruptions, each after at least {QUIET_SECONDS:g} s without a failure: median / worst",
    "in use": "how long requests still went to API servers that the fault hit, or got no answer: median / worst",
}
"""What each column means."""


def columns(of_fault: Sequence[Summary]) -> dict[str, Callable[[Summary], str]]:
    """The columns that are not empty for a fault."""
    return {heading: text for heading, text in COLUMNS.items() if any(text(summary) for summary in of_fault)}


# ---- the most telling number for a fault -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The number that distinguishes configurations."""

    name: str
    text: Callable[[Summary], str]
    rank: Callable[[Summary], float]
    """Lower is better."""
    near: float
    """Differences up to this do not count."""

    def best(self, of_fault: Sequence[Summary]) -> frozenset[str]:
        """The configurations that no other beats; empty if all are equal."""
        limit = min(map(self.rank, of_fault)) + self.near
        best = frozenset(summary.configuration for summary in of_fault if self.rank(summary) <= limit)
        return best if len(best) < len(of_fault) else frozenset()


INTERRUPTION = Headline(
    name="interruption",
    text=lambda summary: _interruption(summary.interruption.median),
    rank=lambda summary: summary.interruption.median,
    near=0.05,
)
PAUSE = Headline(
    name="interruption; VIP",
    text=lambda summary: INTERRUPTION.text(summary) + ("; moves" if summary.changes.median else ""),
    rank=lambda summary: summary.interruption.median,
    near=0.05,
)
FAILED = Headline(
    name="failed",
    text=lambda summary: str(summary.quick.failed),
    rank=lambda summary: summary.quick.failed,
    near=2,
)
TWO_HOLDERS = Headline(
    name="interruption; two holders",
    # The time with two holders says little by itself: the sooner the standby notices, the longer it is.
    text=lambda summary: f"{INTERRUPTION.text(summary)}; {_two_holders(summary.two_holders.median)}",
    rank=lambda summary: summary.interruption.median,
    near=0.05,
)
CUT = Headline(
    name="interruption; cut",
    text=lambda summary: f"{INTERRUPTION.text(summary)}; {summary.held_lost} of {summary.held}",
    # Connected clients must not notice: a connection that is cut counts like a second without answers.
    rank=lambda summary: summary.interruption.median + summary.held_lost,
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
    # A slow server should stay in.
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
"""By fault; `PAUSE` for pauses, and `INTERRUPTION` for all others."""


def headline(fault: str) -> Headline:
    """The most telling number for a fault."""
    return PAUSE if fault.startswith("stall-") else HEADLINES.get(fault, INTERRUPTION)


# ---- on the console --------------------------------------------------------------------------------------------------


def print_summary(results: Results, console: Console) -> None:
    """A table for each fault, with a row for each configuration; needs 120 columns."""
    for fault, of_fault in summaries(results).items():
        best = headline(fault).best(of_fault)
        texts = columns(of_fault)
        table = Table(
            title=f"[bold]{fault}[/]: {title_of_fault(fault)}", title_justify="left", title_style="", box=None
        )
        table.add_column("", width=17)
        for heading in texts:
            # Headings wrap between words, never within one.
            table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
        for summary in of_fault:
            style = "bold" if summary.configuration in best else ""
            cells = [text(summary) for text in texts.values()]
            table.add_row(title_of_configuration(summary.configuration), *cells, style=style)
        console.print(table, highlight=False)
