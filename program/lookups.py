"""What exists already: network, subnet, flavors, images, key pair. Looked up by name, then by id; never created.

All look-ups run before the first resource is registered, and all that fail are reported together, so a wrong name
leaves nothing half built.

A flavor or an image is needed to create an instance, not to keep one. If it is gone, and every instance of the role is
there, the instances keep what they have, and everything else can be changed. The same goes for a key pair, which in
Nova belongs to one user.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

import pulumi
import pulumi_openstack as openstack
from pulumi.runtime.settings import SETTINGS

from model.api_servers import API_SERVER_REMEDY, api_server_problem
from model.cloud import Cloud, RoleCloud, address_in, is_uuid
from model.kubernetes import subnet_problems
from model.settings import Settings
from model.topology import Role, host_names
from model.vip import VIP_REMEDY, vip_problem

T = TypeVar("T")

_KEPT = "Existing instances keep theirs; none can be created or replaced"


class _NotFoundError(Exception):
    """Why a look-up failed."""


def _ask(look: Callable[[], T]) -> T:
    try:
        return look()
    except Exception as error:  # an invoke raises plain Exceptions, whatever went wrong
        # The SDK remembers a failed invoke and would fail the program at its end, even though it was caught here.
        # Nothing else is in flight yet, so clearing everything clears just that.
        untyped: Any = SETTINGS
        untyped.rpc_manager.clear()
        raise _NotFoundError(" ".join(str(error).split())) from None


def _ask_in_turn(by_name: Callable[[], T], by_id: Callable[[], T]) -> T:
    """What has this name, or else this id: both are free text, and a name may look like an id."""
    try:
        return _ask(by_name)
    except _NotFoundError as unknown:
        try:
            return _ask(by_id)
        except _NotFoundError:
            raise unknown from None


class _Finder:
    """Runs look-ups and collects the problems of those that fail."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def find(self, key: str, wanted: str, listing: str, look: Callable[[str], T]) -> T | None:
        """The result of `look(wanted)`, or None and a problem."""
        try:
            return look(wanted)
        except _NotFoundError as reason:
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
            f"openstack subnet list --ip-version 4 --network {shlex.quote(settings.network)}",
            lambda wanted: _subnet(wanted, network.id),
        )
    if subnet and settings.vip:
        finder.problems += _vip_problems(settings.vip, subnet, vip_port_name)
    if subnet:
        finder.problems += _api_server_problems(settings, subnet, vip_port_name)
        finder.problems += subnet_problems(settings, IPv4Network(subnet.cidr))
    external = None
    if settings.floating_network:
        external = finder.find(
            "floatingNetwork",
            settings.floating_network,
            "openstack network list --external",
            _external_network,
        )
    floating_subnet_id = None
    if external and settings.floating_subnet:
        floating_subnet_id = finder.find(
            "floatingSubnet",
            settings.floating_subnet,
            f"openstack network show {shlex.quote(settings.floating_network)} -c subnets",
            lambda wanted: _floating_subnet_id(wanted, external),
        )
    endpoint_zone_id = None
    if settings.endpoint_zone:
        endpoint_zone_id = finder.find("endpointZone", settings.endpoint_zone, "openstack zone list", _zone_id)
    roles: dict[Role, RoleCloud] = {}
    for role in Role:
        if role.settings(settings).count and (found := _role(finder, role, settings, network)):
            roles[role] = found
    if settings.key_pair:
        roles = _with_key_pair(finder, settings, network, roles)
    if finder.problems or network is None or subnet is None:
        raise pulumi.RunError(
            "the configuration does not fit the cloud:\n" + "\n".join(f"  - {problem}" for problem in finder.problems)
        )
    cidr = IPv4Network(subnet.cidr)
    return Cloud(
        network_id=network.id,
        subnet_id=subnet.id,
        subnet=cidr,
        floating_pool=external.name or "" if external else "",
        floating_subnet_id=floating_subnet_id,
        endpoint_zone_id=endpoint_zone_id,
        roles=roles,
        reachable_vip=_reachable_vip(settings, network.id, vip_port_name, cidr),
    )


def _network(wanted: str) -> openstack.networking.GetNetworkResult:
    get = openstack.networking.get_network
    return _ask_in_turn(lambda: get(name=wanted), lambda: get(network_id=wanted))


def _external_network(wanted: str) -> openstack.networking.GetNetworkResult:
    """The external network, whose name is unique: the provider looks for it once more by name, among all networks."""
    get = openstack.networking.get_network
    found = _ask_in_turn(lambda: get(name=wanted, external=True), lambda: get(network_id=wanted, external=True))
    _ask(lambda: get(name=found.name))
    return found


def _floating_subnet_id(wanted: str, external: openstack.networking.GetNetworkResult) -> str:
    get = openstack.networking.get_subnet
    try:
        found = _ask_in_turn(
            lambda: get(name=wanted, network_id=external.id),
            lambda: get(subnet_id=wanted, network_id=external.id),
        )
    except _NotFoundError as reason:
        # Before 2024.2, Neutron shows others than the owner only the ids of an external network's subnets.
        if wanted in external.subnets:
            return wanted
        raise _NotFoundError(
            f"the external network {external.name} has no such subnet, or this user may not see its name ({reason}); "
            "use the subnet's id"
        ) from None
    if found.ip_version != 4:
        raise _NotFoundError(
            f"it is an IPv{found.ip_version} subnet ({found.cidr}), and a floating IP is an IPv4 address"
        )
    return found.id


def _zone_id(wanted: str) -> str:
    return _ask(lambda: openstack.dns.get_dns_zone(name=f"{wanted}.")).id  # to Designate, a name ends in a dot


