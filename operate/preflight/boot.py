"""A temporary instance, created like a load balancer, for what can only be tried; then deleted.

All its resources have one name, which no other run has. It says when and by which process they were created, so that
the next run finds and deletes what a killed one left behind, and nothing of one that is still at work.
"""

import asyncio
import hashlib
import os
import re
import shlex
import socket
import time
import uuid
from base64 import b64encode
from collections.abc import Awaitable, Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import asyncssh
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from openstack.exceptions import ConflictException, ForbiddenException, ResourceFailure, ResourceTimeout, SDKException

from model.rendering import (
    install_script,
    kubernetes_version_script,
    prepare_script,
    try_firewalld_script,
    user_data,
)
from model.settings import HostKeyType, RoleSettings, Settings
from model.topology import ELECTION_ADDRESS, SSH_PORT, Role
from operate.hosts.ssh import Access, failure_of, output
from operate.preflight.facts import Facts
from operate.preflight.finding import Finding, Outcome, not_checked, ok, problem
from operate.signals import uninterrupted
from operate.stack.applied import StackConfiguration

DELETE_SECONDS = 300
LEFT_AFTER = timedelta(days=1)
"""A run takes minutes. Older resources are leftovers, whichever machine created them."""
PID_NAMESPACE = Path("/proc/self/ns/pid")
NO_METADATA = ("DataSourceNone", "Used fallback datasource", "no datasource found")
"""What cloud-init writes on the console if no source of metadata answers; the last, if the image allows no fallback."""
_DESCRIPTION = "Temporary, for `./ha preflight --boot`"


def temporary_name(settings: Settings, now: datetime) -> str:
    """The name of everything that this run creates."""
    return f"{settings.cluster_name}-preflight-{now:%Y%m%dT%H%M%SZ}-{_machine()}-{os.getpid()}"


def _machine() -> str:
    """This machine, or container, in a few characters: where a process id is unique."""
    # Containers may share the host's name and network, but each has its own process ids. Only Linux has this file.
    processes = PID_NAMESPACE.stat().st_ino if PID_NAMESPACE.exists() else ""
    return hashlib.sha256(f"{socket.gethostname()} {uuid.getnode()} {processes}".encode()).hexdigest()[:8]


