"""What exists already: network, subnet, flavors, images, key pair. Looked up, never created.

All look-ups run before the first resource is registered, and all that fail are reported together, so a wrong name
leaves nothing half built.
"""

import shlex
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

import pulumi
import pulumi_openstack as openstack
from pulumi.runtime.settings import SETTINGS

from model.api_servers import API_SERVER_REMEDY, api_server_problem
from model.cloud import Cloud, RoleCloud, is_id
from model.settings import Settings
from model.topology import Role, host_names
from model.vip import VIP_REMEDY, vip_problem

T = TypeVar("T")


class _Finder:
    """Runs look-ups and collects the problems of those that fail."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def find(self, key: str, wanted: str, listing: str, look: Callable[[str], T]) -> T | None:
        """The result of `look(wanted)`, or None and a problem."""
        try:
            return look(wanted)
        except Exception as error:  # an invoke raises plain Exceptions, whatever went wrong
            # The SDK remembers a failed invoke and would fail the program at its end, even though it was caught here.
            # Nothing else is in flight yet, so clearing everything clears just that.
            untyped: Any = SETTINGS
            untyped.rpc_manager.clear()
            reason = " ".join(str(error).split())
            self.problems.append(f"{key} = {wanted!r}: {reason}; `{listing}` shows what exists")
            return None


def look_up(settings: Settings, *, vip_port_name: str) -> Cloud:
    """Find everything that the configuration names, and check what depends on it.

    `vip_port_name` is the port that may hold the VIP already, from an earlier run. Raises `pulumi.RunError` with every
    problem at once.
    """
    finder = _Finder()
    network = finder.find("network", settings.network, "openstack network list", _network)
    subnet = None
    if network:
        subnet = finder.find(
            "subnet",
            settings.subnet,
            f"openstack subnet list --network {shlex.quote(settings.network)}",
            lambda wanted: _subnet(wanted, network.id),
        )
    if subnet and settings.vip:
        finder.problems += _vip_problems(settings.vip, subnet, vip_port_name)
    if subnet:
        finder.problems += _api_server_problems(settings, subnet, vip_port_name)
    pool = None
    if settings.floating_network:
        pool = finder.find(
            "floatingNetwork",
            settings.floating_network,
            "openstack network list --external",
            partial(_network, external=True),
        )
    if settings.key_pair:
        pair = finder.find("keyPair", settings.key_pair, "openstack keypair list", _key_pair)
        finder.problems += settings.key_mismatch(pair.public_key) if pair else []
    roles: dict[Role, RoleCloud] = {}
    for role in Role:
        wanted = role.settings(settings)
        if wanted.count == 0:
            continue
        prefix = role.configuration_prefix
        flavor_id = finder.find(f"{prefix}Flavor", wanted.flavor, "openstack flavor list", _flavor_id)
        image_id = finder.find(f"{prefix}Image", wanted.image, "openstack image list", _image_id)
        if flavor_id and image_id:
            roles[role] = RoleCloud(flavor_id=flavor_id, image_id=image_id, image_by_name=not is_id(wanted.image))
    if finder.problems or network is None or subnet is None:
        raise pulumi.RunError(
            "the configuration does not fit the cloud:\n" + "\n".join(f"  - {problem}" for problem in finder.problems)
        )
    return Cloud(
        network_id=network.id,
        subnet_id=subnet.id,
        floating_pool=(pool.name or "") if pool else "",
        roles=roles,
        reserved_vip=_reserved_vip(network.id, vip_port_name),
    )


def _network(wanted: str, *, external: bool | None = None) -> openstack.networking.GetNetworkResult:
    if is_id(wanted):
        return openstack.networking.get_network(network_id=wanted, external=external)
    return openstack.networking.get_network(name=wanted, external=external)


def _subnet(wanted: str, network_id: str) -> openstack.networking.GetSubnetResult:
    if not wanted:
        return openstack.networking.get_subnet(network_id=network_id, ip_version=4)
    if is_id(wanted):
        return openstack.networking.get_subnet(subnet_id=wanted, network_id=network_id, ip_version=4)
    return openstack.networking.get_subnet(name=wanted, network_id=network_id, ip_version=4)


def _key_pair(wanted: str) -> openstack.compute.GetKeypairResult:
    return openstack.compute.get_keypair(name=wanted)


def _flavor_id(wanted: str) -> str:
    if is_id(wanted):
        return openstack.compute.get_flavor(flavor_id=wanted).id
    return openstack.compute.get_flavor(name=wanted).id


def _image_id(wanted: str) -> str:
    return wanted if is_id(wanted) else openstack.images.get_image(name=wanted, most_recent=True).id


def _reserved_vip(network_id: str, port_name: str) -> str | None:
    ports = openstack.networking.get_port_ids(network_id=network_id, name=port_name).ids
    return openstack.networking.get_port(port_id=ports[0]).all_fixed_ips[0] if ports else None


def _vip_problems(vip: IPv4Address, subnet: openstack.networking.GetSubnetResult, vip_port_name: str) -> list[str]:
    ports = _ports(vip, subnet.network_id)
    in_use_by = next((f"port {port.id} ({port.name})" for port in ports if port.name != vip_port_name), None)
    reason = vip_problem(vip, IPv4Network(subnet.cidr), gateway=subnet.gateway_ip, in_use_by=in_use_by)
    return [f"vip = {vip}: {reason}; {VIP_REMEDY}"] if reason else []


def _api_server_problems(
    settings: Settings, subnet: openstack.networking.GetSubnetResult, vip_port_name: str
) -> list[str]:
    cidr = IPv4Network(subnet.cidr)
    own = {vip_port_name, *host_names(settings, Role.LOAD_BALANCER)}
    problems: list[str] = []
    for address in settings.api_servers:
        if address in cidr:
            port = next((port.name for port in _ports(address, subnet.network_id)), None)
            if reason := api_server_problem(address, cidr, port=port, own=own):
                problems.append(f"apiServers = {address}: {reason}; {API_SERVER_REMEDY}")
    return problems


def _ports(address: IPv4Address, network_id: str) -> list[openstack.networking.GetPortResult]:
    return [
        openstack.networking.get_port(port_id=port_id)
        for port_id in openstack.networking.get_port_ids(network_id=network_id, fixed_ip=str(address)).ids
    ]
