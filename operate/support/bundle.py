"""A support bundle: what somebody far away needs to understand a pair, in one archive, without secrets.

Everything is collected into memory, redacted there, and only then written: no secret touches this machine's disk, and
there is an archive or none.
"""

import asyncio
import io
import json
import os
import shlex
import subprocess
import tarfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any, cast

import asyncssh
from keystoneauth1.exceptions import ClientException
from openstack.exceptions import SDKException
from pydantic import TypeAdapter, ValidationError

from model.topology import METRICS_PORT
from operate.hosts.instance import CLOUD_SECONDS
from operate.hosts.look import look
from operate.hosts.report import PairReport
from operate.hosts.ssh import failure_of, output
from operate.stack.applied import AppliedStack, without_secrets
from operate.stack.engine import StackError
from operate.stack.files import ROOT
from operate.support import on_host
from operate.support.redaction import REDACTED, redactor

PROGRAM = Path(on_host.__file__).read_bytes()
CONSOLE_LINES = 1000
HOST_SECONDS = 180
"""Some 35 commands of up to 15 s each, four at a time: a host in distress is what a bundle is made for."""
Texts = Mapping[str, str]
"""Texts by their path in the archive."""
Progress = Callable[[str], None]
_TEXTS = TypeAdapter(dict[str, str])

# By name and not all of it: an instance's user data has the host's private key in it, and metadata may have anything.
_INSTANCE = (
    "name id status task_state vm_state power_state fault addresses flavor image created_at updated_at launched_at "
    "availability_zone compute_host hypervisor_hostname host_id security_groups server_groups"
)
_PORT = (
    "name id status is_admin_state_up device_id device_owner mac_address fixed_ips allowed_address_pairs "
    "is_port_security_enabled security_group_ids binding_vif_type binding_host_id created_at updated_at"
)
_NETWORK = (
    "name id status is_admin_state_up is_shared is_router_external is_port_security_enabled mtu provider_network_type"
)
_SUBNET = "name id cidr gateway_ip is_dhcp_enabled allocation_pools dns_nameservers host_routes"
# A group has its rules as Neutron sends them.
_RULE = "id direction ethertype protocol port_range_min port_range_max remote_ip_prefix remote_group_id created_at"

README = """\
Support bundle of the stack {stack}, made {made:%Y-%m-%d %H:%M:%S} UTC.

status/                   what `./ha status` says, for readers and for programs
stack/                    the stack's outputs, configuration and last updates as the engine has them; versions
cloud/                    instances, ports, security groups, network, consoles as the cloud has them
HOST/journal/             journals since {since}, of each the last {lines} lines
HOST/files/               configuration, unit files, logs, states, as they stand on the host
HOST/commands/            addresses, sockets, packet filter, services, packages, time, disks, memory
HOST/haproxy/             HAProxy's own numbers
not-to-be-had.txt         in place of a folder's texts: why they could not be had

Secrets were taken out before anything was written, and {redacted} stands for each: every secret of the stack's
configuration as it is now, private keys, VRRP passwords, and what looks like a token or a password. Names and addresses
of hosts and networks are in it, so look at it before you hand it on.

{manifest}
"""


def make(stack: AppliedStack, since: str, report: Callable[[PairReport], str], progress: Progress) -> bytes:
    """The archive (tar, gzip). `since` as journalctl takes it; `report` shows one to a reader.

    What cannot be had is told in the archive and to `progress`; nothing is raised for it.
    """
    made = datetime.now(UTC)
    texts = asyncio.run(_collect(stack, since, report, progress))
    redact = redactor(_secrets(stack))
    clean = {redact(path): redact(text) for path, text in sorted(texts.items())}
    manifest = "\n".join(f"{len(text.encode()):>9}  {path}" for path, text in clean.items())
    readme = README.format(
        stack=stack.name,
        made=made,
        since=since,
        lines=on_host.JOURNAL_LINES,
        redacted=REDACTED,
        manifest=manifest,
    )
    return _archive(f"support-{stack.name}", {"README.txt": readme} | clean, made)


def write(archive: bytes, path: Path) -> None:
    """Write an archive for the user alone, whole or not at all. OSError when it cannot be."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - for the mode
            file.write(archive)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _archive(folder: str, texts: Texts, made: datetime) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path, text in texts.items():
            data = text.encode(errors="replace")
            member = tarfile.TarInfo(f"{folder}/{path}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(made.timestamp())
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def _secrets(stack: AppliedStack) -> Iterator[str]:
    """The configuration's, and what this machine logs in to the cloud with."""
    yield from stack.configuration.secrets
    yield stack.configuration.private_key
    with suppress(SDKException, ClientException):
        login: dict[str, Any] = stack.configuration.cloud().config.get_auth_args()
        yield from (str(login[key]) for key in ("password", "token", "application_credential_secret") if login.get(key))


