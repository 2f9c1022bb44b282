"""A frontend in front of two workers, in the bench's network: who serves behind it, and what its clients get."""

import re
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from socket import create_connection

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.world import ADDRESSES, DIE_WITH_BENCH, VIP, WORKERS, Machine, Namespace, World, wait_for
from model.load_balancers import CONNECTIONS, NEW_CONNECTIONS, Frontend, LoadBalancerHost
from model.rendering import HostFile
from model.settings import FrontendSettings
from tests.dataplane.benched import OURS
from tests.watches import PATIENCE_SECONDS, Watch

CONFIGURATION = "etc/haproxy/haproxy.cfg"
LIMITS = "etc/haproxy/ha-api/new-connections.nft"
SHARE = 4000
"""Connections of each port: a process may open 20,000 files on the machine of the tests, and a connection needs two."""
RATE, BURST = 500, 5000
"""New connections in a second, and after a quieter time: the tests could not open more than the real limit."""
# It answers with its name, and with the address of the client as the PROXY protocol has it.
WORKER = """
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend ingress
    bind {address}:30443 accept-proxy
    http-request return status 200 content-type text/plain lf-string "{name} %[src]"
"""


def frontend(name: str, port: int) -> Frontend:
    """A frontend that leads to the workers."""
    settings = FrontendSettings.model_validate(
        {"name": name, "port": port, "targetPort": 30443, "check": "http", "checkPath": "/", "proxyProtocol": True}
    )
    return Frontend(settings=settings, servers=tuple((name, ADDRESSES[name]) for name in WORKERS))


INGRESS, ANOTHER = frontend("ingress", 443), frontend("another", 8443)


def files(host: LoadBalancerHost, frontends: Sequence[Frontend] = (INGRESS,)) -> tuple[HostFile, ...]:
    """The files of a load balancer, with smaller shares."""
    pair = replace(host.pair, frontends=tuple(frontends))

    def smaller(text: str) -> str:
        total = pair.connections - (CONNECTIONS - SHARE) * (1 + len(frontends))
        text = text.replace(f"maxconn {pair.connections}\n", f"maxconn {total}\n")
        return text.replace(f"maxconn {CONNECTIONS}\n", f"maxconn {SHARE}\n")

    def slower(text: str) -> str:
        return text.replace(
            f"{NEW_CONNECTIONS}/second burst {CONNECTIONS} packets", f"{RATE}/second burst {BURST} packets"
        )

    changed = {CONFIGURATION: smaller, LIMITS: slower}
    return tuple(
        replace(file, text=changed[file.path](file.text)) if file.path in changed else file
        for file in CONFIGURATIONS[OURS].files(replace(host, pair=pair))
    )


@contextmanager
def workers(world: World, folder: Path) -> Generator[None]:
    """Both workers, for as long as the context lasts; returns once both are up for both load balancers."""
    with ExitStack() as stack:
        for name in WORKERS:
            namespace = stack.enter_context(closing(Namespace(name)))
            world.segment.attach(name, namespace.pid)
            configuration = folder / f"{name}.cfg"
            configuration.write_text(WORKER.format(address=ADDRESSES[name], name=name))
            command = [*DIE_WITH_BENCH, *namespace.enter("haproxy", "-db", "-f", str(configuration))]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
        for machine in world.machines:
            wait_for(f"{machine.name} reaches both workers", lambda m=machine: up(m) == {*WORKERS}, 20)
        yield


def up(machine: Machine) -> set[str]:
    """The servers of the frontend that a load balancer uses."""
    return set(re.findall(r"^ingress,(k8s-\S+?),.*?,UP", _stat(machine), re.MULTILINE))


def connections(machine: Machine) -> int:
    """How many connections of its clients a frontend has."""
    (found,) = re.findall(r"^ingress,FRONTEND,,,(\d+),", _stat(machine), re.MULTILINE)
    return int(found)


def _stat(machine: Machine) -> str:
    socket = machine.root / "run/haproxy-master.sock"
    return subprocess.run(
        ["socat", "-", str(socket)], input="@1 show stat\n", capture_output=True, text=True, check=True
    ).stdout


def ask(world: World, port: int = 443) -> str:
    """What a client gets; empty if nothing within 2 s."""
    command = ["nsenter", f"--net=/proc/{world.clients.pid}/ns/net", "curl", "--silent", "--max-time", "2"]
    return subprocess.run([*command, f"http://{VIP}:{port}/"], capture_output=True, text=True, check=False).stdout


@dataclass(frozen=True)
class IngressWatch(Watch):
    """A connection to the frontend on which nothing is sent."""

    def works(self) -> bool:
        """Whether a worker answers on it."""
        self.connection.sendall(b"GET / HTTP/1.1\r\nHost: ingress\r\n\r\n")
        return self.connection.recv(4096).startswith(b"HTTP/1.1 200")


def watch_ingress() -> IngressWatch:
    """Begin one."""
    watch = IngressWatch(create_connection((str(VIP), 443), PATIENCE_SECONDS), "")
    assert watch.works()
    return watch
