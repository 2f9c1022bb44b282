import re
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from dev.lab.errors import LabError
from dev.lab.host_network import collisions
from dev.lab.settings import LabSettings

HOME = {"HOME": "/home/somebody"}


def test_the_defaults_are_the_benchmarking_range_and_lxc() -> None:
    settings = LabSettings.from_environ(HOME)
    assert settings.virt_type == "lxc"
    assert str(settings.api_address) == "198.18.0.2"
    assert str(settings.instance_gateway) == "198.18.1.1"
    assert settings.allocation_pools(settings.instance_network) == [{"start": "198.18.1.100", "end": "198.18.1.199"}]


def test_the_folders_belong_to_the_user_not_to_the_clone() -> None:
    settings = LabSettings.from_environ(HOME)
    assert settings.clouds_yaml == Path("/home/somebody/.local/state/openstack-ha-api/lab/clouds.yaml")
    assert settings.cache == Path("/home/somebody/.cache/openstack-ha-api/lab")


def test_the_xdg_variables_move_the_folders() -> None:
    settings = LabSettings.from_environ({**HOME, "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"})
    assert settings.state == Path("/s/openstack-ha-api/lab")
    assert settings.cache == Path("/c/openstack-ha-api/lab")


def test_an_empty_xdg_variable_counts_as_unset() -> None:
    assert LabSettings.from_environ({**HOME, "XDG_STATE_HOME": ""}).state == LabSettings.from_environ(HOME).state


def test_all_invalid_values_are_reported_together() -> None:
    environ = {**HOME, "LAB_VIRT": "xen", "LAB_API_CIDR": "198.18.0.0/33", "LAB_INSTANCE_CIDR": "127.0.0.0/24"}
    with pytest.raises(LabError) as error:
        LabSettings.from_environ(environ)
    assert all(name in str(error.value) for name in ("LAB_VIRT='xen'", "LAB_API_CIDR='198.18.0.0/33'", "127.0.0.0/24"))


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("LAB_API_CIDR", "192.0.2.0/24", "sandboxed machines use"),
        ("LAB_INSTANCE_CIDR", "203.0.113.0/24", "sandboxed machines use"),
        ("LAB_INSTANCE_CIDR", "203.0.0.0/16", "sandboxed machines use"),
        ("LAB_INSTANCE_CIDR", "198.18.1.0/25", "too small"),
        ("LAB_INSTANCE_CIDR", "198.18.0.0/23", "overlap"),
        ("LAB_TENANT_CIDR", "198.18.1.0/24", "overlap"),
        ("LAB_API_CIDR", "198.18.0.1/24", "not an IPv4 network"),
        ("LAB_API_CIDR", "224.0.0.0/24", "multicast"),
        ("LAB_API_CIDR", "", "not an IPv4 network"),
    ],
)
def test_an_unusable_network_is_refused(variable: str, value: str, reason: str) -> None:
    with pytest.raises(LabError, match=re.escape(variable)) as error:
        LabSettings.from_environ({**HOME, variable: value})
    assert reason in str(error.value)


def test_a_network_that_the_host_already_routes_to_is_a_collision() -> None:
    settings = LabSettings.from_environ(HOME)
    routes = [IPv4Network("198.18.0.0/15"), IPv4Network("10.0.0.0/8")]
    errors = collisions(settings, routes, {})
    assert [error.split("=")[0] for error in errors] == ["LAB_API_CIDR", "LAB_INSTANCE_CIDR", "LAB_TENANT_CIDR"]
    assert all("198.18.0.0/15" in error for error in errors)


def test_a_package_mirror_inside_the_lab_s_network_is_a_collision() -> None:
    settings = LabSettings.from_environ(HOME)
    (error,) = collisions(settings, [], {"mirror.example": ["10.1.1.1", "198.18.1.77"]})
    assert "mirror.example (198.18.1.77)" in error
    assert "LAB_INSTANCE_CIDR" in error


def test_routes_and_mirrors_elsewhere_are_no_collision() -> None:
    settings = LabSettings.from_environ(HOME)
    assert collisions(settings, [IPv4Network("10.0.0.0/8")], {"mirror.example": ["10.1.1.1"]}) == []
