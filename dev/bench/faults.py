"""The catalogue of faults: what is broken, how it is fixed, how long it is watched, and why it matters.

A fault hits the holder unless its title says otherwise.
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
    VIP,
    ApiServer,
    Machine,
    World,
    WorldError,
    at_plain_priority,
)

CRASH_LOOP_SECONDS, CRASH_EVERY_SECONDS = 10.0, 0.5
BURNERS_PER_CORE = 8
DEAF_CLIENT_SECONDS = 65.0
"""Until all clients that can hear of a silent death have done so: client-go needs 45 s, HAProxy's timeouts a minute."""
SHORT_SECONDS = 10.0
DEAF_TIMES, DEAF_SECONDS = 4, 0.9
STALLS_MS = (200, 300, 500, 700, 1000, 1500, 2000, 3000)
"""How long the holder is paused: the last phase of a live migration, or an overcommitted hypervisor."""


@dataclass
class Scene:
    """One run: the world, and who was holder and peer when the fault was injected."""

    world: World
    mark: Callable[[str], None]
    """Records what is done to the system now."""
    clean_up: ExitStack = field(default_factory=ExitStack)
    """Run at the end of the run, however it ends."""

    def __post_init__(self) -> None:
        self.holder, self.peer = self.world.holder, self.world.peer

    @property
    def hit(self) -> ApiServer:
        """The API server that faults of a single API server hit."""
        return self.world.api_servers[0]


def _nothing(scene: Scene) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault, watched for `at_least` to `at_most` seconds: less than `at_most` once nothing happens any more."""

    name: str
    title: str
    why: str
    inject: Callable[[Scene], None]
    fix: Callable[[Scene], None] | None = None
    prepare: Callable[[Scene], None] = _nothing
    """Runs before the clients start."""
    at_least: float = 5
    at_most: float = 45
    hit: tuple[str, ...] = ()
    """The API servers that should get no more requests."""
    pair_before: bool = True
    """Whether both load balancers work after `prepare`."""
    once: bool = False
    """The result is the same each time, so one run is enough."""
    long: bool = False
    """It is watched for minutes, with fewer requests, so that all configurations can run at the same time."""


# ---- a whole load balancer -------------------------------------------------------------------------------------------


def _node_death(scene: Scene) -> None:
    # Cut off first: while the processes die the kernel still sends packets, which a host without power does not.
    scene.world.segment.isolate(scene.holder.name)
    scene.holder.power_off(scene.world.holders)


def _node_returns(scene: Scene) -> None:
    scene.world.segment.restore()
    gone = next(machine for machine in scene.world.machines if not machine.running)
    scene.world.boot(gone)


def _restore_network(scene: Scene) -> None:
    scene.world.segment.restore()


def _higher_address_holds(scene: Scene) -> None:
    """Of two holders that hear each other, the one with the higher address stays: here, the one that is not heard."""
    if scene.holder is not scene.world.machines[-1]:
        if error := scene.holder.systemctl("restart", KEEPALIVED):
            raise WorldError(error)
        scene.world.wait_until_serving(20, scene.world.machines)
        scene.holder, scene.peer = scene.world.holder, scene.world.peer


def _deaf_standby(scene: Scene) -> None:
    scene.world.segment.deafen(scene.peer.name, scene.holder.name)


def _deaf_standby_at_times(scene: Scene) -> None:
    for _ in range(DEAF_TIMES):
        _deaf_standby(scene)
        time.sleep(DEAF_SECONDS)
        scene.world.segment.restore()
        time.sleep(3)
    scene.mark("heard from now on")


def _stall(milliseconds: int) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        # The kernel still completes TCP handshakes, while a paused guest does so only afterwards. In both cases no
        # client gets further than that.
        scene.holder.signal(signal.SIGSTOP)
        time.sleep(milliseconds / 1000)
        scene.holder.signal(signal.SIGCONT)
        scene.mark("resumes")

    return inject


def _replace(scene: Scene, machine: Machine) -> None:
    machine.shut_down(scene.world.holders)
    scene.mark(f"{machine.name} is down")
    time.sleep(1)
    scene.world.boot(machine)
    scene.mark(f"{machine.name} is up")
    scene.world.wait_until_serving(30, scene.world.machines, steady=1)


def _rolling_replacement(scene: Scene) -> None:
    for machine in scene.world.machines:
        _replace(scene, machine)


class _Burners:
    """Processes that use all CPU time, shared by all worlds that burn CPU at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._worlds = 0

    def start(self, scene: Scene) -> None:
        """Burn CPU until the last scene that started it is over."""
        with self._lock:
            self._worlds += 1
            scene.clean_up.callback(self._end)
            while len(self._processes) < BURNERS_PER_CORE * (os.cpu_count() or 1):
                command = [*DIE_WITH_BENCH, *at_plain_priority(), "sh", "-c", "while :; do :; done"]
                self._processes.append(subprocess.Popen(command))

    def _end(self) -> None:
        with self._lock:
            self._worlds -= 1
            while self._processes and not self._worlds:
                self._processes[-1].kill()
                self._processes.pop().wait()


