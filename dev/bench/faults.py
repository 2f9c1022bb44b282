"""The faults, as a table: what is broken, how it is mended, for how long it is watched, and why it matters.

All of them hit the load balancer that holds the VIP, unless their title says otherwise.
"""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from dev.bench.world import (
    ADDRESSES,
    API_SERVERS,
    DIE_WITH_BENCH,
    HAPROXY,
    KEEPALIVED,
    PLAIN_PRIORITY,
    VIP,
    ApiServer,
    Machine,
    World,
    WorldError,
)

CRASH_LOOP_SECONDS, CRASH_EVERY_SECONDS = 10.0, 0.5
BURNERS_A_CORE = 8
STALLS_MS = (200, 300, 500, 700, 1000, 1500, 2000, 3000)
"""How long the holder is paused: a live migration's last phase, or a hypervisor that sold its processors twice."""


@dataclass
class Scene:
    """One run: the world, and who had which part when the fault came."""

    world: World
    mark: Callable[[str], None]
    """Notes what is done to the system, now."""
    clean_up: ExitStack = field(default_factory=ExitStack)
    """Undone when the run is over, however it ends."""

    def __post_init__(self) -> None:
        self.holder, self.peer = self.world.holder, self.world.peer

    @property
    def hit(self) -> ApiServer:
        """The API server that faults of one API server hit."""
        return self.world.api_servers[0]


def _nothing(scene: Scene) -> None:
    """Nothing is to be done."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault. `at_least` and `at_most` bound how many seconds it is watched; a run ends early once it is steady."""

    name: str
    title: str
    why: str
    inject: Callable[[Scene], None]
    heal: Callable[[Scene], None] | None = None
    prepare: Callable[[Scene], None] = _nothing
    """Before the clients begin."""
    at_least: float = 5
    at_most: float = 45
    hit: tuple[str, ...] = ()
    """The API servers that should get no request any more."""
    whole_before: bool = True
    """Whether both load balancers are in order after `prepare`."""
    once: bool = False
    """It comes out the same each time, so one run says all."""

    @property
    def long(self) -> bool:
        """It is watched for minutes: probed less often, so that all configurations can be watched at the same time."""
        return self.at_least > 60


# ---- load balancers as wholes ----------------------------------------------------------------------------------------


def _node_death(scene: Scene) -> None:
    # Cut off first: what its kernel would say while its processes die, a host without power does not.
    scene.world.segment.isolate(scene.holder.name)
    scene.holder.power_off(scene.world.holders)


def _kill_before(scene: Scene) -> None:
    _node_death(scene)


def _node_returns(scene: Scene) -> None:
    scene.world.segment.heal()
    gone = next(machine for machine in scene.world.machines if not machine.running)
    scene.world.boot(gone)


def _heal_network(scene: Scene) -> None:
    scene.world.segment.heal()


def _stall(milliseconds: int) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        # Its kernel goes on answering TCP's handshakes, which a paused guest's does only afterwards; no client gets
        # further than that in either case.
        scene.holder.signal(signal.SIGSTOP)
        time.sleep(milliseconds / 1000)
        scene.holder.signal(signal.SIGCONT)
        scene.mark("it goes on")

    return inject


def _replace(scene: Scene, machine: Machine) -> None:
    machine.shut_down(scene.world.holders)
    scene.mark(f"{machine.name} is gone")
    time.sleep(1)
    scene.world.boot(machine)
    scene.mark(f"{machine.name} is up")
    scene.world.wait_until_serving(30, scene.world.machines, steady=1)


def _rolling_replacement(scene: Scene) -> None:
    for machine in scene.world.machines:
        _replace(scene, machine)


