"""What was measured on the bench, as tables in Markdown. Every figure is from docs/failover/measured.json."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.faults import FAULTS
from dev.bench.summary import (
    LEGEND,
    STALL_NOTE,
    WATCHES,
    WRITES,
    columns,
    headline,
    heard,
    title_of_configuration,
    title_of_fault,
    why_of_fault,
)
from model.timers import PROFILES, Profile
from operate.measured import Measurements, Summary, interruption, seconds

FAULTS_PAGE = "failover/faults.md"
"""The page of `faults_page`, seen from docs/failover.md."""
PICTURED = ("node-death", "partition", "stall-2000ms", "haproxy-stopped")
"""The faults whose pictures are in docs/failover.md; those of the others are not kept in git."""
SILENT_DEATHS = ("node-death", "link-cut", "api-black-holed")
"""Faults of which nobody informs a client that only listens; they are watched for longer than a minute."""
PROFILES_ARE_FOR = {
    Profile.STEADY: "live migration, heavily overcommitted hypervisors",
    Profile.DEFAULT: "a cloud shared with others",
    Profile.FAST: "your own hardware, no live migration of load balancers",
}


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A column of text, and columns of numbers; ends with a newline."""
    lines = (heading, ["---"] + ["---:"] * (len(heading) - 1), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def day(time: str) -> str:
    """The day of a time (ISO 8601)."""
    return f"{datetime.fromisoformat(time):%Y-%m-%d}"


def benches(measured: Measurements, keys: Iterable[str]) -> str:
    """When, where and with which versions it was measured, a paragraph for each bench; ends with a newline."""
    return "\n".join(_bench(measured, key) for key in sorted(set(keys), reverse=True))


def _bench(measured: Measurements, key: str) -> str:
    it = measured.benches[key]
    return (
        f"Measured on {day(key)}: {it.runs} runs in {it.minutes} min. keepalived {it.keepalived}, HAProxy "
        f"{it.haproxy}, Linux {it.kernel}, {it.cores} cores, {it.memory_gib:g} GiB; load average {it.load_before:.1f} "
        f"before and {it.load_after:.1f} after.\n"
    )


def _by_fault(measured: Measurements) -> dict[str, tuple[Summary, ...]]:
    known = [fault for fault in FAULTS if any(it.fault == fault for it in measured.faults)]
    return {fault: tuple(it for it in measured.faults if it.fault == fault) for fault in known}


# ---- all faults at a glance, for docs/failover.md --------------------------------------------------------------------


def overview(measured: Measurements) -> str:
    """The most telling number of each fault."""
    return _matrix(measured, {"number": lambda fault: headline(fault).name}, _most_telling)


def _most_telling(summary: Summary, of_fault: Sequence[Summary]) -> str:
    number = headline(summary.fault)
    text = number.text(summary)
    return f"**{text}**" if summary.configuration in number.best(of_fault) else text


def held(measured: Measurements) -> str:
    """What clients with held connections notice of each fault."""
    return _matrix(measured, {}, lambda summary, _: "; ".join((_heard(summary), _written(summary))).strip("; "))


def _matrix(
    measured: Measurements, more: Mapping[str, Callable[[str], str]], cell: Callable[[Summary, Sequence[Summary]], str]
) -> str:
    """A row for each fault and a column for each configuration; columns of `more` have a text for the fault."""
    rows: list[Sequence[str]] = []
    for fault, of_fault in _by_fault(measured).items():
        cells = {summary.configuration: cell(summary, of_fault) for summary in of_fault}
        title = f"[{title_of_fault(fault)}]({FAULTS_PAGE}#{fault})"
        rows.append((title, *(text(fault) for text in more.values()), *(cells.get(it, "") for it in CONFIGURATIONS)))
    return table(("fault", *more, *map(title_of_configuration, CONFIGURATIONS)), rows)


def kinds(measured: Measurements) -> str:
    """What each kind of watch hears of the silent deaths."""
    rows = [
        (title_of_configuration(name), *(_kinds(measured.summary(fault, name)) for fault in SILENT_DEATHS))
        for name in CONFIGURATIONS
    ]
    return table(("watch / HTTP/2 / events", *map(title_of_fault, SILENT_DEATHS)), rows)


def _kinds(summary: Summary | None) -> str:
    if summary is None or not summary.kinds:
        return ""
    return " / ".join(heard(summary.kinds[kind].median) for kind in WATCHES)


def _heard(summary: Summary) -> str:
    return heard(summary.heard.median) if summary.heard else ""


def _written(summary: Summary) -> str:
    return heard(summary.kinds[WRITES].median) if WRITES in summary.kinds else ""


def timers(measured: Measurements) -> str:
    """What each choice of advertisement timers costs and survives."""
    rows = [
        (
            f"{it.missed} x {it.interval} ms",
            f"{it.waits} ms",
            seconds(it.interruption.median),
            seconds(it.interruption.worst),
            f"{it.pause} ms",
            f"{it.moves:.0f}",
        )
        for it in measured.timers.choices
    ]
    heading = (
        "advertisements", "VIP moves after", "holder dies: median", "worst", "pause survived",
        "moves in 10 min at 30 % loss",
    )  # fmt: skip
    return table(heading, rows)


def profiles(measured: Measurements) -> str:
    """What each profile costs and survives, and what it is for."""
    pauses = {(it.interval, it.missed): f"{it.pause} ms" for it in measured.timers.choices}
    rows: list[Sequence[str]] = []
    for profile in (Profile.STEADY, Profile.DEFAULT, Profile.FAST):
        timers, death = PROFILES[profile], measured.summary("node-death", profile)
        rows.append(
            (
                f"`{profile}`: {PROFILES_ARE_FOR[profile]}",
                f"{timers.missed_advertisements} x {timers.advertisement_interval} ms",
                seconds(death.interruption.median) if death else "",
                pauses.get((timers.advertisement_interval, timers.missed_advertisements), ""),
            )
        )
    return table(("profile, and what it is for", "advertisements", "holder dies", "pause survived"), rows)


# ---- for the README --------------------------------------------------------------------------------------------------


def clients_feel(measured: Measurements) -> str:
    """What clients feel of the two deaths that everybody expects to be survived: ours next to the peers."""
    dead = {"load balancer dies": "node-death", "API server's host is gone": "api-black-holed"}
    heading = [f"{title}: {what}" for title in dead for what in ("new request", "held connection", "write")]
    rows = [
        (title_of_configuration(name), *(it for fault in dead.values() for it in _felt(measured.summary(fault, name))))
        for name in CONFIGURATIONS
        if name != Profile.STEADY
    ]
    return table(("", *heading), rows)


def _felt(summary: Summary | None) -> Sequence[str]:
    if summary is None:
        return "", "", ""
    # If one of three API servers is gone, others answer in between, but until it is out requests fail.
    failing = summary.got_requests or summary.interruption
    return interruption(failing.median), _heard(summary), _written(summary)


# ---- each fault, on a page of its own --------------------------------------------------------------------------------


def faults_page(measured: Measurements) -> str:
    """All figures of each fault."""
    parts = [
        "# All faults, with all figures\n",
        "Generated by `make documents` from [measured.json](measured.json). [failover.md](../failover.md) has the "
        "most important ones side by side, and says how they were measured.\n",
        benches(measured, (it.bench for it in measured.faults)),
        _legend(measured),
        *(_section(fault, of_fault) for fault, of_fault in _by_fault(measured).items()),
    ]
    return "\n".join(parts)


def _legend(measured: Measurements) -> str:
    """What the columns of the tables mean."""
    used = {heading for of_fault in _by_fault(measured).values() for heading in columns(of_fault)}
    lines = [f"- *{heading}*: {text}" for heading, text in LEGEND.items() if heading in used]
    return "\n".join(("In the tables:", "", *lines, f"- {STALL_NOTE}", ""))


def _section(fault: str, of_fault: Sequence[Summary]) -> str:
    """The title, reason and table of a fault."""
    texts = columns(of_fault)
    if len({it.bench for it in of_fault}) > 1:
        texts["measured on"] = lambda summary: day(summary.bench)
    rows = [
        (title_of_configuration(summary.configuration), *(text(summary) for text in texts.values()))
        for summary in of_fault
    ]
    watched = [it.watched for it in of_fault if it.watched is not None]
    how_long = f" Watched for {min(watched)} s or longer." if watched else ""
    return (
        f"## {fault}\n\n**{capital(title_of_fault(fault))}.** {why_of_fault(fault)}{how_long}\n\n"
        f"{table(('configuration', *texts), rows)}"
    )


def capital(title: str) -> str:
    """As the beginning of a sentence."""
    return title[0].upper() + title[1:]