_burners = _Burners()


# ---- its services ----------------------------------------------------------------------------------------------------


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
    """Change a file and reload, on one host and `seconds` later on the other, as `pulumi up` does."""

    def inject(scene: Scene) -> None:
        for machine in scene.world.machines:
            before = (machine.root / path).read_text()
            after = edit(before)
            if after == before:
                raise WorldError(f"{machine.name}: {path} has nothing to change")
            if error := _reload(scene, machine, path, after, unit):
                raise WorldError(f"{machine.name}: {error}")
            time.sleep(seconds)

    return inject


def _refused(path: str, addition: str, unit: str) -> Callable[[Scene], None]:
    """Reload with an invalid file, on one host after the other."""

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
    """The file with the line of the last API server as a comment."""
    return re.sub(rf"^(?= *server .* {re.escape(_LEAVING)}:)", _LEFT_OUT, text, flags=re.MULTILINE)


def with_second_vip(text: str) -> str:
    """The file with a second VIP, the next address, on a line below the first."""
    line = rf"^( *){re.escape(str(VIP))}\b(.*\n)"
    return re.sub(line, rf"\g<0>\g<1>{_SECOND_VIP}\g<2>", text, flags=re.MULTILINE)


def _without_second_vip(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if _SECOND_VIP not in line)


# ---- API servers -----------------------------------------------------------------------------------------------------


def _one_answers(word: str) -> Callable[[Scene], None]:
    return lambda scene: scene.hit.answer(word)


def _all_answer(word: str) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        for server in scene.world.api_servers:
            server.answer(word)

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
        why="Live migration and CPU steal pause a guest; moving the VIP for that is an unnecessary interruption.",
        inject=_stall(milliseconds),
        once=True,
    )


def _loss_fault(percent: int, seconds: float) -> Fault:
    return Fault(
        name=f"pair-loss-{percent}",
        title=f"{percent} % of the packets between the load balancers are lost",
        why="Advertisements are lost in a row by chance; how many it takes decides how often the VIP moves.",
        inject=lambda scene: scene.world.segment.separate(scene.holder.name, [scene.peer.name], percent),
        fix=_restore_network,
        at_least=seconds,
        at_most=seconds,
        once=True,
        long=True,
    )


