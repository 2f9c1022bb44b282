"""What the cloud calls the things that the configuration names."""

from dataclasses import dataclass

from model.topology import Role


@dataclass(frozen=True, kw_only=True)
class RoleCloud:
    """The cloud's ids for one role's flavor and image."""

    flavor_id: str
    image_id: str
    image_by_name: bool
    """The id was found by the name, and another image may have the name tomorrow."""


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The cloud's ids for what the configuration names."""

    network_id: str
    subnet_id: str
    floating_pool: str
    """Name of the external network, as floating IPs want it; empty for none."""
    roles: dict[Role, RoleCloud]
    reserved_vip: str | None
    """The VIP as an earlier run has reserved it; None before the first."""
