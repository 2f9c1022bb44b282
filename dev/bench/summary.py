"""Summaries of runs: one for each fault and configuration, and the most telling number for each fault.

All times are seconds. The median of an even number of runs is the worse of the two in the middle: a measured value, and
no better than half of the runs.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_high

from rich.console import Console
from rich.table import Table

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.faults import FAULTS
from dev.bench.held import PAUSES, SILENT, Events, Writes
from dev.bench.results import Requests, Results, Run, Span
from operate.measured import Share, Spread, Summary, interruption, seconds

QUIET_SECONDS = 1.0
"""After this long without a failure, the next one starts a new interruption."""
HANDOVER_SECONDS = 0.01
"""Two holders for this long are part of an orderly takeover, and nobody notices."""
STALL_SECONDS = 0.1
"""If the probe was later than this, its numbers are doubtful."""
WRITES = Writes.kind
WATCHES = (*SILENT, Events.kind)
KINDS = (*SILENT, *PAUSES)
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


def summarize(runs: Sequence[Run], bench: str = "") -> Summary:
    """All runs of one fault with one configuration; `bench` is when it was."""
    by_kind = {kind: [*_heard(runs, (kind,))] for kind in KINDS}
    of_watches = [*_heard(runs, WATCHES)]
    return Summary(
        fault=runs[0].fault,
        configuration=runs[0].configuration,
        bench=bench,
        runs=len(runs),
        watched=round(min(fault_end(run) - run.injected_at for run in runs)),
        interruption=Spread.of([longest_interruption(run) for run in runs]),
        failed=tuple(_failed(kinds) for kinds in zip(*((run.quick, *run.patient) for run in runs), strict=True)),
        cut=Share(median_high(run.held_lost for run in runs), len(runs[0].held)),
        heard=Spread.of(of_watches) if of_watches else None,
        kinds={kind: Spread.of(times) for kind, times in by_kind.items() if times},
        two_holders=Spread.of([run.two_holders for run in runs]),
        changes=Spread.of([run.changes for run in runs]),
        again=Spread.of([max(0, len(interruptions(run)) - 1) for run in runs]),
        got_requests=Spread.of([_got_requests(run) for run in runs]) if runs[0].backends_out else None,
        stall=round(max(run.longest_stall for run in runs), 3),
    )


def _failed(runs: Sequence[Requests]) -> Share:
    """How many requests of one kind failed, in the run with the median number."""
    middle = sorted(runs, key=lambda requests: requests.failed)[len(runs) // 2]
    return Share(middle.failed, middle.count)


def _heard(runs: Sequence[Run], kinds: Container[str]) -> Iterator[float]:
    """Of each run the worst connection of these kinds, unless all had ended before the fault."""
    for run in runs:
        times = [held.heard for held in run.held if held.kind in kinds and held.heard is not None]
        if times:
            yield max(times)


def doubtful(summary: Summary) -> bool:
    """Whether the probe was so late that its numbers are doubtful."""
    return summary.stall > STALL_SECONDS


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


def summaries(results: Results, bench: str = "") -> dict[str, tuple[Summary, ...]]:
    """By fault, one summary for each configuration; `bench` is when it was."""
    return {
        fault: tuple(summarize(runs, bench) for runs in configurations.values())
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


def _two(spread: Spread, text: Callable[[float], str]) -> str:
    """Median and worst, or one number if they are the same."""
    median, worst = text(spread.median), text(spread.worst)
    return median if median == worst else f"{median} / {worst}"


def share(found: Share) -> str:
    """As people read it."""
    return f"{found.number} of {found.of}"


def heard(value: float) -> str:
    """When a client heard of a fault, as people read it."""
    return "never" if math.isinf(value) else interruption(value)


def _interruptions(summary: Summary) -> str:
    sign = f" {STALL_SIGN}" if doubtful(summary) else ""
    return _two(summary.interruption, interruption) + sign


def _two_holders(value: float) -> str:
    return "none" if value < HANDOVER_SECONDS else seconds(value)


def _count(value: float) -> str:
    return f"{value:.0f}"


COLUMNS: Mapping[str, Callable[[Summary], str]] = {
    "runs": lambda summary: str(summary.runs),
    "interruption": _interruptions,
    "failed": lambda summary: share(summary.failed[0]),
    "failed, 1 s": lambda summary: share(summary.failed[1]) if len(summary.failed) > 1 else "",
    "failed, 5 s": lambda summary: share(summary.failed[2]) if len(summary.failed) > 2 else "",
    "cut": lambda summary: share(summary.cut),
    "heard": lambda summary: "" if summary.heard is None else _two(summary.heard, heard),
    "writes": lambda summary: _two(summary.kinds[WRITES], heard) if WRITES in summary.kinds else "",
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
    "heard": "the longest time until the client of a watch noticed the fault, or got data again: median / worst of the "
    "worst of nine (silent ones, some with two events a second, and silent ones over HTTP/2 with client-go's pings); "
    "`none`: there was nothing to notice; `never`: not while the fault lasted",
    "writes": "the same for clients that write every 0.2 s on one connection and wait for each answer, for up to 10 s",
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
    text=lambda summary: interruption(summary.interruption.median),
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
    text=lambda summary: str(summary.failed[0].number),
    rank=lambda summary: summary.failed[0].number,
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
    text=lambda summary: f"{INTERRUPTION.text(summary)}; {share(summary.cut)}",
    # Connected clients must not notice: a connection that is cut counts like a second without answers.
    rank=lambda summary: summary.interruption.median + summary.cut.number,
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
    text=lambda summary: f"{seconds(_got(summary))}; {summary.failed[0].number}",
    rank=lambda summary: summary.failed[0].number,
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