class _Burners:
    """Processes that burn all processors of the machine, however many worlds ask for it at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._worlds = 0

    def start(self, scene: Scene) -> None:
        """Burn until the last scene that asked for it is over."""
        with self._lock:
            self._worlds += 1
            scene.clean_up.callback(self._end)
            while len(self._processes) < BURNERS_A_CORE * (os.cpu_count() or 1):
                command = [*DIE_WITH_BENCH, *PLAIN_PRIORITY, "sh", "-c", "while :; do :; done"]
                self._processes.append(subprocess.Popen(command))

    def _end(self) -> None:
        with self._lock:
            self._worlds -= 1
            while self._processes and not self._worlds:
                self._processes[-1].kill()
                self._processes.pop().wait()


_burners = _Burners()


# ---- their services --------------------------------------------------------------------------------------------------


def _job(verb: str, unit: str) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        if error := scene.holder.systemctl(verb, unit):
            raise WorldError(error)

    return inject


def _signal_all(number: signal.Signals, unit: str) -> Callable[[Scene], None]:
    return lambda scene: scene.holder.signal(number, unit)


def _kill_main(unit: str) -> Callable[[Scene], None]:
    return lambda scene: os.kill(scene.holder.main_process(unit), signal.SIGKILL)


def _kill_worker(scene: Scene) -> None:
    workers = set(scene.holder.processes(HAPROXY)) - {scene.holder.main_process(HAPROXY)}
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


def _crash_loop(scene: Scene) -> None:
    end = time.monotonic() + CRASH_LOOP_SECONDS
    while time.monotonic() < end:
        scene.holder.signal(signal.SIGKILL, HAPROXY)
        time.sleep(CRASH_EVERY_SECONDS)
    scene.mark("the last crash")


def _reload(scene: Scene, machine: Machine, path: str, text: str, unit: str) -> str | None:
    scene.mark(f"{machine.name} reloads")
    return machine.reload_with(path, text, unit)


def _edit(path: str, edit: Callable[[str], str], unit: str, seconds: float = 2) -> Callable[[Scene], None]:
    """Change a file on both hosts, one `seconds` after the other, as `pulumi up` does it, each with a reload."""

    def inject(scene: Scene) -> None:
        for machine in scene.world.machines:
            before = (machine.root / path).read_text()
            after = edit(before)
            if after == before:
                raise WorldError(f"there is nothing to change in {path}")
            if error := _reload(scene, machine, path, after, unit):
                raise WorldError(f"{machine.name}: {error}")
            time.sleep(seconds)

    return inject


def _refused(path: str, addition: str, unit: str) -> Callable[[Scene], None]:
    """Lines that make no sense, on one host after the other."""

    def inject(scene: Scene) -> None:
        for machine in scene.world.machines:
            before = (machine.root / path).read_text()
            error = _reload(scene, machine, path, before + addition, unit)
            (machine.root / path).write_text(before)
            if error is None:
                raise WorldError(f"{machine.name}: the reload was not refused")
            time.sleep(2)

    return inject


_HAPROXY_CFG, _KEEPALIVED_CONF = "etc/haproxy/haproxy.cfg", "etc/keepalived/keepalived.conf"
_LISTEN, _COMMENT = "\nlisten habench\n    mode http\n    bind 127.0.0.1:18404\n", "\n# changed\n"
_LEFT_OUT = "#left-out "
_LEAVING = str(ADDRESSES[API_SERVERS[-1]])
_SECOND_VIP = str(VIP + 1)


def without_last_api_server(text: str) -> str:
    """Its line becomes a comment."""
    return re.sub(rf"^(?= *server .* {re.escape(_LEAVING)}:)", _LEFT_OUT, text, flags=re.MULTILINE)


def with_second_vip(text: str) -> str:
    """A line like the VIP's, below it, for the next address."""
    line = rf"^( *){re.escape(str(VIP))}\b(.*\n)"
    return re.sub(line, rf"\g<0>\g<1>{_SECOND_VIP}\g<2>", text, flags=re.MULTILINE)


def _without_second_vip(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if _SECOND_VIP not in line)


# ---- API servers -----------------------------------------------------------------------------------------------------


def _one_says(word: str) -> Callable[[Scene], None]:
    return lambda scene: scene.hit.say(word)


def _all_say(word: str) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        for server in scene.world.api_servers:
            server.say(word)

    return inject


def _all_down_and_back(scene: Scene) -> None:
    for server in scene.world.api_servers:
        server.signal(signal.SIGKILL)
    time.sleep(6)
    for server in scene.world.api_servers:
        server.start()
    scene.mark("all API servers are back")


_HIT = (API_SERVERS[0],)


def _stall_fault(milliseconds: int) -> Fault:
    return Fault(
        name=f"stall-{milliseconds}ms",
        title=f"the load balancer pauses for {milliseconds} ms",
        why="Live migration and steal time pause a guest; a VIP that moves for it is an outage that need not be.",
        inject=_stall(milliseconds),
        once=True,
    )


def _loss_fault(percent: int, seconds: float) -> Fault:
    return Fault(
        name=f"pair-loss-{percent}",
        title=f"{percent} % of the packets between the load balancers are lost",
        why="Advertisements get lost in a row by chance; how many must, decides how often the VIP moves.",
        inject=lambda scene: scene.world.segment.separate(scene.holder.name, [scene.peer.name], percent),
        heal=_heal_network,
        at_least=seconds,
        at_most=seconds,
        once=True,
    )


