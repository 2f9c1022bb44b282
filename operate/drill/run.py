"""Runs a drill: checks that the pair is healthy, injects each fault, measures, and undoes it whatever happens."""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from keystoneauth1.exceptions import ClientException
from openstack.exceptions import SDKException
from tenacity import RetryCallState, Retrying, stop_after_delay, wait_fixed

from model.settings import FrontendSettings
from operate.drill.faults import DRILL_FAULTS, DrillFault, InstanceStopped, Site
from operate.drill.result import Answers, DrillResult, Measured, Planned, Seen
from operate.hosts.lock import Lock, hold_all
from operate.hosts.look import look
from operate.hosts.pair import BOOT_SECONDS, STOP_SECONDS, PairError, wait_for
from operate.hosts.report import PairReport
from operate.hosts.ssh import HostError
from operate.hosts.state import HostState, collect
from operate.probe import ALIVE, MAX_SECONDS, Probe, Request
from operate.signals import DeferredSignals, InterruptionError
from operate.stack.applied import AppliedStack
from program.holder import answering_load_balancer

STEADY_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
HOLDER_INTERVAL = 0.1
UNDO_SECONDS = 300.0
# Errors that end a drill in order: they are shown and reported, and the fault is undone.
ENDS = (PairError, HostError, SDKException, ClientException)


class HolderWatch:
    """Queries the VIP for its holder ten times a second while its context lasts."""

    def __init__(self, vip: str, probe: Probe) -> None:
        self.seen: list[Seen] = []
        self._vip, self._probe = vip, probe
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="holder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(HOLDER_INTERVAL):
            holder = answering_load_balancer(self._vip, seconds=0.5)
            if not self.seen or self.seen[-1].holder != holder:
                self.seen.append(Seen(at=self._probe.elapsed, holder=holder))


