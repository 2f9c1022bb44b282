"""Which of a port's addresses counts."""

from ipaddress import IPv4Network

import pytest

from model.cloud import Cloud, address_in

SUBNET = IPv4Network("198.51.100.0/24")
CLOUD = Cloud(network_id="", subnet_id="", subnet=SUBNET, floating_pool="", roles={}, reachable_vip=None)


@pytest.mark.parametrize(
    "addresses",
    [
        ["198.51.100.5"],
        ["198.51.100.5", "2001:db8::5"],
        ["2001:db8::5", "198.51.100.5"],
        ["192.0.2.5", "198.51.100.5", "198.51.100.6"],
    ],
)
def test_the_first_address_in_the_subnet_counts_wherever_it_is(addresses: list[str]):
    assert address_in(SUBNET, addresses) == CLOUD.address_of(addresses) == "198.51.100.5"


@pytest.mark.parametrize("addresses", [[], ["2001:db8::5"], ["192.0.2.5"]])
def test_a_port_without_an_address_in_the_subnet_is_an_error(addresses: list[str]):
    assert address_in(SUBNET, addresses) is None
    with pytest.raises(ValueError, match="no address in the subnet"):
        CLOUD.address_of(addresses)
