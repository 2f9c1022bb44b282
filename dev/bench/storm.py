"""Thousands of connections at once, as after a failover: `make bench-storm`, as root.

All clients connect at the same moment and stay connected; then the holder dies, and all connect again at once. For
comparison, a third of them connect to one API server directly, which shows what HAProxy adds to the machine's own time.
The API servers are HAProxies here, because the stand-ins of the other benches would be slower than what is measured.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dev.bench.configurations import CONFIGURATIONS, Configuration
from dev.bench.world import ADDRESSES, API_SERVERS, HAPROXY, TOP_PRIORITY, VIP, Machine, World, remove_left_overs
from model.timers import Profile
from model.topology import API_PORT
from operate.measured import Arrivals, Measurements, Storms

# A stand-in API server: it speaks TLS with the checks, and plain HTTP with the clients.
API_SERVER = """
global
    maxconn 9000
defaults
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend arrivals
    mode tcp
    bind {address}:{port}
    tcp-request inspect-delay 30s
    tcp-request content accept if {{ req.len gt 0 }}
    use_backend tls if {{ req.ssl_hello_type 1 }}
    default_backend plain
backend tls
    mode tcp
    server tls 127.0.0.1:7443
backend plain
    mode tcp
    server plain 127.0.0.1:7080
frontend answers
    mode http
    bind 127.0.0.1:7443 ssl crt {certificate}
    bind 127.0.0.1:7080
    http-request return status 200
"""

CONNECTIONS = (1000, 5000)
# Until the health checks of the load balancers have passed: two, half a second apart.
CHECKED_SECONDS = 3.0


def resident_mib(machine: Machine) -> float:
    """Memory of all HAProxy processes of a machine, in MiB."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in machine.processes(HAPROXY))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _replace_api_servers(world: World, folder: Path) -> None:
    for server in world.api_servers:
        configuration = folder / f"{server.name}.cfg"
        address = ADDRESSES[server.name]
        configuration.write_text(API_SERVER.format(address=address, port=API_PORT, certificate=world.certificate))
        server.run(("haproxy", "-db", "-f", str(configuration)))
    time.sleep(CHECKED_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Storm:
    """For each client the seconds until its answer, None without one; and the memory of HAProxy in MiB."""

    at_one_api_server: Sequence[float | None]
    """A third of the clients."""
    at_vip: Sequence[float | None]
    after_death: Sequence[float | None]
    """At the VIP, from the moment its holder died."""
    moved: bool
    """Whether the VIP moved under the load, before its holder died."""
    idle_mib: float
    busy_mib: float


def measure(configuration: Configuration, connections: int, log: Path) -> Storm:
    """Connect `connections` clients, kill the holder, and connect them again."""
    with World(configuration.files, log) as world:
        world.repair()
        holder, idle_mib = world.holder, resident_mib(world.holder)
        _replace_api_servers(world, log)
        with world.clients.storm(str(ADDRESSES[API_SERVERS[0]]), connections // len(API_SERVERS)) as arrive:
            at_one_api_server = arrive()
        with world.clients.storm(str(VIP), connections) as arrive:
            begin = time.monotonic()
            at_vip = arrive()
            moved, busy_mib = world.holders.last_change > begin, resident_mib(holder)
            world.segment.isolate(holder.name)
            holder.power_off(world.holders)
            after_death = arrive()
    return Storm(
        at_one_api_server=at_one_api_server,
        at_vip=at_vip,
        after_death=after_death,
        moved=moved,
        idle_mib=idle_mib,
        busy_mib=busy_mib,
    )


def _row(what: str, answered: Sequence[float | None]) -> tuple[str, ...]:
    times = sorted(seconds for seconds in answered if seconds is not None)
    count = f"{len(times)} of {len(answered)}"
    figures = (median(times), times[len(times) * 99 // 100], times[-1]) if times else ()
    return what, count, *(f"{seconds:.2f} s" for seconds in figures)


def measurements(storms: Mapping[int, Storm]) -> Storms:
    """What documents quote of storms, by the number of connections in ascending order."""
    last = storms[max(storms)]
    return Storms(
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        arrivals=tuple(_arrivals(connections, storm) for connections, storm in storms.items()),
        idle_mib=round(last.idle_mib),
        busy_mib=round(last.busy_mib),
    )


def _arrivals(connections: int, storm: Storm) -> Arrivals:
    """ValueError if a kind of client got no answer at all."""
    kinds = (storm.at_vip, storm.after_death, storm.at_one_api_server)
    last = [round(max(seconds for seconds in answered if seconds is not None), 2) for answered in kinds]
    return Arrivals(
        connections=connections,
        at_vip=last[0],
        after_death=last[1],
        at_one_api_server=last[2],
        unanswered=sum(seconds is None for answered in kinds for seconds in answered),
        moved=storm.moved,
    )


def main(
    configuration: Annotated[str, typer.Option(help="one of `python -m dev.bench --list`")] = Profile.DEFAULT.value,
    out: Annotated[Path, typer.Option(help="folder for journals")] = Path("build/bench-storm"),
) -> None:
    """Measure how long thousands of clients wait when all connect at once; figures of `default` go to measured.json."""
    if os.geteuid() != 0:
        sys.exit("the bench creates network namespaces; run it as root")
    if configuration not in CONFIGURATIONS:
        raise typer.BadParameter(f"unknown configuration {configuration}; choose from {', '.join(CONFIGURATIONS)}")
    console = Console()
    remove_left_overs()
    os.setpriority(os.PRIO_PROCESS, 0, TOP_PRIORITY)
    chosen = CONFIGURATIONS[configuration]
    storms: dict[int, Storm] = {}
    for connections in CONNECTIONS:
        with console.status(f"{connections} clients"):
            storms[connections] = measure(chosen, connections, out / "logs" / chosen.name)
        _print(console, chosen, connections, storms[connections])
    if configuration == Profile.DEFAULT:
        Measurements.read().model_copy(update={"storm": measurements(storms)}).write()


def _print(console: Console, configuration: Configuration, connections: int, storm: Storm) -> None:
    table = Table(f"{connections} clients", "answered", "median", "99 of 100", "last", box=None)
    table.add_row(*_row("at one API server, a third of them", storm.at_one_api_server))
    table.add_row(*_row("at the VIP", storm.at_vip))
    table.add_row(*_row("at the VIP, just after its holder died", storm.after_death))
    console.print(table)
    console.print(
        f"{configuration.title}: the VIP {'moved' if storm.moved else 'stayed'} under the load; "
        f"HAProxy's memory grew from {storm.idle_mib:.0f} to {storm.busy_mib:.0f} MiB",
        highlight=False,
    )


if __name__ == "__main__":
    typer.run(main)
