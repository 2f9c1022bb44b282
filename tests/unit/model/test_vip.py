"""Which addresses can be the VIP."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from model.vip import covers, vip_problem

SUBNET = IPv4Network("198.51.100.0/24")


@pytest.mark.parametrize(
    ("vip", "in_use_by", "reason"),
    [
        ("198.51.101.5", None, "not in the subnet"),
        ("198.51.100.1", None, "gateway"),
        ("198.51.100.0", None, "network or broadcast"),
        ("198.51.100.255", None, "network or broadcast"),
        ("198.51.100.50", "port 1 (web)", "in use by port 1 (web)"),
    ],
)
def test_an_unusable_address_is_refused_with_the_reason(vip: str, in_use_by: str | None, reason: str):
    problem = vip_problem(IPv4Address(vip), SUBNET, gateway="198.51.100.1", in_use_by=in_use_by)
    assert problem
    assert reason in problem


@pytest.mark.parametrize("gateway", ["198.51.100.1", None])
def test_a_free_address_of_the_subnet_is_fine(gateway: str | None):
    assert vip_problem(IPv4Address("198.51.100.50"), SUBNET, gateway=gateway, in_use_by=None) is None


@pytest.mark.parametrize(
    ("pair", "may"),
    [
        ("198.51.100.100", True),
        ("198.51.100.100/24", True),
        ("198.51.100.0/24", True),
        ("198.51.100.101", False),
        ("2001:db8::/64", False),
    ],
)
def test_an_address_pair_covers_the_addresses_of_its_network(pair: str, may: bool):
    assert covers({"ip_address": pair}, IPv4Address("198.51.100.100")) is may
