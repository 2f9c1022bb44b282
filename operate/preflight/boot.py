"""A throw-away instance, made as the program makes a load balancer, to try what can only be tried; then deleted.

What it is made of has one name, by which all of it is found again: what a killed run left is deleted first.
"""

import asyncio
import shlex
import time
from base64 import b64encode
from collections.abc import Generator, Iterator
from ipaddress import IPv4Address
from typing import Any

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from openstack.exceptions import ForbiddenException, ResourceFailure, ResourceTimeout

from model.rendering import install_script, prepare_script, user_data
from model.settings import Settings
from model.topology import ELECTION_ADDRESS, SSH_PORT, Role
from operate.hosts.ssh import Access, failure_of, output
from operate.preflight.facts import Facts
from operate.preflight.finding import Finding, ok, problem
from operate.signals import end_like_ctrl_c, uninterrupted
from operate.stack.applied import StackConfiguration

DELETE_SECONDS = 300
_DESCRIPTION = "Throw-away check of `./ha preflight --boot`"


def throw_away_name(settings: Settings) -> str:
    """The name of all that is made."""
    return f"{settings.cluster_name}-preflight"


def remove(cloud: Any, project_id: str, name: str) -> None:
    """Delete everything of that name in a project, in the order in which it depends on each other."""
    with uninterrupted():
        servers = [server for server in cloud.compute.servers(name=f"^{name}$") if server.name == name]
        for server in servers:
            cloud.compute.delete_server(server, ignore_missing=True)
        for server in servers:
            cloud.compute.wait_for_delete(server, wait=DELETE_SECONDS)
        # Administrators are shown all projects' ports and groups.
        for port in list(cloud.network.ports(name=name, project_id=project_id)):
            cloud.network.delete_port(port, ignore_missing=True)
        for group in list(cloud.network.security_groups(name=name, project_id=project_id)):
            cloud.network.delete_security_group(group, ignore_missing=True)
        cloud.compute.delete_keypair(name, ignore_missing=True)


def try_boot(facts: Facts, configuration: StackConfiguration) -> Generator[Finding]:
    """Address pairs are admitted, an instance boots, answers SSH, and takes a load balancer's packages.

    To be closed when it is not run to its end: that deletes what was made.
    """
    name, cloud = throw_away_name(facts.settings), facts.cloud
    end_like_ctrl_c()
    remove(cloud, facts.project_id, name)
    try:
        port = yield from _make_port(facts, name)
        yield from _try(facts, configuration, name, port)
    finally:
        remove(cloud, facts.project_id, name)


def _make_port(facts: Facts, name: str) -> Generator[Finding, None, Any]:
    """The instance's port, with a security group for SSH; with an address pair where that is allowed."""
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
    # Nobody uses that one. The VIP's own may be in use.
    pairs = [{"ip_address": ELECTION_ADDRESS}]
    try:
        with uninterrupted():
            port = network.create_port(**values, allowed_address_pairs=pairs)
    except ForbiddenException as error:
        yield problem(
            "address pairs, tried", f"refused: {error}", "take a network of the project, or have the policy opened"
        )
        with uninterrupted():
            port = network.create_port(**values)
    else:
        yield ok("address pairs, tried", "Neutron set one on a port of this network")
    if facts.settings.vip and not facts.vip_port:
        yield _reserve(facts, name)
    return port


def _reserve(facts: Facts, name: str) -> Finding:
    """Whether the VIP can be asked for; the port goes at once."""
    network, vip = facts.cloud.network, str(facts.settings.vip)
    try:
        with uninterrupted():
            address = {"subnet_id": facts.subnet.id, "ip_address": vip}
            values = {"name": name, "description": _DESCRIPTION, "network_id": facts.network.id}
            network.delete_port(network.create_port(**values, fixed_ips=[address]))
    except ForbiddenException as error:
        return problem(
            "VIP, tried", f"refused: {error}", "leave vip empty, or have create_port:fixed_ips:ip_address opened"
        )
    return ok("VIP, tried", f"Neutron reserved {vip}, and it was given back")


