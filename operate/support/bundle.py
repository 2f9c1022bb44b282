"""A support bundle: logs, configuration and state of a stack in one archive, without secrets.

Everything is collected and redacted in memory and only then written: no secret reaches this machine's disk, and the
archive is complete or does not exist.
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
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any, cast

import asyncssh
from keystoneauth1.exceptions import ClientException
from openstack.exceptions import SDKException
from pydantic import TypeAdapter, ValidationError

from model.kubernetes import HOST_FILES, LOCAL_ENDPOINT_FILES
from model.load_balancers import LOAD_BALANCER_FILES
from model.settings import SECRET_KEYS
from model.topology import METRICS_PORT, Role
from operate.hosts.instance import CLOUD_SECONDS
from operate.hosts.look import look
from operate.hosts.on_host import SERVICES
from operate.hosts.pair import Pair
from operate.hosts.report import PairReport
from operate.hosts.ssh import failure_of, output
from operate.stack.applied import NAMESPACE, AppliedStack, without_secrets
from operate.stack.cloud import found
from operate.stack.engine import StackError
from operate.stack.files import ROOT, as_file_name, project_schema
from operate.stack.resources import INSTANCE, PORT, recorded_ids
from operate.support import on_host
from operate.support.redaction import REDACTED, redact_json, redactor

PROGRAM = Path(on_host.__file__).read_bytes()
CONSOLE_LINES = 1000
UNITS = (*SERVICES, "ha-api-metrics", "prometheus-node-exporter")
APPLIED_FILES = [f"/{path}" for path in LOAD_BALANCER_FILES if path != "etc/haproxy/ha-api/client.pem"]
NODE_UNITS = ("containerd", "kubelet")
WORKER_UNITS = (*NODE_UNITS, "haproxy")
CONTROL_PLANE_UNITS = (*NODE_UNITS, "ha-api-control-plane", "ha-api-kubelet-certificates")
# A control plane's other files have keys, and how they are used.
NODE_FILES = [f"/{path}" for path in HOST_FILES]
WORKER_FILES = [*NODE_FILES, *(f"/{path}" for path in LOCAL_ENDPOINT_FILES)]
TOGETHER = 8
"""Hosts that are queried at a time: a bastion's sshd drops logins when more than ten have only begun."""
HOST_SECONDS = 180
"""Some 30 commands of up to 15 s each, four at a time: bundles are for hosts in trouble."""
Texts = Mapping[str, str]
"""Texts by path in the archive."""
Progress = Callable[[str], None]
_TEXTS = TypeAdapter(dict[str, str])

# Fields by name, not all: an instance's user data contains the host's private key, and metadata may contain anything.
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
# Fields of an update in Pulumi's history; the others are about the machine that it ran on.
_UPDATE = ("version", "kind", "startTime", "endTime", "message", "result", "resourceChanges")
# Fields of a rule, as Neutron sends them in its group.
_RULE = "id direction ethertype protocol port_range_min port_range_max remote_ip_prefix remote_group_id created_at"

README = """\
Support bundle of the stack {stack}, created {created:%Y-%m-%d %H:%M:%S} UTC.

status/                   the output of `./ha status`, as text and as JSON
stack/                    the stack's outputs, configuration and last updates, from Pulumi; versions
cloud/                    instances, ports, security groups, networks and consoles, from the cloud
HOST/journal/             journals since {since}, the last {lines} lines of each
HOST/files/               the files that were applied, logs of the installation, state files; on the control plane of a
                          cluster, the last lines of etcd, API server, scheduler and controller manager
HOST/commands/            addresses, sockets, packet filter, services, packages, time, disks, memory; paths of files; in
                          a cluster, containers, etcd members, nodes, and the system's pods and events
HOST/haproxy/             HAProxy's metrics
unavailable.txt           in place of a folder's content: why it is unavailable

Secrets were replaced with {redacted} before anything was written: all secrets of the stack's current configuration,
private keys, and the rest of a line after a name that may be a secret's (password, token, key, Authorization, ...).
Past configurations are included as names only, and other files on the hosts as paths only. Names and addresses of hosts
and networks are included, so read the bundle before you pass it on.

{manifest}
"""


