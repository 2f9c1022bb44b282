"""The lab's settings, read from the environment and validated, and its folders."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations
from pathlib import Path

from dev.lab.errors import LabError

PROJECT = "openstack-ha-api"
VIRT_TYPES = ("lxc", "qemu", "kvm")
DEFAULT_API_NETWORK = "198.18.0.0/24"
DEFAULT_INSTANCE_NETWORK = "198.18.1.0/24"
DEFAULT_TENANT_NETWORK = "198.19.0.0/24"
_NETWORKS = {
    "LAB_API_CIDR": DEFAULT_API_NETWORK,
    "LAB_INSTANCE_CIDR": DEFAULT_INSTANCE_NETWORK,
    "LAB_TENANT_CIDR": DEFAULT_TENANT_NETWORK,
}

# Some sandboxed machines use these two documentation networks (RFC 5737): their uplink and package mirrors are in them,
# and the lab's route would hide them.
NEVER_TAKEN = (IPv4Network("192.0.2.0/24"), IPv4Network("203.0.113.0/24"))

# .1 is the gateway, .2 the cloud or the router, .100 to .199 the pool: a network must have these addresses.
_LONGEST_PREFIX = 24


@dataclass(frozen=True, kw_only=True)
class LabSettings:
    """The lab's settings. Create them with `from_environ`, which validates them."""

    virt_type: str
    api_network: IPv4Network
    instance_network: IPv4Network
    tenant_network: IPv4Network
    state: Path
    cache: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "LabSettings":
        """Reads LAB_VIRT, LAB_API_CIDR, LAB_INSTANCE_CIDR, LAB_TENANT_CIDR, XDG_STATE_HOME and XDG_CACHE_HOME.

        Raises LabError with all invalid values.
        """
        errors: list[str] = []
        virt_type = environ.get("LAB_VIRT", "lxc")
        if virt_type not in VIRT_TYPES:
            errors.append(f"LAB_VIRT={virt_type!r}: unknown kind of instance; choose one of {', '.join(VIRT_TYPES)}")
        networks = {name: _network(name, environ.get(name, default), errors) for name, default in _NETWORKS.items()}
        errors.extend(
            f"{one}={networks[one]} and {other}={networks[other]} overlap; choose two separate networks"
            for one, other in combinations(networks, 2)
            if (first := networks[one]) and (second := networks[other]) and first.overlaps(second)
        )
        api, instance, tenant = networks.values()
        if errors or not (api and instance and tenant):
            raise LabError("The lab's settings are invalid:\n" + "\n".join(f"- {error}" for error in errors))
        return cls(
            virt_type=virt_type,
            api_network=api,
            instance_network=instance,
            tenant_network=tenant,
            state=_folder(environ, "XDG_STATE_HOME", ".local/state"),
            cache=_folder(environ, "XDG_CACHE_HOME", ".cache"),
        )

    @property
    def clouds_yaml(self) -> Path:
        """clouds.yaml for clients, with the clouds `lab` (an ordinary project member) and `lab-admin`; mode 600."""
        return self.state / "clouds.yaml"

    @property
    def api_gateway(self) -> IPv4Address:
        """The host's address on the API network."""
        return self.api_network[1]

    @property
    def api_address(self) -> IPv4Address:
        """The cloud's address, with all its APIs."""
        return self.api_network[2]

    @property
    def auth_url(self) -> str:
        """Keystone's URL."""
        return f"http://{self.api_address}:5000/v3"

    @property
    def packages_url(self) -> str:
        """The server of Kubernetes' packages; the repository is in the folder that pkgs.k8s.io has it in."""
        return f"http://{self.api_address}"

    @property
    def packages_key(self) -> Path:
        """The public key that the packages are signed with, ASCII-armoured."""
        return self.state / "kubernetes-packages.asc"

    @property
    def registry_url(self) -> str:
        """The registry with Kubernetes' images, under the names that they have at registry.k8s.io and ghcr.io."""
        return f"https://{self.api_address}"

    @property
    def registry_authority(self) -> Path:
        """The certificate of the authority that signed the registry's, in PEM."""
        return self.state / "registry-ca.crt"

    @property
    def instance_gateway(self) -> IPv4Address:
        """The host's address on the instances' network."""
        return self.instance_network[1]

    @property
    def router_address(self) -> IPv4Address:
        """The tenant network's router's address on the instances' network."""
        return self.instance_network[2]

    @staticmethod
    def allocation_pools(network: IPv4Network) -> list[dict[str, str]]:
        """The addresses of a network that Neutron assigns to instances; the others are free for VIPs."""
        return [{"start": str(network[100]), "end": str(network[199])}]


def _folder(environ: Mapping[str, str], variable: str, default: str) -> Path:
    # The XDG base directory specification: an unset or empty variable means the default.
    base = environ.get(variable) or Path(environ.get("HOME") or Path.home()) / default
    return Path(base) / PROJECT / "lab"


def _network(variable: str, value: str, errors: list[str]) -> IPv4Network | None:
    try:
        network = IPv4Network(value)
    except ValueError as error:
        errors.append(f"{variable}={value!r}: not an IPv4 network ({error}); write it like 198.18.0.0/24")
        return None
    if network.prefixlen > _LONGEST_PREFIX:
        errors.append(f"{variable}={network}: too small, because the lab uses addresses up to .199; choose a /24")
    errors.extend(
        f"{variable}={network}: overlaps {taken}, which sandboxed machines use themselves; choose another network"
        for taken in NEVER_TAKEN
        if network.overlaps(taken)
    )
    if network.is_loopback or network.is_multicast or network.is_link_local:
        errors.append(f"{variable}={network}: a loopback, multicast or link-local network; choose a routable one")
    return network
