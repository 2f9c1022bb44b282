"""What makes an address unusable as an API server that this program did not create."""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network

API_SERVER_REMEDY = "list the addresses of the API servers themselves"


def api_server_problem(
    address: IPv4Address, subnet: IPv4Network, *, port: str | None, own: Collection[str]
) -> str | None:
    """Why `address` cannot be an API server's; None if it can.

    `port` is the name of the network's port that has the address, if any; `own` has the names of the ports of the VIP
    and the load balancers. Addresses that are unusable on any network are refused by model/settings/fields.py.
    """
    if address in (subnet.network_address, subnet.broadcast_address):
        return f"is the network or broadcast address of the subnet {subnet}"
    if port in own:
        return f"belongs to {port}, so the load balancers would connect to themselves"
    return None