async def _collect(
    stack: AppliedStack, since: str, report: Callable[[PairReport], str], progress: Progress
) -> dict[str, str]:
    async def host(name: str) -> Texts:
        asked = json.dumps({"since": since, "metrics_port": METRICS_PORT})
        command = f"sudo -n python3 - {shlex.quote(asked)}"
        async with stack.access.connect(stack.outputs.load_balancers[name]) as connection:
            return _TEXTS.validate_json(await output(connection, command, PROGRAM, seconds=HOST_SECONDS))

    async def attempt(folder: str, texts: Awaitable[Texts]) -> dict[str, str]:
        began = time.monotonic()
        try:
            found = await texts
            progress(f"{folder}: {len(found)} texts in {time.monotonic() - began:.1f} s")
        except (OSError, asyncssh.Error) as error:
            found = _not_to_be_had(folder, failure_of(error), progress)
        except (StackError, SDKException, ClientException, ValidationError) as error:
            found = _not_to_be_had(folder, str(error), progress)
        return {f"{folder}/{path}": text for path, text in found.items()}

    # The engine and the cloud are asked in threads of their own, for their clients wait.
    of_all = await asyncio.gather(
        *(attempt(name, host(name)) for name in stack.outputs.load_balancers),
        attempt("cloud", asyncio.to_thread(_cloud, stack)),
        attempt("stack", asyncio.to_thread(_engine, stack)),
        attempt("status", asyncio.to_thread(_status, stack, report)),
    )
    return {path: text for texts in of_all for path, text in texts.items()}


def _not_to_be_had(folder: str, reason: str, progress: Progress) -> Texts:
    progress(f"{folder}: not to be had: {reason}")
    return {"not-to-be-had.txt": reason + "\n"}


def _status(stack: AppliedStack, report: Callable[[PairReport], str]) -> Texts:
    found = look(stack, with_instances=True)
    return {"status.txt": report(found), "status.json": found.model_dump_json(indent=2)}


def _engine(stack: AppliedStack) -> Texts:
    git = {
        "commit.txt": ("git", "log", "-1", "--format=%H %cI %s"),
        "changed-files.txt": ("git", "status", "--short"),
    }

    def run(command: tuple[str, ...]) -> str:
        done = subprocess.run(command, cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True, check=False)
        return done.stdout

    return without_secrets(stack.name) | {name: run(command) for name, command in git.items()}


def _cloud(stack: AppliedStack) -> Texts:
    cloud: Any = stack.configuration.cloud()
    cloud.session.timeout = CLOUD_SECONDS
    prefix = f"{stack.settings.cluster_name}-"
    servers = [it for it in cloud.compute.servers() if it.name.startswith(prefix)]
    ids = {server.id for server in servers}
    ports = [it for it in cloud.network.ports() if it.name.startswith(prefix) or it.device_id in ids]
    group_ids = {*stack.outputs.security_group_ids.values()}
    groups = [it for it in cloud.network.security_groups() if it.id in group_ids]
    # Looked for in lists: one that is gone, or of others, must not take the rest with it.
    network_ids = {port.network_id for port in ports}
    networks = [it for it in cloud.network.networks() if it.id in network_ids]
    subnets = [it for it in cloud.network.subnets() if it.network_id in network_ids]
    rules = {
        group.name: [{field: rule.get(field) for field in _RULE.split()} for rule in group.security_group_rules]
        for group in groups
    }
    found = {
        "instances.json": _fields(servers, _INSTANCE),
        "ports.json": _fields(ports, _PORT),
        "security-group-rules.json": rules,
        "networks.json": _fields(networks, _NETWORK),
        "subnets.json": _fields(subnets, _SUBNET),
    }
    consoles = {
        f"console-{server.name}.log": _console(cloud, server)
        for server in servers
        if server.name in stack.outputs.load_balancers
    }
    return {name: json.dumps(_told(it), indent=2, ensure_ascii=False) for name, it in found.items()} | consoles


def _console(cloud: Any, server: Any) -> str:
    """What an instance has printed; or why Nova does not tell, as of one in ERROR, which is then worth telling."""
    try:
        return cloud.compute.get_server_console_output(server, length=CONSOLE_LINES)["output"]
    except (SDKException, ClientException) as error:
        return f"not to be had: {error}\n"


def _fields(resources: Iterable[Any], names: str) -> list[dict[str, Any]]:
    return [{name: getattr(resource, name) for name in names.split()} for resource in resources]


def _told(value: Any) -> Any:
    """Without what the cloud does not tell: the client has a field for everything that any cloud could."""
    match value:
        case dict():
            return {key: _told(it) for key, it in cast("dict[str, Any]", value).items() if it is not None}
        case list():
            return [_told(it) for it in cast("list[Any]", value)]
        case _:
            return value
