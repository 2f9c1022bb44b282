"""Where the cluster is on the network, and who may reach it."""

import re
from ipaddress import IPv4Address
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from model.settings.fields import Addresses, Cidrs, Model, Required, Text


class NetworkSettings(Model):
    """Network, VIP, names, and the networks of clients and administrators."""

    network: Required
    subnet: Text
    vip: IPv4Address | None
    floating_network: Text
    cluster_name: str

    admin_cidrs: Annotated[Cidrs, Field(min_length=1)]
    api_allowed_cidrs: Cidrs
    api_servers: Addresses

    @field_validator("vip", mode="before")
    @classmethod
    def _vip(cls, value: object) -> IPv4Address | None:
        if value == "":
            return None
        try:
            return IPv4Address(value)
        except ValueError:
            raise ValueError("is not an IPv4 address; use a free address of the subnet, or leave it empty") from None

    @field_validator("cluster_name")
    @classmethod
    def _cluster_name(cls, value: str) -> str:
        # Host names start with it: an RFC 1123 label has 63 characters, and "-worker-999" needs room.
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", value):
            raise ValueError(
                "cannot start a host name; use at most 40 lower-case letters, digits and hyphens, with a letter first "
                "and no hyphen last"
            )
        return value

    @field_validator("api_servers")
    @classmethod
    def _others(cls, value: tuple[IPv4Address, ...], info: ValidationInfo) -> tuple[IPv4Address, ...]:
        if len({*value}) < len(value):
            raise ValueError("lists an address twice; keep one of them")
        if info.data.get("vip") in value:
            raise ValueError(
                "lists the VIP, so the load balancers would connect to themselves; list the servers behind it"
            )
        return value