_ALL = (
    Fault(
        name="node-death",
        title="the load balancer dies",
        why="A hypervisor crashes and the instance disappears without sending anything.",
        inject=_node_death,
        at_least=DEAF_CLIENT_SECONDS,
        at_most=90,
    ),
    Fault(
        name="node-returns",
        title="the dead load balancer comes back",
        why="If the VIP moves back, that is a second interruption, and every connection is cut again.",
        inject=_node_returns,
        prepare=_node_death,
        pair_before=False,
        at_least=10,
        once=True,
    ),
    Fault(
        name="link-cut",
        title="the load balancer is cut off",
        why="A switch port or a cable fails: the holder is alive and believes that it still has the VIP.",
        inject=lambda scene: scene.world.segment.isolate(scene.holder.name),
        fix=_restore_network,
        at_least=DEAF_CLIENT_SECONDS,
        at_most=90,
    ),
    Fault(
        name="partition",
        title="the load balancers cannot hear each other",
        why="Clients reach both, and both have the VIP: without a third host nobody can decide between them.",
        inject=lambda scene: scene.world.segment.separate(scene.holder.name, [scene.peer.name]),
        fix=_restore_network,
    ),
    Fault(
        name="own-address-lost",
        title="the load balancer loses its own address",
        why="A DHCP client gives up: the link is up, but the holder has no address from which to reach anybody.",
        inject=lambda scene: scene.holder.lose_address(),
        fix=lambda scene: scene.holder.get_address(),
        at_least=8,
        at_most=25,
    ),
    Fault(
        name="standby-own-address-lost",
        title="the standby loses its own address",
        why="It hears nobody from then on, and must not conclude that the holder is dead.",
        inject=lambda scene: scene.peer.lose_address(),
        fix=lambda scene: scene.peer.get_address(),
        at_least=8,
        at_most=25,
    ),
    Fault(
        name="link-down",
        title="the load balancer's link goes down",
        why="Unlike a load balancer that is cut off, this one can see it.",
        inject=lambda scene: scene.world.segment.unplug(scene.holder.name),
        fix=lambda scene: scene.world.segment.plug(scene.holder.name),
        at_least=8,
        at_most=25,
        once=True,
    ),
    Fault(
        name="one-way-loss",
        title="the standby does not hear the holder, which hears the standby",
        why="A firewall on one of them, or half a cable. Both hold the VIP, and only one of them can know it.",
        inject=_deaf_standby,
        fix=_restore_network,
        prepare=_higher_address_holds,
        at_least=12,
        # The watchdog waits for half a minute before it ends a keepalived again, which repeats would measure.
        once=True,
    ),
    Fault(
        name="one-way-bursts",
        title=f"the standby does not hear the holder for {DEAF_SECONDS:g} s, {DEAF_TIMES} times",
        why="A burst of loss in one direction ends by itself, and is no reason to end a holder that works.",
        inject=_deaf_standby_at_times,
        prepare=_higher_address_holds,
        once=True,
    ),
    *(_stall_fault(milliseconds) for milliseconds in (500, 2000)),
    Fault(
        name="keepalived-main-killed",
        title="keepalived's main process is killed",
        why="The child process that speaks VRRP loses its parent.",
        inject=_kill_main(KEEPALIVED),
    ),
    Fault(
        name="keepalived-killed",
        title="all keepalived processes are killed",
        why="As the OOM killer does it: the VIP stays on a host that no longer advertises it.",
        inject=_signal_all(signal.SIGKILL, KEEPALIVED),
        at_least=8,
    ),
    Fault(
        name="keepalived-hung",
        title="keepalived hangs",
        why="The VIP stays and the advertisements stop: two holders, although nothing crashed.",
        inject=_signal_all(signal.SIGSTOP, KEEPALIVED),
        fix=_signal_all(signal.SIGCONT, KEEPALIVED),
        at_least=8,
        once=True,
    ),
    Fault(
        name="keepalived-stopped",
        title="keepalived is stopped",
        why="Maintenance: an operator drains the load balancer.",
        inject=_job("stop", KEEPALIVED),
        fix=_job("start", KEEPALIVED),
        once=True,
    ),
    Fault(
        name="keepalived-restarted",
        title="keepalived is restarted",
        why="A package upgrade restarts it, unattended, at night.",
        inject=_job("restart", KEEPALIVED),
    ),
    Fault(
        name="haproxy-killed",
        title="all HAProxy processes are killed",
        why="As the OOM killer does it; the service manager starts HAProxy again.",
        inject=_signal_all(signal.SIGKILL, HAPROXY),
    ),
    Fault(
        name="haproxy-stopped",
        title="HAProxy is stopped",
        why="A failed upgrade, or one crash too many for the service manager, leaves it stopped.",
        inject=_job("stop", HAPROXY),
        fix=_job("start", HAPROXY),
    ),
    Fault(
        name="haproxy-worker-killed",
        title="HAProxy's worker is killed",
        why="A crash: it is the worker that parses traffic and hits memory errors.",
        inject=_kill_worker,
        once=True,
    ),
    Fault(
        name="haproxy-hung",
        title="HAProxy hangs",
        why="The kernel accepts connections for a process that never answers, so an open port proves nothing.",
        inject=_signal_all(signal.SIGSTOP, HAPROXY),
        fix=_signal_all(signal.SIGCONT, HAPROXY),
    ),
    Fault(
        name="haproxy-crash-loop",
        title=f"HAProxy crashes every {CRASH_EVERY_SECONDS:g} s for {CRASH_LOOP_SECONDS:g} s",
        why="A bad release or bad memory: it is up whenever somebody checks, and down right after.",
        inject=_crash_loop,
        once=True,
    ),
    Fault(
        name="holder-without-api",
        title="the load balancer reaches no API server, but its peer does",
        why="Half of the network fails: HAProxy runs and answers, but has no server to send requests to.",
        inject=lambda scene: scene.world.segment.separate(scene.holder.name, API_SERVERS),
        fix=_restore_network,
        at_most=30,
    ),
    Fault(
        name="api-killed",
        title="an API server is killed",
        why="The kernel refuses connections: the easiest failure to notice.",
        inject=lambda scene: scene.hit.signal(signal.SIGKILL),
        fix=lambda scene: scene.hit.start(),
        hit=_HIT,
        at_most=20,
    ),
    Fault(
        name="api-black-holed",
        title="an API server's host is gone",
        why="Nothing answers, not even with a refusal, so every attempt costs a timeout.",
        inject=lambda scene: scene.world.segment.isolate(scene.hit.name),
        fix=_restore_network,
        hit=_HIT,
        at_least=DEAF_CLIENT_SECONDS,
        at_most=90,
    ),
    Fault(
        name="api-hung",
        title="an API server hangs",
        why="Its kernel accepts connections, but no answer comes: only a check that waits for one notices.",
        inject=lambda scene: scene.hit.signal(signal.SIGSTOP),
        fix=lambda scene: scene.hit.signal(signal.SIGCONT),
        hit=_HIT,
        at_most=20,
    ),
    Fault(
        name="api-500",
        title="an API server answers 500",
        why="Its etcd is gone; only a check that reads the status code notices.",
        inject=_one_answers("failing"),
        fix=_one_answers("healthy"),
        hit=_HIT,
        at_most=20,
    ),
    Fault(
        name="api-401",
        title="all API servers answer anonymous checks with 401",
        why="`--anonymous-auth=false` is good practice; taking all servers out because of it is a total outage.",
        inject=_all_answer("401"),
        fix=_all_answer("healthy"),
        hit=API_SERVERS,
        at_least=8,
        at_most=20,
        once=True,
    ),
    Fault(
        name="api-403",
        title="all API servers answer anonymous checks with 403",
        why="Somebody removes the role that lets anonymous clients read /readyz.",
        inject=_all_answer("403"),
        fix=_all_answer("healthy"),
        hit=API_SERVERS,
        at_least=8,
        at_most=20,
        once=True,
    ),
    Fault(
        name="api-slow",
        title="an API server answers after 400 ms",
        why="A busy server is not a dead one: taking it out makes the others busier.",
        inject=_one_answers("slow 400"),
        fix=_one_answers("healthy"),
        hit=_HIT,
        at_least=8,
        at_most=12,
        once=True,
    ),
    Fault(
        name="api-all-down",
        title="all API servers are killed, and start again 6 s later",
        why="How soon clients are served again depends on the load balancers; moving the VIP does not help.",
        inject=_all_down_and_back,
        at_most=30,
    ),
    _loss_fault(10, seconds=600),
    _loss_fault(30, seconds=120),
    Fault(
        name="cpu-burn",
        title=f"{BURNERS_PER_CORE} processes per core use all CPU time",
        why="An overloaded holder must still send its advertisements in time.",
        inject=_burners.start,
        at_least=600,
        at_most=600,
        once=True,
        long=True,
    ),
    Fault(
        name="nothing",
        title="nothing is broken",
        why="Watches and `kubectl logs -f` are quiet for minutes; a timeout that cuts them is an outage of its own.",
        inject=_nothing,
        at_least=180,
        at_most=180,
        once=True,
        long=True,
    ),
    Fault(
        name="haproxy-reload",
        title="HAProxy's configuration changes",
        why="Every `pulumi up` with a change does this, during working hours.",
        inject=_edit(_HAPROXY_CFG, lambda text: text + _LISTEN, HAPROXY),
        fix=_edit(_HAPROXY_CFG, lambda text: text.removesuffix(_LISTEN), HAPROXY),
        once=True,
    ),
    Fault(
        name="haproxy-refused",
        title="HAProxy refuses a changed configuration",
        why="A mistake must not cost more than a valid change.",
        inject=_refused(_HAPROXY_CFG, "\nno such directive\n", HAPROXY),
        once=True,
    ),
    Fault(
        name="api-servers-changed",
        title="an API server is removed from the configuration and added back",
        why="Connected clients must not notice that the control plane grows or shrinks.",
        inject=_edit(_HAPROXY_CFG, without_last_api_server, HAPROXY),
        fix=_edit(_HAPROXY_CFG, lambda text: text.replace(_LEFT_OUT, ""), HAPROXY),
        once=True,
    ),
    Fault(
        name="keepalived-reload",
        title="keepalived's configuration changes",
        why="A reload restarts all checks; one that counts as failed until its first run loses the VIP.",
        inject=_edit(_KEEPALIVED_CONF, lambda text: text + _COMMENT, KEEPALIVED),
        fix=_edit(_KEEPALIVED_CONF, lambda text: text.removesuffix(_COMMENT), KEEPALIVED),
        once=True,
    ),
    Fault(
        name="vip-added",
        title="a second VIP is added, then removed",
        why="One host has the new list first, and keepalived ignores advertisements whose list differs from its own.",
        # Long enough for a peer that waits for three missed advertisements, one second apart.
        inject=_edit(_KEEPALIVED_CONF, with_second_vip, KEEPALIVED, seconds=5),
        fix=_edit(_KEEPALIVED_CONF, _without_second_vip, KEEPALIVED, seconds=5),
        once=True,
    ),
    Fault(
        name="rolling-replacement",
        title="both load balancers are replaced, one after the other",
        why="A new image: each host is shut down in order, and one that has just booted takes over.",
        inject=_rolling_replacement,
    ),
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _ALL}


def shortened(fault: Fault) -> Fault:
    """Watched only until requests are answered again, without waiting for silent clients."""
    return replace(fault, at_least=min(fault.at_least, SHORT_SECONDS))


OF_TIMERS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        shortened(FAULTS["node-death"]),
        *(replace(_stall_fault(ms), once=False) for ms in STALLS_MS),
        FAULTS["pair-loss-30"],
    )
}
"""The faults that tell choices of timers apart."""

QUICK = ("node-death", "node-returns", "keepalived-killed", "haproxy-stopped", "haproxy-hung", "api-401")
"""The faults of `--quick`: those that tell configurations apart."""
