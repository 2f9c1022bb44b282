"""The cluster on the hosts: Kubernetes' version, its networks, and where its packages and images come from."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

from model.settings.fields import (
    ApiServerNames,
    CaCertificate,
    Cidr,
    Cidrs,
    KubeletConfiguration,
    KubernetesVersion,
    Model,
    NodeLabels,
    NodeTaints,
    PgpKey,
    PluginPorts,
    RegistryMirror,
    RepositoryUrl,
)

WORLD = 8
"""A network with a shorter prefix than this means "everyone": a pod network may be in it."""


class NetworkPlugin(StrEnum):
    """What connects the pods."""

    FLANNEL = "flannel"
    NONE = "none"


class KubernetesSettings(Model):
    """Kubernetes on the control plane and the workers."""

    kubernetes_version: KubernetesVersion
    pod_network: Cidr
    service_network: Cidr
    api_server_names: ApiServerNames
    kubernetes_repository: RepositoryUrl
    kubernetes_repository_key: PgpKey
    registry_mirror: RegistryMirror
    registry_mirror_ca: CaCertificate
    worker_labels: NodeLabels
    worker_taints: NodeTaints
    kubelet_configuration: KubeletConfiguration
    local_api_endpoint: bool
    network_plugin: NetworkPlugin
    network_plugin_ports: PluginPorts
    node_port_cidrs: Cidrs

    @property
    def kubernetes(self) -> bool:
        """Whether the program creates a cluster on its hosts, rather than leaving them bare."""
        return creates_cluster(self.kubernetes_version, vars(self))

    @property
    def kubernetes_minor(self) -> str:
        """The version's minor one, such as 1.37."""
        return ".".join(self.kubernetes_version.split(".")[:2])

    @property
    def kubernetes_repository_url(self) -> str:
        """Where the packages are: the setting, or the Kubernetes project's own repository of the minor version."""
        return self.kubernetes_repository or f"https://pkgs.k8s.io/core:/stable:/v{self.kubernetes_minor}/deb"

    @field_validator("kubernetes_version")
    @classmethod
    def _no_ca_of_another_cluster(cls, value: str, info: ValidationInfo) -> str:
        if creates_cluster(value, info.data):
            for field, key in (
                ("api_ca_certificate", "apiCaCertificate"),
                ("api_client_certificate_set", "apiClientCertificate"),
            ):
                if info.data.get(field):
                    raise ValueError(
                        f"is set, and so is {key}, which is for a cluster that this program did not create; remove "
                        f'{key}, or set kubernetesVersion to ""'
                    )
        return value

    @field_validator("pod_network", "service_network")
    @classmethod
    def _large_enough_and_alone(cls, value: IPv4Network, info: ValidationInfo) -> IPv4Network:
        if not creates_cluster(info.data.get("kubernetes_version", ""), info.data):
            return value
        if info.field_name == "pod_network":
            # Each node gets a /24 (kube-controller-manager, --node-cidr-mask-size).
            nodes = info.data.get("control_plane_count", 0) + info.data.get("worker_count", 0)
            largest = 24 - max(nodes - 1, 0).bit_length()
            if value.prefixlen > largest:
                raise ValueError(
                    f"has room for {2 ** max(24 - value.prefixlen, 0)} nodes, which get a /24 each, but there are "
                    f"{nodes}; use a /{largest} or larger, better a /16"
                )
        elif not 12 <= value.prefixlen <= 24:  # kube-apiserver, --service-cluster-ip-range: at most 20 bits
            raise ValueError("is not between /12, the largest that the API server accepts, and /24; use a /16")
        for what, other in _networks(info):
            if other.prefixlen >= WORLD and value.overlaps(other):
                raise ValueError(
                    f"overlaps {what}: hosts would send packets for it into the cluster; choose a network that nobody "
                    "else uses"
                )
        return value

    @field_validator("kubernetes_repository", "registry_mirror")
    @classmethod
    def _not_at_an_address_of_the_cluster(cls, value: str, info: ValidationInfo) -> str:
        for address in _address_in(value):
            _insist_outside(address, info, "pod_network", "service_network")
        return value

    @field_validator("node_port_cidrs")
    @classmethod
    def _clients_outside_the_cluster(
        cls, value: tuple[IPv4Network, ...], info: ValidationInfo
    ) -> tuple[IPv4Network, ...]:
        # A plugin without a tunnel sends pods' packets to other hosts as they are.
        flannel = info.data.get("network_plugin") is NetworkPlugin.FLANNEL
        for cidr in value:
            _insist_outside(cidr, info, "service_network", *(["pod_network"] if flannel else []))
        return value

    @field_validator("kubernetes_repository_key")
    @classmethod
    def _key_over_tls(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("kubernetes_repository", "").startswith("http:"):
            raise ValueError(
                "is empty, and kubernetesRepository has http, over which anybody could send another key; set the key, "
                "or use https"
            )
        return value

    @field_validator("registry_mirror_ca")
    @classmethod
    def _of_a_mirror(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("registry_mirror", "https:").startswith("https:"):
            raise ValueError("is set, but registryMirror is not an https URL; set that, or remove this")
        return value

    @field_validator("network_plugin_ports")
    @classmethod
    def _of_another_plugin(cls, value: tuple[object, ...], info: ValidationInfo) -> tuple[object, ...]:
        if value and info.data.get("network_plugin") is NetworkPlugin.FLANNEL:
            raise ValueError("is set, but flannel's port is known; remove it, or set networkPlugin to none")
        return value


def creates_cluster(version: str, settings: Mapping[str, Any]) -> bool:
    """Whether settings, by their names, have the program create a cluster rather than leave its hosts bare."""
    # With apiServers, the cluster is elsewhere.
    return bool(version and settings.get("control_plane_count") and settings.get("api_servers") == ())


def _insist_outside(network: IPv4Network, info: ValidationInfo, *fields: str) -> None:
    if not creates_cluster(info.data.get("kubernetes_version", ""), info.data):
        return
    for field in fields:
        of_cluster = info.data.get(field)
        if of_cluster and network.prefixlen >= WORLD and network.overlaps(of_cluster):
            raise ValueError(
                f"has {network}, which overlaps {to_camel(field)} {of_cluster}: hosts would send packets for it into "
                "the cluster; choose another that is outside of it"
            )


def _address_in(url: str) -> Iterator[IPv4Network]:
    """The host of a URL if it is an address, rather than a name."""
    with suppress(ValueError):
        yield IPv4Network(IPv4Address(urlsplit(url).hostname or ""))


def _networks(info: ValidationInfo) -> Iterator[tuple[str, IPv4Network]]:
    """Every other network and address of the configuration, as messages call it."""
    for field, key in (
        ("admin_cidrs", "adminCidrs"),
        ("api_allowed_cidrs", "apiAllowedCidrs"),
        ("api_servers", "apiServers"),
    ):
        yield from ((f"{key} {it}", IPv4Network(it)) for it in info.data.get(field, ()))
    for frontend in info.data.get("frontends", ()):
        yield from ((f"frontends {it}", it) for it in frontend.allowed_cidrs)
    if vip := info.data.get("vip"):
        yield f"vip {vip}", IPv4Network(vip)
    with suppress(ValueError):  # a name, or none
        bastion = IPv4Address(info.data.get("bastion_host", ""))
        yield f"bastionHost {bastion}", IPv4Network(bastion)
    yield from (("the address in aptMirror", it) for it in _address_in(info.data.get("apt_mirror", "")))
    if proxy := info.data.get("apt_proxy"):
        # No message shows the address: the whole setting may be a secret.
        yield from (("the address in aptProxy", it) for it in _address_in(proxy.get_secret_value()))
    if info.field_name == "service_network" and (pods := info.data.get("pod_network")):
        yield f"podNetwork {pods}", pods
