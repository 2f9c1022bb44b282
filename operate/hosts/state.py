"""A load balancer's state, collected over SSH by a program that runs there (operate/hosts/on_host.py)."""

import asyncio
import json
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Literal

import asyncssh
from cryptography import x509
from pydantic import AwareDatetime, BaseModel, Field, ValidationError, model_validator

from model.topology import API_PORT, HEALTH_PORT, METRICS_PORT
from operate.hosts import on_host
from operate.hosts.lock import LOCK
from operate.hosts.ssh import failure_of, output
from operate.stack.applied import AppliedStack

PROGRAM = Path(on_host.__file__).read_bytes()
ANSWER_SECONDS = 15.0
"""A host that has not answered by then counts as down; a login alone may take 10 s."""


class Service(BaseModel):
    """A systemd unit: `state` is its ActiveState."""

    state: str
    enabled: bool
    since: AwareDatetime | None


class Vrrp(BaseModel):
    """The state that keepalived reported to its notify script (MASTER, BACKUP, FAULT, STOP), and since when."""

    state: str
    since: AwareDatetime


class Server(BaseModel):
    """HAProxy's view of a server: its state (UP, DOWN, MAINT ...), since when, and the last health check."""

    state: str
    check: str | None
    """HAProxy's name of the result: L7OK, L4TOUT ..."""
    code: int | None
    """Status code of the answer; None without an answer."""
    duration_ms: int | None
    since: AwareDatetime


class HAProxy(BaseModel):
    """What the running HAProxy reports."""

    alive: bool
    ready: bool
    """Whether it has an API server."""
    version: str | None
    configuration_id: str | None
    """Id of the running configuration; after a failed reload it differs from the file's."""
    configured_id: str | None
    """Id of the configuration in the file."""
    api_servers: dict[str, Server]
    frontends: dict[str, dict[str, Server]] = {}
    """The servers of each, by the frontend's name."""


class InstalledFile(BaseModel):
    """A file on the host, and the digests of its last proven copy and of the one that a failed run has staged.

    Digests are never shown: a short password in a file could be guessed from one.
    """

    digest: str = Field(exclude=True)
    mode: int
    owner: str
    changed: AwareDatetime
    proven_digest: str | None = Field(exclude=True)
    staged_digest: str | None = Field(None, exclude=True)


class Interface(BaseModel):
    """The interface that has the host's address, and the one that keepalived is configured for."""

    name: str | None
    configured: str | None


class Certificate(BaseModel):
    """The certificate that an API server presents to a load balancer; `error` if it is unavailable."""

    expires: AwareDatetime | None
    error: str | None

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, found: dict[str, Any]) -> dict[str, Any]:
        if "pem" not in found:
            return {"expires": None, "error": None} | found
        try:
            certificate = x509.load_pem_x509_certificate(str(found["pem"]).encode())
        except ValueError as error:
            return {"expires": None, "error": f"not a valid certificate: {error}"}
        return {"expires": certificate.not_valid_after_utc, "error": None}


class Versions(BaseModel):
    """Versions of the running kernel, keepalived and the distribution."""

    keepalived: str
    kernel: str
    distribution: str


class Change(BaseModel):
    """A change of state: keepalived's own, or an API server's in HAProxy."""

    time: AwareDatetime
    source: Literal["keepalived", "haproxy"]
    text: str


class Reboot(BaseModel):
    """Whether `packages` require a reboot, and the newest installed kernel if an older one runs."""

    required: bool
    packages: list[str]
    newer_kernel: str | None


class Disk(BaseModel):
    """A file system: its size in bytes, and what is free of it and of its inodes (a share)."""

    size: int
    free: int
    free_inodes: float


class Handover(BaseModel):
    """What goes on through a load balancer that has given the VIP up on purpose, and for how many seconds at most."""

    connections: int
    seconds_left: int


