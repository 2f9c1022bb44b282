"""What the lab's user may choose, from the environment, validated; and where the lab keeps its things."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from dev.lab.errors import LabError

PROJECT = "openstack-ha-api"
VIRT_TYPES = ("lxc", "qemu", "kvm")
DEFAULT_API_NETWORK = "198.18.0.0/24"
DEFAULT_INSTANCE_NETWORK = "198.18.1.0/24"

# Two of the networks for documentation (RFC 5737) are in real use on machines that are themselves sandboxes: their
# uplink and package mirrors stand there, and would vanish behind the lab's route.
NEVER_TAKEN = (IPv4Network("192.0.2.0/24"), IPv4Network("203.0.113.0/24"))

# .1 is the gateway, .2 the cloud, .100 to .199 the pool: a network must have that many addresses.
_LONGEST_PREFIX = 24


@dataclass(frozen=True, kw_only=True)
class LabSettings:
    """The lab's choices. Made by `from_environ`, which checks them; nothing else does."""

    virt_type: str
    api_network: IPv4Network
    instance_network: IPv4Network
    state: Path
    cache: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "LabSettings":
        """Reads LAB_VIRT, LAB_API_CIDR, LAB_INSTANCE_CIDR, XDG_STATE_HOME and XDG_CACHE_HOME.

        Raises LabError that tells all wrong values at once.
        """
        errors: list[str] = []
        virt_type = environ.get("LAB_VIRT", "lxc")
        if virt_type not in VIRT_TYPES:
            errors.append(f"LAB_VIRT={virt_type!r} is not a kind of instance: choose one of {', '.join(VIRT_TYPES)}")
        api = _network("LAB_API_CIDR", environ.get("LAB_API_CIDR", DEFAULT_API_NETWORK), errors)
        instance = _network("LAB_INSTANCE_CIDR", environ.get("LAB_INSTANCE_CIDR", DEFAULT_INSTANCE_NETWORK), errors)
        if api and instance and api.overlaps(instance):
            errors.append(f"LAB_API_CIDR={api} and LAB_INSTANCE_CIDR={instance} overlap: choose two separate networks")
        if errors or not (api and instance):
            raise LabError("The lab's settings are wrong:\n" + "\n".join(f"- {error}" for error in errors))
        return cls(
            virt_type=virt_type,
            api_network=api,
            instance_network=instance,
            state=_folder(environ, "XDG_STATE_HOME", ".local/state"),
            cache=_folder(environ, "XDG_CACHE_HOME", ".cache"),
        )

    @property
    def clouds_yaml(self) -> Path:
        """The clients' file, with the clouds `lab` (an ordinary project member) and `lab-admin`; mode 600."""
        return self.state / "clouds.yaml"

    @property
    def api_gateway(self) -> IPv4Address:
        """The host's address towards the cloud."""
        return self.api_network[1]

    @property
    def api_address(self) -> IPv4Address:
        """The cloud's address, on which all its APIs answer."""
        return self.api_network[2]

    @property
    def auth_url(self) -> str:
        """Keystone's URL."""
        return f"http://{self.api_address}:5000/v3"

    @property
    def instance_gateway(self) -> IPv4Address:
        """The host's address towards the instances."""
        return self.instance_network[1]

    @property
    def allocation_pool(self) -> tuple[IPv4Address, IPv4Address]:
        """First and last address that Neutron gives to instances; the rest is free for VIPs."""
        return self.instance_network[100], self.instance_network[199]


def _folder(environ: Mapping[str, str], variable: str, default: str) -> Path:
    # The XDG base directory specification: an unset or empty variable means the default.
    base = environ.get(variable) or Path(environ.get("HOME") or Path.home()) / default
    return Path(base) / PROJECT / "lab"


def _network(variable: str, value: str, errors: list[str]) -> IPv4Network | None:
    try:
        network = IPv4Network(value)
    except ValueError as error:
        errors.append(f"{variable}={value!r} is not an IPv4 network ({error}): write it like 198.18.0.0/24")
        return None
    if network.prefixlen > _LONGEST_PREFIX:
        errors.append(f"{variable}={network} is too small: the lab uses the addresses up to .199 of it, take a /24")
    errors.extend(
        f"{variable}={network} overlaps {taken}, which hosts like this one use themselves: choose another"
        for taken in NEVER_TAKEN
        if network.overlaps(taken)
    )
    if network.is_loopback or network.is_multicast or network.is_link_local:
        errors.append(f"{variable}={network} is a loopback, multicast or link-local network: take a routable one")
    return network
