"""What the cloud calls the things that the configuration names."""

from dataclasses import dataclass
from uuid import UUID

from model.topology import Role


def is_id(name_or_id: str) -> bool:
    """Whether this is an id: OpenStack's are UUIDs, with or without hyphens."""
    try:
        UUID(name_or_id)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class RoleCloud:
    """The cloud's ids for one role's flavor and image."""

    flavor_id: str
    image_id: str
    image_by_name: bool
    """The id was found by name, and another image may have that name tomorrow."""


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The cloud's ids for what the configuration names."""

    network_id: str
    subnet_id: str
    floating_pool: str
    """Name of the external network for the floating IP, which Neutron's API calls a pool; empty for none."""
    roles: dict[Role, RoleCloud]
    reserved_vip: str | None
    """The VIP that an earlier run reserved; None before the first."""