def _try(facts: Facts, configuration: StackConfiguration, name: str, port: Any) -> Iterator[Finding]:
    settings, compute = facts.settings, facts.cloud.compute
    wanted = settings.load_balancers
    host_key = Ed25519PrivateKey.generate()
    private = host_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = host_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    zone = {"availability_zone": wanted.availability_zones[0]} if wanted.availability_zones else {}
    began = time.monotonic()
    with uninterrupted():
        if not settings.key_pair:
            compute.create_keypair(name=name, public_key=settings.login_public_key)
        server = compute.create_server(
            name=name,
            flavor_id=facts.flavor(Role.LOAD_BALANCER).id,
            image_id=facts.image(Role.LOAD_BALANCER).id,
            key_name=settings.key_pair or name,
            networks=[{"port": port.id}],
            user_data=b64encode(user_data(private, public).encode()).decode(),
            **zone,
        )
    try:
        compute.wait_for_server(server, interval=1, wait=settings.ssh_timeout)
    except ResourceFailure:
        fault = compute.get_server(server).fault
        reason = fault["message"] if fault else "Nova does not say why"
        yield problem(
            "instance", f"could not be made: {reason}", "see flavor, image, zones, and whether the cloud has room"
        )
        return
    except ResourceTimeout:
        yield problem(
            "instance", f"was not made within {settings.ssh_timeout} s (sshTimeout)", "ask who runs the cloud"
        )
        return
    yield ok("instance", f"active after {time.monotonic() - began:.0f} s")
    address = port.fixed_ips[0]["ip_address"]
    access = Access(
        user=wanted.user,
        private_key=configuration.private_key,
        known_hosts=f"{address} {public}",
        bastion=settings.bastion,
        patience=settings.ssh_timeout,
    )
    yield from asyncio.run(_log_in(facts, access, address, began))


async def _log_in(facts: Facts, access: Access, address: str, began: float) -> list[Finding]:
    findings: list[Finding] = []
    looked_at = f"SSH to {access.user}@{address}"
    try:
        async with access.connect(address) as connection:
            findings.append(
                ok(looked_at, f"logged in after {time.monotonic() - began:.0f} s, with the host key that it was given")
            )
            findings += await _use(facts, connection, address)
    except asyncssh.HostKeyNotVerifiable:
        findings.append(
            problem(
                looked_at,
                "shows another host key than it was given",
                "the image's cloud-init ignores user data: take another",
            )
        )
    except asyncssh.PermissionDenied:
        findings.append(
            problem(
                looked_at, "the login is refused", "correct loadBalancerUser: each image has a login user of its own"
            )
        )
    except (OSError, asyncssh.Error) as error:
        findings.append(
            problem(
                looked_at,
                f"not within {access.patience:.0f} s: {failure_of(error)}",
                "adminCidrs must have this machine, or the bastion, which needs a way there; or raise sshTimeout",
            )
        )
    return findings


async def _use(facts: Facts, connection: asyncssh.SSHClientConnection, address: str) -> list[Finding]:
    """The program's own first steps, one after the other: each needs the one before."""
    settings = facts.settings
    as_root = "sudo -n bash -s"

    async def step(script: str) -> str:
        return await output(connection, as_root, script.encode(), seconds=settings.ssh_timeout)

    findings: list[Finding] = []
    try:
        await output(connection, "sudo -n true")
        findings.append(ok("sudo", f"{settings.load_balancer_user} may, without a password"))
    except asyncssh.ProcessError as error:
        return [
            problem("sudo", failure_of(error), "the login user has to have sudo without a password: take another image")
        ]
    try:
        interface = (await step(prepare_script(settings, IPv4Address(address)))).rpartition("interface=")[2]
    except asyncssh.ProcessError as error:
        return [
            *findings,
            problem("cloud-init", failure_of(error), "see the message; `openstack console log show` helps"),
        ]
    mtu = int(await output(connection, f"cat /sys/class/net/{shlex.quote(interface)}/mtu"))
    distribution = await output(connection, '. /etc/os-release; echo "$ID $VERSION_ID"')
    findings.append(ok("cloud-init", f"done; {distribution}, {interface} has {address}"))
    if facts.network.mtu and mtu != facts.network.mtu:
        findings.append(
            problem(
                "MTU, inside",
                f"{mtu}, and the network's is {facts.network.mtu}",
                "have DHCP tell it, or take another image",
            )
        )
    else:
        findings.append(ok("MTU, inside", f"{mtu}"))
    began = time.monotonic()
    try:
        await step(install_script(settings))
    except asyncssh.ProcessError as error:
        findings.append(
            problem("packages", failure_of(error), "set aptMirror or aptProxy, or open the way to the archive")
        )
    else:
        findings.append(ok("packages", f"a load balancer's were installed in {time.monotonic() - began:.0f} s"))
    return findings
