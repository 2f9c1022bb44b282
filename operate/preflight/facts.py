"""The facts that the checks use, each queried once, when a check first needs it."""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from openstack.exceptions import ForbiddenException, NotFoundException

from model.cloud import address_in, is_uuid
from model.settings import Settings
from model.topology import Role, host_names, vip_port_name
from operate.preflight.finding import CannotCheckError
from operate.stack.engine import query
from operate.stack.resources import RECORD

KEY_PAIR = "openstack:compute/keypair:Keypair"


class Facts:
    """The configuration and its cloud's resources. An unavailable one raises CannotCheckError or openstacksdk's errors.

    Names are looked up as the program does it (program/lookups.py). openstacksdk's objects are passed on as they are:
    their attributes are created at run time, without types.
    """

    def __init__(
        self, stack: str, settings: Settings, cloud: Any, *, user_id: str, project_id: str, is_admin: bool
    ) -> None:
        self.stack = stack
        self.settings = settings
        self.cloud = cloud
        self.user_id = user_id
        self.project_id = project_id
        self.is_admin = is_admin

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles that have instances."""
        return tuple(role for role in Role if role.settings(self.settings).count)

    @cached_property
    def networks(self) -> list[Any]:
        """Networks with the configured name, or else the one with that id."""
        return named_or_id(self.cloud.network.networks(), self.settings.network)

    @cached_property
    def network(self) -> Any:
        """The network."""
        if len(self.networks) != 1:
            raise CannotCheckError("the network is unknown")
        return self.networks[0]

    @cached_property
    def subnets(self) -> list[Any]:
        """The network's IPv4 subnets with the configured name, or else that id; all of them if none is configured."""
        subnets = list(self.cloud.network.subnets(network_id=self.network.id, ip_version=4))
        return named_or_id(subnets, self.settings.subnet) if self.settings.subnet else subnets

    @cached_property
    def subnet(self) -> Any:
        """The subnet."""
        if len(self.subnets) != 1:
            raise CannotCheckError("the subnet is unknown")
        return self.subnets[0]

    @cached_property
    def cidr(self) -> IPv4Network:
        """The subnet's CIDR."""
        return IPv4Network(self.subnet.cidr)

    @cached_property
    def ports(self) -> list[Any]:
        """The network's ports that this user sees: all for the owner and administrators, otherwise the project's."""
        return list(self.cloud.network.ports(network_id=self.network.id))

    @property
    def sees_all_ports(self) -> bool:
        """Whether `ports` has all ports."""
        return self.is_admin or self.network.project_id == self.project_id

    @cached_property
    def vip_port(self) -> Any | None:
        """The port that reserves the VIP, if the program has created it."""
        name = vip_port_name(self.settings)
        return next((port for port in self.own_ports if port.name == name), None)

    @property
    def own_ports(self) -> list[Any]:
        """Ports with names of this program."""
        names = {name for role in Role for name in host_names(self.settings, role)} | {vip_port_name(self.settings)}
        return [port for port in self.ports if port.project_id == self.project_id and port.name in names]

    @property
    def vip(self) -> IPv4Address | None:
        """The VIP: already reserved, or as configured; None if Neutron is to choose it."""
        reserved = self.address_of(self.vip_port) if self.vip_port else None
        return IPv4Address(reserved) if reserved else self.settings.vip

    @cached_property
    def external_networks(self) -> list[Any]:
        """External networks with the configured name, or else the one with that id."""
        return named_or_id(self.cloud.network.networks(is_router_external=True), self.settings.floating_network)

    @property
    def external(self) -> Any:
        """The external network from which the VIP gets a floating IP."""
        if len(self.external_networks) != 1:
            raise CannotCheckError("the floating network is unknown")
        return self.external_networks[0]

    @cached_property
    def floating_ip(self) -> str | None:
        """The VIP's floating IP, whoever created it; None without one."""
        # Without routers Neutron does not know the question.
        if self.vip_port is None or "router" not in self.extensions:
            return None
        found = list(self.cloud.network.ips(port_id=self.vip_port.id))
        return found[0].floating_ip_address if found else None

    @property
    def endpoint_address(self) -> str | None:
        """Where clients find the API: the floating IP if there is to be one, otherwise the VIP; None if unknown yet."""
        if self.settings.floating_network:
            return self.floating_ip
        return str(self.vip) if self.vip else None

    def address_of(self, port: Any) -> str | None:
        """A port's address in the subnet."""
        return address_in(self.cidr, (it["ip_address"] for it in port.fixed_ips))

    @cached_property
    def extensions(self) -> frozenset[str]:
        """Aliases of Neutron's extensions."""
        return frozenset(extension.alias for extension in self.cloud.network.extensions())

    @cached_property
    def every_flavor(self) -> list[Any]:
        """All flavors that this project can use."""
        return list(self.cloud.compute.flavors(is_public="None"))  # Nova's spelling of "any": private flavors too

    @cached_property
    def flavors(self) -> Mapping[str, list[Any]]:
        """Flavors by configured name, or else id."""
        configured = {role.settings(self.settings).flavor for role in self.roles}
        return {name: named_or_id(self.every_flavor, name) for name in configured}

    def flavor(self, role: Role) -> Any:
        """The role's flavor."""
        configured = role.settings(self.settings).flavor
        if len(self.flavors[configured]) != 1:
            raise CannotCheckError(f"the flavor {configured!r} is unknown")
        return self.flavors[configured][0]

    @cached_property
    def images(self) -> Mapping[str, list[Any]]:
        """Images by configured name, or else id; the newest, which the program uses, first."""
        configured = {role.settings(self.settings).image for role in self.roles}
        return {name: self._images(name) for name in configured}

    def _images(self, configured: str) -> list[Any]:
        found = list(self.cloud.image.images(name=configured))
        # Others are of no use to the program, and matter only if there is nothing else.
        found = [image for image in found if image.status == "active"] or found
        if found or not is_uuid(configured):
            return sorted(found, key=lambda image: image.created_at, reverse=True)
        try:
            # Unlike a list, this finds community and hidden images too.
            return [self.cloud.image.get_image(configured)]
        except NotFoundException:
            return []

    def image(self, role: Role) -> Any:
        """The role's image."""
        configured = role.settings(self.settings).image
        if not self.images[configured]:
            raise CannotCheckError(f"the image {configured!r} is unknown")
        return self.images[configured][0]

    @cached_property
    def servers(self) -> Mapping[str, Any]:
        """The project's instances with names of this program."""
        names = {name for role in Role for name in host_names(self.settings, role)}
        every = self.cloud.compute.servers(name=f"^{self.settings.cluster_name}-")
        return {server.name: server for server in every if server.name in names}

    def keep(self, role: Role) -> bool:
        """Whether all instances of a role exist, and no longer have a flavor that could be looked up."""
        known = {it.name for it in self.every_flavor} | {it.id for it in self.every_flavor}
        own = [self.servers[name].flavor.name for name in host_names(self.settings, role) if name in self.servers]
        return not self.missing(role) and not known & {*own}

    def missing(self, role: Role) -> int:
        """How many of the role's instances do not exist yet."""
        return sum(name not in self.servers for name in host_names(self.settings, role))

    def new_root_disks(self, role: Role) -> int:
        """How many of the role's instances do not exist yet, or are replaced for a change between flavor and volume."""
        volume = bool(role.settings(self.settings).root_volume_size)
        there = [self.servers[name] for name in host_names(self.settings, role) if name in self.servers]
        # Nova shows no image of an instance that boots from a volume.
        return self.missing(role) + sum(bool(it.image) is volume for it in there)

    @cached_property
    def key_pairs(self) -> Mapping[str, str]:
        """Public keys of the user's key pairs, by name."""
        return {pair.name: pair.public_key for pair in self.cloud.compute.keypairs()}

    @property
    def made_key_pair(self) -> Mapping[str, Any] | None:
        """Pulumi's outputs of the key pair that the stack created; None if it created none."""
        return next((it.get("outputs", {}) for it in self._resources if it["type"] == KEY_PAIR), None)

    @property
    def made_record(self) -> bool:
        """Whether the stack created a record of the endpoint's name, as it is configured now."""
        name = f"{self.settings.endpoint_name}."
        return any(it["type"] == RECORD and it.get("outputs", {}).get("name") == name for it in self._resources)

    @cached_property
    def _resources(self) -> list[dict[str, Any]]:
        """The stack's resources in Pulumi's state."""
        deployment: dict[str, Any] = json.loads(query("stack", "export", "--stack", self.stack)).get("deployment") or {}
        return deployment.get("resources") or []

    @cached_property
    def dns_zone(self) -> Any | None:
        """Designate's zone of the endpoint's name; None if this project has none of that name."""
        return next(iter(self.cloud.dns.zones(name=f"{self.settings.endpoint_zone}.")), None)

    def hypervisor_count(self) -> int | None:
        """How many hypervisors accept instances; None if this user may not see them."""
        try:
            hypervisors = list(self.cloud.compute.hypervisors())
        except ForbiddenException:
            return None
        return sum(it.state == "up" and it.status == "enabled" for it in hypervisors)

    def free_addresses(self) -> int:
        """How many addresses of the subnet Neutron can still assign, as far as this user can see."""
        try:
            # Only for administrators; others get 403 or 404.
            availability = self.cloud.network.get_network_ip_availability(self.network.id).subnet_ip_availability
        except (ForbiddenException, NotFoundException):
            pools = [(IPv4Address(pool["start"]), IPv4Address(pool["end"])) for pool in self.subnet.allocation_pools]
            used = {
                IPv4Address(it["ip_address"]) for port in self.ports for it in port.fixed_ips if "." in it["ip_address"]
            }
            size = sum(int(last) - int(first) + 1 for first, last in pools)
            return size - sum(any(first <= address <= last for first, last in pools) for address in used)
        return next(it["total_ips"] - it["used_ips"] for it in availability if it["subnet_id"] == self.subnet.id)


def named_or_id(things: Iterable[Any], configured: str) -> list[Any]:
    """What has this name, or else this id: the program's order, and a name may look like an id."""
    every = list(things)
    return [it for it in every if it.name == configured] or [it for it in every if it.id == configured]
