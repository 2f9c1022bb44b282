"""A load balancer's state, collected over SSH by one program that runs there (operate/hosts/on_host.py)."""

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

from model.topology import HEALTH_PORT, METRICS_PORT
from operate.hosts import on_host
from operate.hosts.lock import LOCK
from operate.hosts.ssh import failure_of, output
from operate.stack.applied import AppliedStack

PROGRAM = Path(on_host.__file__).read_bytes()
ANSWER_SECONDS = 15.0
"""A host that has not answered by then is down for the one who asks: its login alone may take 10 s."""


class Service(BaseModel):
    """A systemd unit: `state` is its ActiveState."""

    state: str
    enabled: bool
    since: AwareDatetime | None


class Vrrp(BaseModel):
    """keepalived's state (MASTER, BACKUP, FAULT, STOP) as it told its notify script, and since when."""

    state: str
    since: AwareDatetime


class ApiServer(BaseModel):
    """What HAProxy thinks of an API server: UP, DOWN, MAINT ..., the result of the last check, and since when."""

    state: str
    check: str | None
    """L7OK, L4TOUT ..., as HAProxy names results."""
    code: int | None
    """Of the answer to the check; None when it got none."""
    duration_ms: int | None
    since: AwareDatetime


class HAProxy(BaseModel):
    """What the HAProxy that runs says of itself."""

    alive: bool
    ready: bool
    """It has an API server."""
    version: str | None
    configuration_id: str | None
    """Of the configuration that answers; after a reload that failed it is not the one in the file."""
    configured_id: str | None
    """Of the configuration in the file."""
    api_servers: dict[str, ApiServer]


class InstalledFile(BaseModel):
    """A file as it stands on the host, and the digest of the copy that was last proven to serve.

    Digests are not shown to anybody: a short password in a file could be guessed from one.
    """

    digest: str = Field(exclude=True)
    mode: int
    owner: str
    changed: AwareDatetime
    proven_digest: str | None = Field(exclude=True)


class Certificate(BaseModel):
    """The certificate that an API server shows, as a load balancer sees it; `error` where it cannot be had."""

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
            return {"expires": None, "error": f"it is not understood: {error}"}
        return {"expires": certificate.not_valid_after_utc, "error": None}


class Versions(BaseModel):
    """Of what is installed, and of the kernel that runs."""

    keepalived: str
    kernel: str
    distribution: str


class Change(BaseModel):
    """A change of state: keepalived's own, or of an API server as HAProxy (`source`) sees it."""

    time: AwareDatetime
    source: Literal["keepalived", "haproxy"]
    text: str


class Reboot(BaseModel):
    """Whether `packages` want the host to be booted again, and the newest kernel where an older one runs."""

    required: bool
    packages: list[str]
    newer_kernel: str | None


class Disk(BaseModel):
    """A file system: bytes, and the share of its inodes that is free."""

    size: int
    free: int
    free_inodes: float


class HostState(BaseModel):
    """All that is collected; times are those of the host's clock."""

    time: AwareDatetime
    clock_difference: float = 0
    """Seconds by which the host's clock is ahead of the operator's; 0 for what may be the answer's way."""
    booted: AwareDatetime
    versions: Versions
    services: dict[str, Service]
    vrrp: Vrrp | None
    holds_vip: bool
    haproxy: HAProxy
    files: dict[str, InstalledFile | None]
    changes: list[Change]
    """The last ones, in the order of time."""
    reboot: Reboot
    disks: dict[str, Disk]
    """By mount point."""
    locked_by: str | None
    """Another operator, and with what."""
    drained_by: str | None = None
    """Who has taken it out, why, and since when; it is in again all the same if keepalived runs."""
    certificates: dict[str, Certificate]
    """By API server."""

    @property
    def drained(self) -> bool:
        """It was taken out on purpose, and is."""
        return self.drained_by is not None and self.services["keepalived"].state != "active"


class HostConnection:
    """A load balancer that is asked as often as one likes over one connection, made anew when it is lost."""

    def __init__(self, stack: AppliedStack, name: str) -> None:
        outputs = stack.outputs
        self._access, self._address = stack.access, outputs.load_balancers[name]
        asked = {
            "vip": outputs.vip,
            "health_port": HEALTH_PORT,
            "metrics_port": METRICS_PORT,
            "lock": LOCK,
            "paths": [*outputs.configuration_digests.get(name, ())],
        }
        self._command = f"sudo -n python3 - {shlex.quote(json.dumps(asked))}"
        self._open = AsyncExitStack()
        self._connection: asyncssh.SSHClientConnection | None = None

    async def ask(self) -> HostState | str:
        """Its state, or why it cannot be had."""
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
            return f"the host's answer is not understood: {error}"
        # It looked at its clock at some time in between.
        there = state.time.timestamp()
        return state.model_copy(update={"clock_difference": there - min(max(there, began), ended)})

    async def close(self) -> None:
        """Close the connection; it can be asked again."""
        self._connection = None
        with suppress(OSError, asyncssh.Error):
            await self._open.aclose()


def collect(stack: AppliedStack) -> Mapping[str, HostState | str]:
    """The state of each of a stack's load balancers, or why it could not be had, by name; all at once."""

    async def collect_one(name: str) -> HostState | str:
        host = HostConnection(stack, name)
        try:
            return await host.ask()
        finally:
            await host.close()

    async def collect_all() -> list[HostState | str]:
        return await asyncio.gather(*map(collect_one, stack.outputs.load_balancers))

    return dict(zip(stack.outputs.load_balancers, asyncio.run(collect_all()), strict=True))


async def watch(stack: AppliedStack, seconds: float, show: Callable[[Mapping[str, HostState | str]], None]) -> None:
    """Show what `collect` finds, every so many seconds, until cancelled.

    Each load balancer is asked by itself: one that is down does not make the other one's state old.
    """
    latest: dict[str, HostState | str] = {}

    async def follow(name: str) -> None:
        host = HostConnection(stack, name)
        try:
            while True:
                latest[name] = await host.ask()
                if len(latest) == len(stack.outputs.load_balancers):
                    show(latest)
                await asyncio.sleep(seconds)
        finally:
            await host.close()

    await asyncio.gather(*map(follow, stack.outputs.load_balancers))