class HostState(BaseModel):
    """Everything that is collected; times are by the host's clock."""

    time: AwareDatetime
    clock_difference: float = 0
    """Seconds by which the host's clock is ahead of this machine's; 0 if the answer's travel time may explain it."""
    booted: AwareDatetime
    versions: Versions
    services: dict[str, Service]
    interface: Interface | None = None
    vrrp: Vrrp | None
    default_route: bool = True
    """Without one, clients outside the subnet get no answer from it, and its priority is lower."""
    holds_vip: bool
    haproxy: HAProxy
    files: dict[str, InstalledFile | None]
    changes: list[Change]
    """The last ones, oldest first."""
    reboot: Reboot
    disks: dict[str, Disk]
    """By mount point."""
    locked_by: str | None
    """The operator who holds the lock, and why."""
    drained_by: str | None = None
    """Who drained it, why, and since when; if keepalived runs, it is in service nevertheless."""
    handover: Handover | None = None
    certificates: dict[str, Certificate]
    """By API server."""
    ca_expires: AwareDatetime | None = None
    """When the CA that HAProxy's checks trust expires, if they have one."""

    @property
    def drained(self) -> bool:
        """Whether it is drained: on purpose, and still out of service."""
        return self.drained_by is not None and self.services["keepalived"].state != "active"


class HostConnection:
    """A connection for repeated queries of a load balancer's state; it reconnects when the connection is lost."""

    def __init__(self, stack: AppliedStack, name: str) -> None:
        outputs = stack.outputs
        self._access, self._address = stack.access, outputs.load_balancers[name]
        arguments = {
            "vip": outputs.vip,
            "address": self._address,
            "api_port": API_PORT,
            "health_port": HEALTH_PORT,
            "metrics_port": METRICS_PORT,
            "lock": LOCK,
            "paths": [*outputs.configuration_digests.get(name, ())],
        }
        self._command = f"sudo -n python3 - {shlex.quote(json.dumps(arguments))}"
        self._open = AsyncExitStack()
        self._connection: asyncssh.SSHClientConnection | None = None

    async def query(self) -> HostState | str:
        """Its state, or why it is unavailable."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if self._connection is None:
                    self._connection = await self._open.enter_async_context(self._access.connect(self._address))
                began = time.time()
                answer = await output(self._connection, self._command, PROGRAM)
                ended = time.time()
            state = HostState.model_validate_json(answer)
        except (OSError, asyncssh.Error) as error:
            await self.close()
            return failure_of(error)
        except ValidationError as error:
            return f"unexpected answer from the host: {error}"
        # The host read its clock between `began` and `ended`.
        there = state.time.timestamp()
        return state.model_copy(update={"clock_difference": there - min(max(there, began), ended)})

    async def close(self) -> None:
        """Close the connection; a later query reconnects."""
        self._connection = None
        with suppress(OSError, asyncssh.Error):
            await self._open.aclose()


def collect(stack: AppliedStack) -> Mapping[str, HostState | str]:
    """The state of each load balancer of a stack, or why it is unavailable, by name; collected in parallel."""

    async def collect_one(name: str) -> HostState | str:
        host = HostConnection(stack, name)
        try:
            return await host.query()
        finally:
            await host.close()

    async def collect_all() -> list[HostState | str]:
        return await asyncio.gather(*map(collect_one, stack.outputs.load_balancers))

    return dict(zip(stack.outputs.load_balancers, asyncio.run(collect_all()), strict=True))


async def watch(stack: AppliedStack, seconds: float, show: Callable[[Mapping[str, HostState | str]], None]) -> None:
    """Show what `collect` would return every `seconds`, until cancelled.

    Each load balancer is queried on its own schedule: one that is down does not delay the other one's state.
    """
    latest: dict[str, HostState | str] = {}

    async def follow(name: str) -> None:
        host = HostConnection(stack, name)
        try:
            while True:
                latest[name] = await host.query()
                if len(latest) == len(stack.outputs.load_balancers):
                    show(latest)
                await asyncio.sleep(seconds)
        finally:
            await host.close()

    await asyncio.gather(*map(follow, stack.outputs.load_balancers))
