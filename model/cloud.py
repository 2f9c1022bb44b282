"""What the cloud calls the things that the configuration names."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from uuid import UUID

from model.topology import Role


def address_in(subnet: IPv4Network, addresses: Iterable[str]) -> str | None:
    """The first of a port's addresses that is in the subnet; None if none is.

    Neutron adds an address of its own accord for every IPv6 subnet with SLAAC on the network, and sorts a port's
    addresses as text, so neither their number nor their order means anything.
    """
    return next((address for address in addresses if ip_address(address) in subnet), None)


def is_uuid(text: str) -> bool:
    """Whether this could be the id of anything but a flavor, whose ids are free text. A name may be a UUID too."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class RoleCloud:
    """The cloud's ids for one role's flavor and image."""

    flavor_id: str
    image_id: str
    image_kept: bool
    """Existing instances keep their image: it was found by name, and another may have that name tomorrow."""
    flavor_kept: bool = False
    """Existing instances keep their flavor: the configured one is gone, and so is theirs."""
    gone: str = ""
    """Why no instance can be created: the flavor, the image or the key pair is gone. Empty if all are there."""


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The cloud's ids for what the configuration names."""

    network_id: str
    subnet_id: str
    subnet: IPv4Network
    floating_pool: str
    """Name of the external network for the floating IP, which Neutron's API calls a pool; empty for none."""
    floating_subnet_id: str | None = None
    """Subnet of the external network from which the floating IP is taken; None if Neutron chooses."""
    endpoint_zone_id: str | None = None
    """Designate's zone in which the endpoint's record is created; None for no record."""
    roles: dict[Role, RoleCloud]
    reachable_vip: str | None
    """Where the VIP of an earlier run answers: its floating IP, if it has one. None before the first run."""

    def address_of(self, fixed_ips: Iterable[str]) -> str:
        """The address of a port in the configured subnet. Raises `ValueError` for a port without one."""
        every = [*fixed_ips]
        address = address_in(self.subnet, every)
        if address is None:
            raise ValueError(
                f"a port has no address in the subnet {self.subnet}, only {', '.join(every) or 'none at all'}; "
                "give it one (`openstack port set --fixed-ip`), or correct subnet"
            )
        return address