_ALL = (
    Fault(
        name="node-death",
        title="the load balancer dies",
        why="Hypervisors crash, and the instance goes without a word to anybody.",
        inject=_node_death,
    ),
    Fault(
        name="node-returns",
        title="the dead load balancer is back",
        why="A return that moves the VIP back is a second outage, and cuts every connection a second time.",
        inject=_node_returns,
        prepare=_kill_before,
        whole_before=False,
        at_least=10,
        once=True,
    ),
    Fault(
        name="link-cut",
        title="the load balancer is cut off",
        why="A switch or a host's cable fails: the holder lives and believes that it still holds the VIP.",
        inject=lambda scene: scene.world.segment.isolate(scene.holder.name),
        heal=_heal_network,
    ),
    Fault(
        name="partition",
        title="the load balancers do not hear each other",
        why="Clients reach both, and both hold the VIP: nobody can tell them apart without a third voice.",
        inject=lambda scene: scene.world.segment.separate(scene.holder.name, [scene.peer.name]),
        heal=_heal_network,
    ),
    *(_stall_fault(milliseconds) for milliseconds in (500, 2000)),
    Fault(
        name="keepalived-main-killed",
        title="keepalived's main process is killed",
        why="The child that speaks VRRP is left without its parent.",
        inject=_kill_main(KEEPALIVED),
    ),
    Fault(
        name="keepalived-killed",
        title="all of keepalived is killed",
        why="The OOM killer's way: the VIP stays on a host that no longer says that it has it.",
        inject=_signal_all(signal.SIGKILL, KEEPALIVED),
        at_least=8,
    ),
    Fault(
        name="keepalived-hung",
        title="keepalived hangs",
        why="The VIP stays, the advertisements stop: two holders, and nobody crashed.",
        inject=_signal_all(signal.SIGSTOP, KEEPALIVED),
        heal=_signal_all(signal.SIGCONT, KEEPALIVED),
        at_least=8,
        once=True,
    ),
    Fault(
        name="keepalived-stopped",
        title="keepalived is stopped",
        why="Maintenance: somebody drains the load balancer on purpose.",
        inject=_job("stop", KEEPALIVED),
        heal=_job("start", KEEPALIVED),
        once=True,
    ),
    Fault(
        name="keepalived-restarted",
        title="keepalived is restarted",
        why="An upgrade of the package does it, at night and unasked.",
        inject=_job("restart", KEEPALIVED),
    ),
    Fault(
        name="haproxy-killed",
        title="all of HAProxy is killed",
        why="The OOM killer's way; the service manager starts it anew.",
        inject=_signal_all(signal.SIGKILL, HAPROXY),
    ),
    Fault(
        name="haproxy-stopped",
        title="HAProxy is stopped",
        why="An upgrade that failed half-way, or a crash too many for the service manager, leaves it like that.",
        inject=_job("stop", HAPROXY),
        heal=_job("start", HAPROXY),
    ),
    Fault(
        name="haproxy-worker-killed",
        title="HAProxy's worker is killed",
        why="A crash: the worker is what parses, and what memory errors hit.",
        inject=_kill_worker,
        once=True,
    ),
    Fault(
        name="haproxy-hung",
        title="HAProxy hangs",
        why="The kernel accepts connections for a process that never answers, so a port that is open says nothing.",
        inject=_signal_all(signal.SIGSTOP, HAPROXY),
        heal=_signal_all(signal.SIGCONT, HAPROXY),
    ),
    Fault(
        name="haproxy-crash-loop",
        title=f"HAProxy crashes every {CRASH_EVERY_SECONDS:g} s for {CRASH_LOOP_SECONDS:g} s",
        why="A bad release or bad memory: it is up each time somebody looks, and gone right after.",
        inject=_crash_loop,
        once=True,
    ),
    Fault(
        name="holder-without-api",
        title="the load balancer reaches no API server, its peer does",
        why="Half of a network fails: HAProxy lives and answers, and has nobody to pass requests to.",
        inject=lambda scene: scene.world.segment.separate(scene.holder.name, API_SERVERS),
        heal=_heal_network,
        at_most=30,
    ),
    Fault(
        name="api-killed",
        title="an API server is killed",
        why="The kernel refuses connections, the easiest of all failures to see.",
        inject=lambda scene: scene.hit.signal(signal.SIGKILL),
        heal=lambda scene: scene.hit.start(),
        hit=_HIT,
        at_most=20,
    ),
    Fault(
        name="api-black-holed",
        title="an API server's host is gone",
        why="Nothing answers, not even with a refusal, so every try costs a time-out.",
        inject=lambda scene: scene.world.segment.isolate(scene.hit.name),
        heal=_heal_network,
        hit=_HIT,
        at_most=20,
    ),
    Fault(
        name="api-hung",
        title="an API server hangs",
        why="Its kernel accepts, nobody answers: only a check that waits for an answer sees it.",
        inject=lambda scene: scene.hit.signal(signal.SIGSTOP),
        heal=lambda scene: scene.hit.signal(signal.SIGCONT),
        hit=_HIT,
        at_most=20,
    ),
    Fault(
        name="api-500",
        title="an API server answers 500",
        why="Its etcd is gone; only a check that reads the answer's status sees it.",
        inject=_one_says("failing"),
        heal=_one_says("healthy"),
        hit=_HIT,
        at_most=20,
    ),
    Fault(
        name="api-401",
        title="all API servers answer anonymous checks with 401",
        why="`--anonymous-auth=false` is good practice; taking all servers out for it is a total outage.",
        inject=_all_say("401"),
        heal=_all_say("healthy"),
        hit=API_SERVERS,
        at_least=8,
        at_most=20,
        once=True,
    ),
    Fault(
        name="api-403",
        title="all API servers answer anonymous checks with 403",
        why="Somebody removes the role that lets strangers read /readyz.",
        inject=_all_say("403"),
        heal=_all_say("healthy"),
        hit=API_SERVERS,
        at_least=8,
        at_most=20,
        once=True,
    ),
    Fault(
        name="api-slow",
        title="an API server answers after 400 ms",
        why="A busy server is no dead one: taking it out makes the others busier.",
        inject=_one_says("slow 400"),
        heal=_one_says("healthy"),
        hit=_HIT,
        at_least=8,
        at_most=12,
        once=True,
    ),
    Fault(
        name="api-all-down",
        title="all API servers are killed, and start 6 s later",
        why="How soon clients are served again is up to the load balancers; the VIP gains nothing by moving.",
        inject=_all_down_and_back,
        at_most=30,
    ),
    _loss_fault(10, seconds=600),
    _loss_fault(30, seconds=120),
    Fault(
        name="cpu-burn",
        title=f"{BURNERS_A_CORE} processes a core burn all time",
        why="A host that is too busy must still say in time that it lives.",
        inject=_burners.start,
        at_least=600,
        at_most=600,
        once=True,
    ),
    Fault(
        name="nothing",
        title="nothing is broken",
        why="Watches and `kubectl logs -f` are quiet for minutes; a time-out that cuts them is an outage of its own.",
        inject=_nothing,
        at_least=180,
        at_most=180,
        once=True,
    ),
    Fault(
        name="haproxy-reload",
        title="HAProxy's configuration changes",
        why="Each `pulumi up` with a change does it, on a working day.",
        inject=_edit(_HAPROXY_CFG, lambda text: text + _LISTEN, HAPROXY),
        heal=_edit(_HAPROXY_CFG, lambda text: text.removesuffix(_LISTEN), HAPROXY),
        once=True,
    ),
    Fault(
        name="haproxy-refused",
        title="HAProxy refuses a changed configuration",
        why="A mistake must not cost what a change does not.",
        inject=_refused(_HAPROXY_CFG, "\nno such directive\n", HAPROXY),
        once=True,
    ),
    Fault(
        name="api-servers-changed",
        title="an API server leaves the configuration and comes back",
        why="A control plane that grows or shrinks must not be felt by who is connected.",
        inject=_edit(_HAPROXY_CFG, without_last_api_server, HAPROXY),
        heal=_edit(_HAPROXY_CFG, lambda text: text.replace(_LEFT_OUT, ""), HAPROXY),
        once=True,
    ),
    Fault(
        name="keepalived-reload",
        title="keepalived's configuration changes",
        why="A reload starts all checks anew, and one that counts as failed until it has run loses the VIP.",
        inject=_edit(_KEEPALIVED_CONF, lambda text: text + _COMMENT, KEEPALIVED),
        heal=_edit(_KEEPALIVED_CONF, lambda text: text.removesuffix(_COMMENT), KEEPALIVED),
        once=True,
    ),
    Fault(
        name="vip-added",
        title="a second VIP is added, and taken away again",
        why="One host has the new list first, and advertisements with another list than one's own are ignored.",
        # Long enough for a peer that misses three advertisements of a second.
        inject=_edit(_KEEPALIVED_CONF, with_second_vip, KEEPALIVED, seconds=5),
        heal=_edit(_KEEPALIVED_CONF, _without_second_vip, KEEPALIVED, seconds=5),
        once=True,
    ),
    Fault(
        name="rolling-replacement",
        title="both load balancers are replaced, one after the other",
        why="A new image: everything is stopped in order, and one that is young takes over from one that goes.",
        inject=_rolling_replacement,
    ),
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _ALL}

OF_TIMERS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        FAULTS["node-death"],
        *(replace(_stall_fault(ms), once=False) for ms in STALLS_MS),
        FAULTS["pair-loss-30"],
    )
}
"""What tells one choice of timers from another."""

QUICK = ("node-death", "node-returns", "keepalived-killed", "haproxy-stopped", "haproxy-hung", "api-401")
"""What `--quick` runs: the ones that tell configurations apart."""
