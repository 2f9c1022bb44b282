"""A load balancer's state, collected over SSH by one program that runs there (operate/on_host.py)."""

import asyncio
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import asyncssh
from pydantic import AwareDatetime, BaseModel, ValidationError

from model.topology import HEALTH_PORT, METRICS_PORT
from operate import on_host
from operate.ssh import failure_of, output
from operate.stack import AppliedStack

PROGRAM = Path(on_host.__file__).read_bytes()


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
    """A file as it stands on the host, and the digest of the copy that was last proven to serve."""

    digest: str
    mode: int
    owner: str
    changed: AwareDatetime
    proven_digest: str | None


class HostState(BaseModel):
    """All that is collected; times are those of the host's clock."""

    time: AwareDatetime
    booted: AwareDatetime
    services: dict[str, Service]
    vrrp: Vrrp | None
    holds_vip: bool
    haproxy: HAProxy
    files: dict[str, InstalledFile | None]


def collect(stack: AppliedStack) -> Mapping[str, HostState | str]:
    """The state of each of a stack's load balancers, or why it could not be had, by name; all at once."""

    async def collect_all() -> list[HostState | str]:
        names = stack.outputs.load_balancers
        return await asyncio.gather(
            *(
                _collect(stack, address, stack.outputs.configuration_digests.get(name, ()))
                for name, address in names.items()
            )
        )

    return dict(zip(stack.outputs.load_balancers, asyncio.run(collect_all()), strict=True))


async def _collect(stack: AppliedStack, address: str, paths: Iterable[str]) -> HostState | str:
    asked = {
        "vip": stack.outputs.vip,
        "health_port": HEALTH_PORT,
        "metrics_port": METRICS_PORT,
        "paths": [*paths],
    }
    command = f"sudo -n python3 - {shlex.quote(json.dumps(asked))}"
    try:
        async with stack.access.connect(address) as connection:
            return HostState.model_validate_json(await output(connection, command, PROGRAM))
    except (OSError, asyncssh.Error) as error:
        return failure_of(error)
    except ValidationError as error:
        return f"the host's answer is not understood: {error}"