def _subnet(wanted: str, network_id: str) -> openstack.networking.GetSubnetResult:
    get = openstack.networking.get_subnet
    if not wanted:
        return _ask(lambda: get(network_id=network_id, ip_version=4))
    found = _ask_in_turn(
        lambda: get(name=wanted, network_id=network_id),
        lambda: get(subnet_id=wanted, network_id=network_id),
    )
    if found.ip_version != 4:
        raise _NotFoundError(f"it is an IPv{found.ip_version} subnet ({found.cidr}), and the VIP needs an IPv4 one")
    return found


def _key_pair(wanted: str) -> openstack.compute.GetKeypairResult:
    return _ask(lambda: openstack.compute.get_keypair(name=wanted))


def _with_key_pair(
    finder: _Finder,
    settings: Settings,
    network: openstack.networking.GetNetworkResult | None,
    roles: dict[Role, RoleCloud],
) -> dict[Role, RoleCloud]:
    """The roles as they are if this user has the key pair; without it, none of their instances can be created."""
    attempt = _Finder()
    if pair := attempt.find("keyPair", settings.key_pair, "openstack keypair list", _key_pair):
        finder.problems += settings.key_mismatch(pair.public_key)
        return roles
    instances = (
        _instances(network.id, [name for role in Role for name in host_names(settings, role)]) if network else None
    )
    # Another one would replace them all.
    if not instances or any(it.key_pair != settings.key_pair for it in instances):
        finder.problems += attempt.problems
        return roles
    (gone,) = attempt.problems
    pulumi.log.warn(f"{gone}. Key pairs belong to users. {_KEPT}")
    return {role: replace(it, gone="; ".join(filter(None, (it.gone, gone)))) for role, it in roles.items()}


def _role(
    finder: _Finder, role: Role, settings: Settings, network: openstack.networking.GetNetworkResult | None
) -> RoleCloud | None:
    """The role's flavor and image, or None and problems."""
    wanted, prefix = role.settings(settings), role.configuration_prefix
    attempt = _Finder()
    flavor_id = attempt.find(f"{prefix}Flavor", wanted.flavor, "openstack flavor list", _flavor_id)
    image = attempt.find(f"{prefix}Image", wanted.image, "openstack image list", _image)
    if flavor_id and image:
        image_id, by_name = image
        return RoleCloud(flavor_id=flavor_id, image_id=image_id, image_kept=by_name)
    instances = _instances(network.id, host_names(settings, role)) if network else None
    # The flavor of an instance has no name if it was deleted. If it is there, the configuration means another one.
    flavor_kept = instances and not any(it.flavor_name for it in instances)
    # Only an image that is given by its id is followed. What was booted from a volume does not name its image.
    image_kept = instances and (not is_uuid(wanted.image) or all(it.image_id in (wanted.image, "") for it in instances))
    if not instances or not (flavor_id or flavor_kept) or not (image or image_kept):
        finder.problems += attempt.problems
        return None
    gone = "; ".join(attempt.problems)
    pulumi.log.warn(f"{gone}. {_KEPT}")
    return RoleCloud(
        flavor_id=flavor_id or instances[0].flavor_id,
        flavor_kept=not flavor_id,
        image_id=image[0] if image else instances[0].image_id,
        image_kept=image[1] if image else True,
        gone=gone,
    )


def _flavor_id(wanted: str) -> str:
    get = openstack.compute.get_flavor
    return _ask_in_turn(lambda: get(name=wanted), lambda: get(flavor_id=wanted)).id


def _image(wanted: str) -> tuple[str, bool]:
    """An image's id, and whether it was found by name."""
    return _ask_in_turn(
        lambda: (openstack.images.get_image(name=wanted, most_recent=True).id, True),
        lambda: (_image_of_id(wanted), False),
    )


def _image_of_id(wanted: str) -> str:
    # Glance lists these only on request. By name they are not looked up at all: anyone can publish or share an image
    # under any name.
    get = openstack.images.get_image_ids
    for ids in (
        get,
        lambda: get(member_status="all"),
        lambda: get(visibility="community"),
        lambda: get(hidden=True),
        lambda: get(visibility="community", hidden=True),
    ):
        if wanted in ids().ids:
            return wanted
    raise LookupError(wanted)


def _instances(network_id: str, names: Sequence[str]) -> list[openstack.compute.GetInstanceV2Result] | None:
    """The instances of these names, found by their ports; None if one is missing, or cannot be read."""
    found: list[openstack.compute.GetInstanceV2Result] = []
    for name in names:
        ports = openstack.networking.get_port_ids(network_id=network_id, name=name).ids
        # Of two ports with one name, one is another stack's.
        instance_id = openstack.networking.get_port(port_id=ports[0]).device_id if len(ports) == 1 else None
        if not instance_id:
            return None
        try:
            found.append(_ask(lambda: openstack.compute.get_instance_v2(id=instance_id)))  # noqa: B023 - called at once
        except _NotFoundError:
            return None
    return found


def _reachable_vip(settings: Settings, network_id: str, port_name: str, subnet: IPv4Network) -> str | None:
    ports = openstack.networking.get_port_ids(network_id=network_id, name=port_name).ids
    if not ports:
        return None
    if settings.floating_network:
        try:
            return _ask(lambda: openstack.networking.get_floating_ip(port_id=ports[0])).address
        except _NotFoundError:
            return None  # it is about to be created
    return address_in(subnet, openstack.networking.get_port(port_id=ports[0]).all_fixed_ips)


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
