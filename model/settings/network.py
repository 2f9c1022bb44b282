"""Where the cluster is on the network, and who may reach it."""

from ipaddress import IPv4Address
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from model.settings.fields import ApiServers, Cidrs, ClusterName, DnsName, Model, Required, Text


class NetworkSettings(Model):
    """Network, VIP, names, and the networks of clients and administrators."""

    network: Required
    subnet: Text
    vip: IPv4Address | None
    floating_network: Text
    floating_subnet: Text
    endpoint_name: DnsName
    endpoint_zone: DnsName
    cluster_name: ClusterName

    admin_cidrs: Annotated[Cidrs, Field(min_length=1)]
    api_allowed_cidrs: Cidrs
    api_servers: ApiServers

    @field_validator("vip", mode="before")
    @classmethod
    def _vip(cls, value: object) -> IPv4Address | None:
        if value == "":
            return None
        try:
            return IPv4Address(value)
        except ValueError:
            raise ValueError("is not an IPv4 address; use a free address of the subnet, or leave it empty") from None

    @field_validator("floating_subnet")
    @classmethod
    def _subnet_of_a_network(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("floating_network") == "":
            raise ValueError("is set, but floatingNetwork is empty, so there is no floating IP; set both, or neither")
        return value

    @field_validator("endpoint_zone")
    @classmethod
    def _zone_of_the_name(cls, value: str, info: ValidationInfo) -> str:
        name = info.data.get("endpoint_name")
        if value and name == "":
            raise ValueError("is set, but endpointName is empty, so there is no record to create; set both, or neither")
        if value and name and not f".{name}".endswith(f".{value}"):
            raise ValueError(f"is not the zone of endpointName, {name}; use a zone whose name it ends in")
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
