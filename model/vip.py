"""What makes an address usable as the VIP, and which ports may answer for it."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, ip_network

VIP_REMEDY = "use a free address of the subnet, or leave vip empty"

AddressPair = Mapping[str, str]
"""One of a port's allowed address pairs, as Neutron has it."""


def vip_problem(vip: IPv4Address, subnet: IPv4Network, *, gateway: str | None, in_use_by: str | None) -> str | None:
    """Why `vip` cannot be the VIP; None if it can.

    `gateway` is the subnet's gateway, if it has one; `in_use_by` describes the port that has the address, unless it is
    the cluster's own VIP port.
    """
    if vip not in subnet:
        return f"is not in the subnet {subnet}"
    if str(vip) == gateway:
        return f"is the gateway of the subnet {subnet}"
    if vip in (subnet.network_address, subnet.broadcast_address):
        return f"is the network or broadcast address of the subnet {subnet}"
    if in_use_by:
        return f"is in use by {in_use_by}"
    return None


def covers(pair: AddressPair, vip: IPv4Address) -> bool:
    """Whether an allowed address pair lets a port hold the VIP; it may be a whole network."""
    network = ip_network(pair["ip_address"], strict=False)
    return network.version == vip.version and vip in network