def is_left(name: str, settings: Settings, now: datetime) -> bool:
    """Whether a resource is a leftover: of a process of this machine that has ended, or too old for any."""
    found = re.fullmatch(
        rf"{re.escape(settings.cluster_name)}-preflight-(\d{{8}}T\d{{6}}Z)-([0-9a-f]{{8}})-(\d+)", name
    )
    if not found:
        return False
    created = datetime.strptime(found[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return now - created > LEFT_AFTER or (found[2] == _machine() and not _runs(int(found[3])))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def leftovers(cloud: Any, project_id: str, settings: Settings, now: datetime) -> list[str]:
    """Names of what killed runs have left behind in a project."""
    resources = (
        *cloud.compute.servers(name=f"^{settings.cluster_name}-preflight-"),
        # Administrators see the ports and groups of all projects.
        *cloud.network.ports(project_id=project_id),
        *cloud.network.security_groups(project_id=project_id),
        *cloud.compute.keypairs(),
    )
    return sorted({it.name for it in resources if is_left(it.name, settings, now)})


def remove(cloud: Any, project_id: str, name: str) -> None:
    """Delete everything of that name in a project, in the order of dependencies."""
    with uninterrupted():
        servers = [server for server in cloud.compute.servers(name=f"^{name}$") if server.name == name]
        for server in servers:
            cloud.compute.delete_server(server, ignore_missing=True)
        for server in servers:
            cloud.compute.wait_for_delete(server, wait=DELETE_SECONDS)
        for port in list(cloud.network.ports(name=name, project_id=project_id)):
            cloud.network.delete_port(port, ignore_missing=True)
        for group in list(cloud.network.security_groups(name=name, project_id=project_id)):
            cloud.network.delete_security_group(group, ignore_missing=True)
        cloud.compute.delete_keypair(name, ignore_missing=True)


def try_boot(facts: Facts, configuration: StackConfiguration) -> Generator[Finding]:
    """Address pairs are allowed; an instance boots, answers SSH, and can install a load balancer's packages.

    A caller that stops early must close the generator: that deletes what was created.
    """
    now = datetime.now(UTC)
    name, cloud = temporary_name(facts.settings, now), facts.cloud
    for left in leftovers(cloud, facts.project_id, facts.settings, now):
        remove(cloud, facts.project_id, left)
    try:
        port = yield from _create_port(facts, name)
        yield from _try(facts, configuration, name, port)
    except ForbiddenException as error:
        # Not a matter of what this user may see: `pulumi up` creates the same.
        yield problem(
            "temporary instance",
            f"this user may not create it: {error}",
            "if a quota is exceeded, request a larger one; otherwise log in as a user with the role member in the "
            "project, or ask the cloud's operator to allow it",
        )
    finally:
        remove(cloud, facts.project_id, name)


def _create_port(facts: Facts, name: str) -> Generator[Finding, None, Any]:
    """The instance's port, with a security group for SSH, and an address pair if that is allowed."""
    network = facts.cloud.network
    with uninterrupted():
        group = network.create_security_group(name=name, description=_DESCRIPTION)
        for cidr in facts.settings.admin_cidrs:
            network.create_security_group_rule(
                security_group_id=group.id,
                direction="ingress",
                ethertype="IPv4",
                protocol="tcp",
                port_range_min=SSH_PORT,
                port_range_max=SSH_PORT,
                remote_ip_prefix=str(cidr),
            )
    values: dict[str, Any] = {
        "name": name,
        "description": _DESCRIPTION,
        "network_id": facts.network.id,
        "fixed_ips": [{"subnet_id": facts.subnet.id}],
        "security_group_ids": [group.id],
    }
    # Not the VIP, which may be in use: this address is used nowhere.
    pairs = [{"ip_address": ELECTION_ADDRESS}]
    try:
        with uninterrupted():
            port = network.create_port(**values, allowed_address_pairs=pairs)
    except ForbiddenException as error:
        yield problem(
            "address pairs, tried", f"refused: {error}", "use a network of the project, or have the policy changed"
        )
        with uninterrupted():
            port = network.create_port(**values)
    else:
        yield ok("address pairs, tried", "Neutron accepted one on a port of this network")
    if facts.settings.vip and not facts.vip_port:
        yield _reserve(facts, name)
    return port


def _reserve(facts: Facts, name: str) -> Finding:
    """Whether Neutron accepts the VIP as a fixed address; the port is deleted at once."""
    network, vip = facts.cloud.network, str(facts.settings.vip)
    try:
        with uninterrupted():
            address = {"subnet_id": facts.subnet.id, "ip_address": vip}
            values = {"name": name, "description": _DESCRIPTION, "network_id": facts.network.id}
            network.delete_port(network.create_port(**values, fixed_ips=[address]))
    except ForbiddenException as error:
        return problem(
            "VIP, tried", f"refused: {error}", "leave vip empty, or have create_port:fixed_ips:ip_address allowed"
        )
    except ConflictException as error:
        return not_checked("VIP, tried", f"another port has it now, perhaps of another preflight: {error}")
    return ok("VIP, tried", f"Neutron reserved {vip}; and the reservation was deleted")


def _try(facts: Facts, configuration: StackConfiguration, name: str, port: Any) -> Iterator[Finding]:
    settings, compute = facts.settings, facts.cloud.compute
    load_balancer = settings.load_balancers
    ed25519 = settings.host_key_type is HostKeyType.ED25519
    host_key = Ed25519PrivateKey.generate() if ed25519 else ec.generate_private_key(ec.SECP256R1())
    private = host_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = host_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    zone = {"availability_zone": load_balancer.availability_zones[0]} if load_balancer.availability_zones else {}
    image_id = facts.image(Role.LOAD_BALANCER).id
    disk = {"block_device_mapping": [_volume(image_id, load_balancer)]} if load_balancer.root_volume_size else {}
    began = time.monotonic()
    with uninterrupted():
        if not settings.key_pair:
            compute.create_keypair(name=name, public_key=settings.login_public_key)
        server = compute.create_server(
            name=name,
            flavor_id=facts.flavor(Role.LOAD_BALANCER).id,
            image_id="" if disk else image_id,
            config_drive=settings.config_drive,
            key_name=settings.key_pair or name,
            networks=[{"port": port.id}],
            user_data=b64encode(user_data(private, public).encode()).decode(),
            **zone,
            **disk,
        )
    try:
        compute.wait_for_server(server, interval=1, wait=settings.ssh_timeout)
    except ResourceFailure:
        fault = compute.get_server(server).fault
        reason = fault["message"] if fault else "Nova gives no reason"
        yield problem(
            "instance",
            f"could not be created: {reason}",
            "check flavor, image and zones, and whether the cloud has capacity",
        )
        return
    except ResourceTimeout:
        yield problem(
            "instance",
            f"not active within {settings.ssh_timeout} s (sshTimeout)",
            "ask the cloud's operator, or raise sshTimeout",
        )
        return
    yield ok("instance", f"active after {time.monotonic() - began:.0f} s")
    address = facts.address_of(port) or ""
    access = Access(
        user=load_balancer.user,
        private_key=configuration.private_key,
        known_hosts=f"{address} {public}",
        bastion=settings.bastion,
        patience=settings.ssh_timeout,
    )
    findings = asyncio.run(_log_in(facts, access, address, began))
    yield from findings
    if findings[0].result is Outcome.PROBLEM:
        yield from _metadata(facts, server)


def _volume(image_id: str, wanted: RoleSettings) -> dict[str, Any]:
    volume: dict[str, Any] = {
        "source_type": "image",
        "uuid": image_id,
        "destination_type": "volume",
        "volume_size": wanted.root_volume_size,
        "boot_index": 0,
        "delete_on_termination": True,
    }
    return volume | ({"volume_type": wanted.root_volume_type} if wanted.root_volume_type else {})


def _metadata(facts: Facts, server: Any) -> Iterator[Finding]:
    """Whether the instance's console shows that cloud-init got no metadata, and with it neither key nor user."""
    try:
        console = str(facts.cloud.compute.get_server_console_output(server)["output"])
    except SDKException:
        return  # not every cloud has a console
    signs = [sign for sign in NO_METADATA if sign in console]
    if signs:
        yield problem(
            "metadata",
            f"cloud-init got none in time (its console has {signs[0]!r}), so no login key and no host key: it asks "
            "once, for 10 s",
            "ask the cloud's operator about the metadata service"
            if facts.settings.config_drive
            else "set configDrive to true, or ask the cloud's operator why the metadata service is missing or slow",
        )


async def _log_in(facts: Facts, access: Access, address: str, began: float) -> list[Finding]:
    findings: list[Finding] = []
    looked_at = f"SSH to {access.user}@{address}"
    try:
        async with access.connect(address) as connection:
            findings.append(
                ok(
                    looked_at,
                    f"logged in after {time.monotonic() - began:.0f} s; it has the host key from its user data",
                )
            )
            findings += await _use(facts, connection, address)
    except asyncssh.HostKeyNotVerifiable:
        findings.append(
            problem(
                looked_at,
                "its host key is not the one in its user data: cloud-init did not get that, or ignored it",
                "if the console (`openstack console log show`) has DataSourceNone, see the line `metadata`; else use "
                "another image",
            )
        )
    except asyncssh.PermissionDenied:
        findings.append(
            problem(looked_at, "login refused", "correct loadBalancerUser: each image has its own login user")
        )
    except (OSError, asyncssh.Error) as error:
        if findings:  # it was logged in
            again = "see `openstack console log show`, and run this again"
            return [*findings, problem("commands over SSH", failure_of(error), again)]
        findings.append(
            problem(
                looked_at,
                f"no login within {access.patience:.0f} s: {failure_of(error)}",
                "add this machine, or the bastion, to adminCidrs; check the route to the subnet; set hostKeyType to "
                "ecdsa if the image is in FIPS mode; or raise sshTimeout",
            )
        )
    return findings


async def _use(facts: Facts, connection: asyncssh.SSHClientConnection, address: str) -> list[Finding]:
    """The program's own first steps, in order: each needs the one before."""
    settings = facts.settings
    as_root = "sudo -n bash -s"

    async def step(script: str) -> str:
        return await output(connection, as_root, script.encode(), seconds=settings.ssh_timeout)

    findings: list[Finding] = []
    try:
        await output(connection, "sudo -n true")
        findings.append(ok("sudo", f"{settings.load_balancer_user} has sudo without a password"))
    except asyncssh.ProcessError as error:
        return [problem("sudo", failure_of(error), "the login user needs sudo without a password: use another image")]
    try:
        interface = (await step(prepare_script(settings, IPv4Address(address)))).rpartition("interface=")[2]
    except asyncssh.ProcessError as error:
        return [
            *findings,
            problem("cloud-init", failure_of(error), "see the message, and `openstack console log show`"),
        ]
    mtu = int(await output(connection, f"cat /sys/class/net/{shlex.quote(interface)}/mtu"))
    distribution = await output(connection, '. /etc/os-release; echo "$ID $VERSION_ID"')
    findings.append(ok("cloud-init", f"done; {distribution}, {interface} has {address}"))
    if facts.network.mtu and mtu != facts.network.mtu:
        findings.append(
            problem(
                "MTU, inside",
                f"{mtu}, but the network's is {facts.network.mtu}",
                "have DHCP announce it, or use another image",
            )
        )
    else:
        findings.append(ok("MTU, inside", f"{mtu}"))
    began = time.monotonic()
    try:
        await step(install_script(settings))
    except asyncssh.ProcessError as error:
        findings.append(
            problem("packages", failure_of(error), "set aptMirror or aptProxy, or allow access to the package archive")
        )
    else:
        findings.append(ok("packages", f"installed those of a load balancer in {time.monotonic() - began:.0f} s"))
        findings.append(await _firewalld(settings, step))
        if settings.kubernetes:
            findings += await _sources_of_the_cluster(settings, step)
    return findings


async def _firewalld(settings: Settings, step: Callable[[str], Awaitable[str]]) -> Finding:
    """Whether firewalld starts: an image's kernel may lack modules that its rules need."""
    try:
        await step(try_firewalld_script(settings))
    except asyncssh.ProcessError as error:
        return problem(
            "firewalld",
            failure_of(error),
            "if modules are missing, use an image with the distribution's full kernel (linux-image-amd64, "
            "linux-image-generic), or add the package with the rest of the kernel's modules (on Ubuntu "
            "linux-modules-extra); else see the message",
        )
    return ok("firewalld", "it starts, and the kernel accepts all its rules")


async def _sources_of_the_cluster(settings: Settings, step: Callable[[str], Awaitable[str]]) -> list[Finding]:
    """Where Kubernetes' packages and images come from, as seen from an instance."""
    findings: list[Finding] = []
    try:
        version = (await step(kubernetes_version_script(settings))).rpartition("version=")[2].strip()
        findings.append(ok("Kubernetes packages", f"{settings.kubernetes_repository_url} has {version}"))
    except asyncssh.ProcessError as error:
        findings.append(
            problem("Kubernetes packages", failure_of(error), "correct the setting in the message, or allow access")
        )
    registry = settings.registry_mirror or "https://registry.k8s.io"
    try:
        # Any answer will do: some registries ask for a login first.
        trusted = f"--cacert <(printf %s {shlex.quote(ca)}) " if (ca := settings.registry_mirror_ca) else ""
        await step(f"curl --silent --show-error --max-time 20 --output /dev/null {trusted}{registry}/v2/")
        findings.append(ok("registry", f"{registry} answers"))
    except asyncssh.ProcessError as error:
        findings.append(problem("registry", failure_of(error), "set registryMirror, or allow access to the registry"))
    return findings
