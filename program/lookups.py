"""What is there already: network, subnet, flavors, images, key pair. Looked up, never made.

All look-ups are done before the first resource is registered, and all that fail are told at once, so that a wrong name
leaves nothing half built.
"""

from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar
from uuid import UUID

import pulumi
import pulumi_openstack as openstack
from pulumi.runtime.settings import SETTINGS

from model.cloud import Cloud, RoleCloud
from model.settings import Settings
from model.topology import Role

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
            # The SDK remembers a failed invoke and would end the program with it, whoever caught it. Nothing else is
            # under way yet, so forgetting everything forgets just that.
            untyped: Any = SETTINGS
            untyped.rpc_manager.clear()
            reason = " ".join(str(error).split())
            self.problems.append(f"{key} = {wanted!r}: {reason}; `{listing}` shows what there is")
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
            f"openstack subnet list --network {settings.network}",
            lambda wanted: _subnet(wanted, network.id),
        )
    if subnet and settings.vip:
        finder.problems += _vip_problems(settings.vip, subnet, vip_port_name)
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
    for role, key in _ROLE_KEYS.items():
        wanted = role.settings(settings)
        if wanted.count == 0:
            continue
        flavor_id = finder.find(f"{key}Flavor", wanted.flavor, "openstack flavor list", _flavor_id)
        image_id = finder.find(f"{key}Image", wanted.image, "openstack image list", _image_id)
        if flavor_id and image_id:
            roles[role] = RoleCloud(flavor_id=flavor_id, image_id=image_id, image_by_name=not _is_id(wanted.image))
    if finder.problems or network is None or subnet is None:
        raise pulumi.RunError(
            "the cloud and the configuration do not fit:\n" + "\n".join(f"  - {problem}" for problem in finder.problems)
        )
    return Cloud(
        network_id=network.id,
        subnet_id=subnet.id,
        floating_pool=(pool.name or "") if pool else "",
        roles=roles,
        reserved_vip=_reserved_vip(network.id, vip_port_name),
    )


_ROLE_KEYS = {Role.LOAD_BALANCER: "loadBalancer", Role.CONTROL_PLANE: "controlPlane", Role.WORKER: "worker"}


def _is_id(name_or_id: str) -> bool:
    """OpenStack's ids are UUIDs, with or without hyphens."""
    try:
        UUID(name_or_id)
    except ValueError:
        return False
    return True


def _network(wanted: str, *, external: bool | None = None) -> openstack.networking.GetNetworkResult:
    if _is_id(wanted):
        return openstack.networking.get_network(network_id=wanted, external=external)
    return openstack.networking.get_network(name=wanted, external=external)


def _subnet(wanted: str, network_id: str) -> openstack.networking.GetSubnetResult:
    if not wanted:
        return openstack.networking.get_subnet(network_id=network_id, ip_version=4)
    if _is_id(wanted):
        return openstack.networking.get_subnet(subnet_id=wanted, network_id=network_id, ip_version=4)
    return openstack.networking.get_subnet(name=wanted, network_id=network_id, ip_version=4)


def _key_pair(wanted: str) -> openstack.compute.GetKeypairResult:
    return openstack.compute.get_keypair(name=wanted)


def _flavor_id(wanted: str) -> str:
    if _is_id(wanted):
        return openstack.compute.get_flavor(flavor_id=wanted).id
    return openstack.compute.get_flavor(name=wanted).id


def _image_id(wanted: str) -> str:
    return wanted if _is_id(wanted) else openstack.images.get_image(name=wanted, most_recent=True).id


def _reserved_vip(network_id: str, port_name: str) -> str | None:
    ports = openstack.networking.get_port_ids(network_id=network_id, name=port_name).ids
    return openstack.networking.get_port(port_id=ports[0]).all_fixed_ips[0] if ports else None


def _vip_problems(vip: IPv4Address, subnet: openstack.networking.GetSubnetResult, vip_port_name: str) -> list[str]:
    network = IPv4Network(subnet.cidr)
    if vip not in network:
        return [f"vip = {vip}: is not in the subnet {network}; take an unused address of it, or leave vip empty"]
    if str(vip) == subnet.gateway_ip:
        return [f"vip = {vip}: is the gateway of the subnet {network}; take an unused address"]
    if vip in (network.network_address, network.broadcast_address):
        return [f"vip = {vip}: is the network or broadcast address of the subnet {network}; take another one"]
    holders = openstack.networking.get_port_ids(network_id=subnet.network_id, fixed_ip=str(vip)).ids
    if holders and openstack.networking.get_port(port_id=holders[0]).name != vip_port_name:
        return [
            f"vip = {vip}: is in use by port {holders[0]} (`openstack port show {holders[0]}`); "
            "take an unused address, or leave vip empty"
        ]
    return []