def build(stack: AppliedStack, since: str, report: Callable[[PairReport], str], progress: Progress) -> bytes:
    """The archive (tar, gzip). `since` is in journalctl's format; `report` renders a report as text.

    What is unavailable is noted in the archive and passed to `progress`; no exception is raised for it.
    """
    created = datetime.now(UTC)
    redact = redactor(_secrets(stack))
    # An error may have a secret in it, too.
    texts = asyncio.run(_collect(stack, since, report, lambda text: progress(redact(text))))
    clean = {redact(path): _clean(path, text, redact) for path, text in sorted(texts.items())}
    manifest = "\n".join(f"{len(text.encode()):>9}  {path}" for path, text in clean.items())
    readme = README.format(
        stack=stack.name,
        created=created,
        since=since,
        lines=on_host.JOURNAL_LINES,
        redacted=REDACTED,
        manifest=manifest,
    )
    return _archive(f"support-{as_file_name(stack.name)}", {"README.txt": readme} | clean, created)


def _clean(path: str, text: str, redact: Callable[[str], str]) -> str:
    if path.endswith(".json"):
        with suppress(ValueError):
            return redact_json(text, redact)
    return redact(text)


def write(archive: bytes, path: Path) -> None:
    """Write an archive that only this user can read, completely or not at all. OSError if it fails."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - for the mode
            file.write(archive)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _archive(folder: str, texts: Texts, created: datetime) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path, text in texts.items():
            data = text.encode(errors="replace")
            member = tarfile.TarInfo(f"{folder}/{path}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(created.timestamp())
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def _secrets(stack: AppliedStack) -> Iterator[str]:
    """Secrets of the stack's configuration, and of this machine's login to the cloud."""
    yield from stack.configuration.secrets
    yield stack.configuration.private_key
    with suppress(StackError, SDKException, ClientException):
        login: dict[str, Any] = stack.configuration.cloud().config.get_auth_args()
        yield from (str(login[key]) for key in ("password", "token", "application_credential_secret") if login.get(key))


async def _collect(
    stack: AppliedStack, since: str, report: Callable[[PairReport], str], progress: Progress
) -> dict[str, str]:
    places = asyncio.Semaphore(TOGETHER)

    async def host(role: Role, user: str, address: str, **arguments: Any) -> Texts:
        command = f"sudo -n python3 - {role} {shlex.quote(json.dumps({'since': since} | arguments))}"
        async with places, replace(stack.access, user=user).connect(address) as connection:
            return _TEXTS.validate_json(await output(connection, command, PROGRAM, seconds=HOST_SECONDS))

    def hosts() -> Iterator[tuple[str, Awaitable[Texts]]]:
        settings, outputs = stack.settings, stack.outputs
        for name, address in outputs.load_balancers.items():
            own = {"metrics_port": METRICS_PORT, "units": UNITS, "files": APPLIED_FILES}
            yield name, host(Role.LOAD_BALANCER, settings.load_balancer_user, address, **own)
        if outputs.kubernetes_version:  # bare hosts are not the program's
            for name, address in outputs.control_plane.items():
                own = {"node": name, "units": CONTROL_PLANE_UNITS, "files": NODE_FILES}
                yield name, host(Role.CONTROL_PLANE, settings.control_plane_user, address, **own)
            for name, address in outputs.workers.items():
                own = {"units": WORKER_UNITS, "files": WORKER_FILES}
                yield name, host(Role.WORKER, settings.worker_user, address, **own)

    async def attempt(folder: str, texts: Awaitable[Texts]) -> dict[str, str]:
        began = time.monotonic()
        try:
            collected = await texts
            progress(f"{folder}: {len(collected)} texts in {time.monotonic() - began:.1f} s")
        except (OSError, asyncssh.Error) as error:
            collected = _unavailable(folder, failure_of(error), progress)
        except (StackError, SDKException, ClientException, ValidationError) as error:
            collected = _unavailable(folder, str(error), progress)
        return {f"{folder}/{path}": text for path, text in collected.items()}

    # Pulumi and the cloud are queried in threads, because their clients block.
    of_all = await asyncio.gather(
        *(attempt(name, texts) for name, texts in hosts()),
        attempt("cloud", asyncio.to_thread(_cloud, stack)),
        attempt("stack", asyncio.to_thread(_engine, stack)),
        attempt("status", asyncio.to_thread(_status, stack, report)),
    )
    return {path: text for texts in of_all for path, text in texts.items()}


def _unavailable(folder: str, reason: str, progress: Progress) -> Texts:
    progress(f"{folder}: unavailable: {reason}")
    return {"unavailable.txt": reason + "\n"}


def _status(stack: AppliedStack, report: Callable[[PairReport], str]) -> Texts:
    status = look(stack, with_instances=True)
    return {"status.txt": report(status), "status.json": status.model_dump_json(indent=2)}


def _engine(stack: AppliedStack) -> Texts:
    git = {
        "commit.txt": ("git", "log", "-1", "--format=%H %cI %s"),
        "changed-files.txt": ("git", "status", "--short"),
    }

    def run(command: tuple[str, ...]) -> str:
        done = subprocess.run(command, cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True, check=False)
        return done.stdout

    texts = without_secrets(stack.name)
    # A value may have been a plain one before it was set as a secret, or be one under a misspelt name.
    texts["history.json"] = _only_names(texts["history.json"])
    texts["configuration.json"] = _only_settings(texts["configuration.json"])
    return texts | {name: run(command) for name, command in git.items()}


def _only_names(history: str) -> str:
    """Pulumi's history: when what was done, with the names of the configuration's values."""
    updates: list[dict[str, Any]] = json.loads(history)
    kept = [
        {key: update[key] for key in _UPDATE if key in update} | {"config": sorted(update.get("config", {}))}
        for update in updates
    ]
    return json.dumps(kept, indent=2)


def _only_settings(configuration: str) -> str:
    """A stack's configuration, with the values of the program's settings only, and of those that are no secrets."""
    entries: dict[str, dict[str, Any]] = json.loads(configuration)
    plain = {f"{NAMESPACE}{key}" for key in project_schema().keys() - SECRET_KEYS}
    kept = {name: it if name in plain else {"secret": it.get("secret", False)} for name, it in entries.items()}
    return json.dumps(kept, indent=2)


def _cloud(stack: AppliedStack) -> Texts:
    cloud: Any = stack.configuration.cloud()
    cloud.session.timeout = CLOUD_SECONDS
    # By the ids in the state: names are in use elsewhere too, and an administrator's lists have every project's.
    ids = recorded_ids(stack.name)
    pair = Pair(stack.outputs, ids, cloud)
    load_balancers = {name: pair.instances(name) for name in stack.outputs.load_balancers}
    others = (
        found(cloud.compute.get_server, it)
        for (kind, name), it in ids.items()
        if kind == INSTANCE and name not in load_balancers
    )
    servers = [*chain.from_iterable(load_balancers.values()), *filter(None, others)]
    ports = [*filter(None, (found(cloud.network.get_port, it) for (kind, _), it in ids.items() if kind == PORT))]
    group_ids = {*stack.outputs.security_group_ids.values()}
    groups = [it for it in cloud.network.security_groups() if it.id in group_ids]
    # Picked from lists: a query for a network that is gone or not ours would fail, and lose the rest.
    network_ids = {port.network_id for port in ports}
    networks = [it for it in cloud.network.networks() if it.id in network_ids]
    subnets = [it for it in cloud.network.subnets() if it.network_id in network_ids]
    rules = {
        group.name: [{field: rule.get(field) for field in _RULE.split()} for rule in group.security_group_rules]
        for group in groups
    }
    resources = {
        "instances.json": _fields(servers, _INSTANCE),
        "ports.json": _fields(ports, _PORT),
        "security-group-rules.json": rules,
        "networks.json": _fields(networks, _NETWORK),
        "subnets.json": _fields(subnets, _SUBNET),
    }
    # One that was never built has no console.
    consoles = {f"console-{name}.log": _console(cloud, it[0]) for name, it in load_balancers.items() if it}
    texts = {name: json.dumps(_without_empty(it), indent=2, ensure_ascii=False) for name, it in resources.items()}
    return texts | consoles


def _console(cloud: Any, server: Any) -> str:
    """An instance's console; or why Nova does not return it, for example for an instance in ERROR."""
    try:
        return cloud.compute.get_server_console_output(server, length=CONSOLE_LINES)["output"]
    except (SDKException, ClientException) as error:
        return f"unavailable: {error}\n"


def _fields(resources: Iterable[Any], names: str) -> list[dict[str, Any]]:
    return [{name: getattr(resource, name) for name in names.split()} for resource in resources]


def _without_empty(value: Any) -> Any:
    """Without the fields that this cloud leaves empty: openstacksdk has one for everything that any cloud offers."""
    match value:
        case dict():
            return {key: _without_empty(it) for key, it in cast("dict[str, Any]", value).items() if it is not None}
        case list():
            return [_without_empty(it) for it in cast("list[Any]", value)]
        case _:
            return value