class Drill:
    """A drill on a stack. `progress` shows a line to the operator.

    PairError for a refusal and for a time-out; HostError or an openstacksdk error for a failure of a host or the cloud.
    """

    def __init__(
        self, stack: AppliedStack, faults: Sequence[type[DrillFault]], progress: Callable[[str], None]
    ) -> None:
        self._stack = stack
        self._site = Site(stack)
        self._faults = [fault(self._site) for fault in faults]
        self._progress = progress
        self._signals = DeferredSignals()
        self._lock = Lock()
        self.in_place: str | None = None
        """The fault that is in place now."""

    @contextmanager
    def alone(self) -> Generator[None]:
        """Hold the operators' lock while the context lasts; PairError if the pair is not healthy."""
        # First: a host that is down cannot be locked, and the error must say that it is down.
        self._look_at_whole_pair()
        with hold_all(self._stack.access, self._stack.outputs.load_balancers, "drill") as self._lock:
            yield

    def plan(self) -> list[Planned]:
        """What will be done; PairError if the pair is not healthy, or clients get no answers."""
        report = self._look_at_whole_pair()
        self._insist_on_answers()
        planned = [
            Planned(
                fault=fault.name,
                title=fault.title,
                where=fault.host(report),
                longest=fault.expected,
                notice=fault.notice,
                way_back=fault.way_back,
                left_out=fault.obstacle(report),
            )
            for fault in self._faults
        ]
        if all(it.left_out for it in planned):
            raise PairError(f"no fault can be injected here: {'; '.join(it.left_out or '' for it in planned)}")
        return planned

    def run(self, plan: list[Planned], max_outage: float) -> DrillResult:
        """Run it. Ends early, with the reason in the result, if it is interrupted or the pair does not recover."""
        began, clock = datetime.now(UTC), time.monotonic()
        measured: list[Measured] = []
        ended_by: str | None = None
        report = look(self._stack, with_instances=True)
        with self._signals.handled():
            try:
                for fault, planned in zip(self._faults, plan, strict=True):
                    if not planned.left_out:
                        self._measure(fault, measured)
            except (*ENDS, InterruptionError) as error:
                ended_by = str(error)
        return DrillResult(
            stack=self._stack.name,
            began=began,
            seconds=time.monotonic() - clock,
            max_outage=max_outage,
            profile=self._stack.settings.failover_profile,
            versions=_versions(report),
            plan=plan,
            measured=measured,
            ended_by=ended_by,
            interrupted_by=self._signals.received if ended_by else None,
        )

    @property
    def undo_command(self) -> str:
        """The command that undoes whatever any drill has left behind."""
        return f"./ha drill --undo --stack {self._stack.name}"

    def _look_at_whole_pair(self) -> PairReport:
        report = look(self._stack, with_instances=True)
        if problems := problems_of(report):
            raise PairError(
                f"the pair is not healthy, so nothing was done: {'; '.join(problems)}. See `./ha status`; if a drill "
                f"was killed, `{self.undo_command}` undoes what it left behind"
            )
        return report

    def _insist_on_answers(self) -> None:
        endpoint = self._stack.outputs.endpoint
        with Probe(endpoint, answers=ALIVE) as probe, suppress(PairError):
            wait_for("answers", lambda: probe.steady >= STEADY_SECONDS, 10)
            return
        report = probe.report()
        reasons = ", ".join(f"{count} x {reason}" for reason, count in report.reasons.most_common())
        raise PairError(
            f"{endpoint} does not answer this machine reliably ({report.failures} of {report.requests} requests "
            f"failed: {reasons}), so nothing was done: is its address in apiAllowedCidrs, and is an API server up? "
            "A drill measures from where it runs: run it on a machine that reaches the endpoint as its clients do"
        )

    def _measure(self, fault: DrillFault, measured: list[Measured]) -> None:
        self._insist_on_going_on()
        # On a busy API server a check fails now and then; the next ones pass.
        report, _ = self._wait_until_healthy("the pair is healthy", PATIENCE_SECONDS)
        host = fault.host(report)
        self._progress(f"{fault.name}: on {host} {fault.title}")
        found = Measured(fault=fault.name, title=fault.title, host=host, before=next(iter(report.holders)))
        measured.append(found)
        request = Request(path=fault.asks)
        endpoint = self._stack.outputs.endpoint
        with (
            self._frontends_asked(found),
            Probe(endpoint, limit=MAX_SECONDS, answers=ALIVE, request=lambda: request) as probe,
        ):
            try:
                with HolderWatch(self._stack.outputs.reachable_vip, probe) as watch:
                    found.seen = watch.seen
                    self._wait("clients get answers", lambda: probe.steady >= STEADY_SECONDS, PATIENCE_SECONDS)
                    with self._undone(fault, host, found, probe):
                        self._strike(fault, host, found, probe)
                    self._wait_until_whole(found, probe)
            finally:
                seen = probe.report()
                found.samples, found.duration = [*seen.samples], seen.duration
                found.longest_stall = seen.longest_stall

    @contextmanager
    def _frontends_asked(self, found: Measured) -> Generator[None]:
        with ExitStack() as ending:
            address = self._stack.outputs.reachable_vip
            frontends = self._stack.settings.frontends
            probes = {it.name: ending.enter_context(probe_of(it, address)) for it in frontends}
            try:
                yield
            finally:
                for name, probe in probes.items():
                    seen = probe.report()
                    found.frontends[name] = Answers(
                        inflicted=found.inflicted,
                        duration=seen.duration,
                        longest_stall=seen.longest_stall,
                        samples=[*seen.samples],
                    )

    def _strike(self, fault: DrillFault, host: str, found: Measured, probe: Probe) -> None:
        def strikes() -> None:
            found.inflicted = probe.elapsed

        fault.inflict(host, strikes)

        def over() -> bool:
            return probe.elapsed - (found.inflicted or 0) >= fault.seconds and fault.in_effect(host)

        self._wait(f"on {host} {fault.title}", over, STOP_SECONDS)

    @contextmanager
    def _undone(self, fault: DrillFault, host: str, found: Measured, probe: Probe) -> Generator[None]:
        self.in_place = f"on {host} {fault.title}"
        try:
            yield
        finally:
            # Nothing is printed before the fault is undone: if the terminal is gone, printing is an error.
            try:
                for attempt in Retrying(
                    stop=stop_after_delay(UNDO_SECONDS),
                    wait=wait_fixed(2),
                    before_sleep=self._report_retry,
                    reraise=True,
                ):
                    with attempt:
                        found.undo_result = fault.undo(host)
                found.undone = probe.elapsed
                self.in_place = None
            except Exception as error:
                found.left = f"{self.in_place} ({error}). Undo it with `{self.undo_command}`"
                raise PairError(found.left) from error

    def _report_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        with suppress(OSError):
            self._progress(f"  not undone yet, trying again: {error}")

    def _wait_until_whole(self, found: Measured, probe: Probe) -> None:
        report, seconds = self._wait_until_healthy("the pair is healthy again", BOOT_SECONDS)
        healed = probe.elapsed
        found.healthy = healed - seconds
        found.after = next(iter(report.holders))
        answered = "clients get answers"
        self._wait(answered, lambda: min(probe.steady, probe.elapsed - healed) >= STEADY_SECONDS, PATIENCE_SECONDS)

    def _wait_until_healthy(self, what: str, seconds: float) -> tuple[PairReport, float]:
        """The first report without problems, and how long it took to collect (seconds); PairError with the problems."""
        asked = time.monotonic()
        report = look(self._stack, with_instances=True)

        def healthy() -> bool:
            nonlocal report, asked
            if problems_of(report):
                asked = time.monotonic()
                report = look(self._stack, with_instances=True)
            return not problems_of(report)

        try:
            self._wait(what, healthy, seconds)
        except PairError as error:
            raise PairError(f"{error}: {'; '.join(problems_of(report))}") from None
        return report, time.monotonic() - asked

    def _insist_on_going_on(self) -> None:
        """InterruptionError after a signal, HostError if the lock was lost."""
        self._signals.check()
        self._lock.check()

    def _wait(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        def ready() -> bool:
            self._insist_on_going_on()
            return condition()

        wait_for(what, ready, seconds)


def probe_of(frontend: FrontendSettings, address: str) -> Probe:
    """Asks a frontend as HAProxy's check asks its servers."""
    request = Request(path=frontend.check_path)
    return Probe(
        f"{frontend.check}://{address}:{frontend.port}",
        limit=MAX_SECONDS,
        answers=(frontend.check_status,),
        request=lambda: request,
    )


def undo_leftovers(stack: AppliedStack) -> Iterator[str]:
    """Undo what a killed drill has left behind; yields what was done.

    PairError at the end, with everything that could not be undone.
    """
    site = Site(stack, patience=BOOT_SECONDS)
    failures: list[str] = []
    # A host that is down cannot be locked; its peer's lock is enough.
    answering = {name for name, state in collect(stack).items() if isinstance(state, HostState)}
    up = {name: address for name, address in stack.outputs.load_balancers.items() if name in answering}
    with hold_all(stack.access, up, "drill --undo") as lock:
        # Instances first: the other faults are searched for on running hosts.
        for fault in sorted(
            (kind(site) for kind in DRILL_FAULTS.values()), key=lambda it: not isinstance(it, InstanceStopped)
        ):
            for host in fault.places():
                try:
                    lock.check()
                    done = fault.undo(host)
                except (HostError, PairError, SDKException, ClientException) as error:
                    failures.append(f"{host}: cannot tell whether {fault.title}: {error}")
                else:
                    if done:
                        yield done
    if failures:
        raise PairError("not undone:\n" + "\n".join(failures))


def problems_of(report: PairReport) -> list[str]:
    """Why no fault may be injected now.

    A drained load balancer counts: its peer serves alone. So does a drained control-plane node: it may be stopped, and
    etcd would lose its majority with the next one.
    """
    problems = [*report.problems, *(report.cluster.problems if report.cluster else ())]
    for name, host in report.hosts.items():
        problems += [f"{name}: {problem}" for problem in host.problems]
        problems += [f"{name}: /{drift.path} is {drift.kind}" for drift in host.drift]
        if host.state and host.state.drained:
            problems.append(f"{name} was drained by {host.state.drained_by}: `./ha resume {name}` brings it back")
    for node in report.cluster.nodes if report.cluster else ():
        if node.cordoned and "control-plane" in node.role:
            problems.append(f"{node.name} was {node.why_cordoned}: `./ha resume {node.name}` brings it back")
    return problems


def _versions(report: PairReport) -> dict[str, str]:
    """By program; both versions if the load balancers differ."""
    states = [host.state for host in report.hosts.values() if host.state]
    found = {
        "HAProxy": {state.haproxy.version or "?" for state in states},
        "keepalived": {state.versions.keepalived for state in states},
        "Linux": {state.versions.kernel for state in states},
        "distribution": {state.versions.distribution for state in states},
    }
    return {program: " and ".join(sorted(versions)) for program, versions in found.items()}
