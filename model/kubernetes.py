"""The cluster's hosts: their files, the facts that these are rendered from, and which version may run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from ipaddress import IPv4Address, IPv4Network
from math import ceil
from typing import Any

from model.ports import FLANNEL_PORT
from model.settings import NetworkPlugin, Settings
from model.timers import Timers
from model.topology import API_PORT

# By path on the host, which is the path in templates/kubernetes/ too; a template's ends in ".j2".
HOST_FILES: Mapping[str, int] = {
    "etc/containerd/certs.d/_default/ca.crt": 0o644,
    "etc/containerd/certs.d/_default/hosts.toml": 0o644,
    "etc/containerd/config.toml": 0o644,
    "etc/crictl.yaml": 0o644,
    "etc/kubernetes/kubelet.conf.d/60-ha-api.conf": 0o644,
    "etc/modules-load.d/60-ha-api.conf": 0o644,
    "etc/sysctl.d/60-ha-api.conf": 0o644,
}
"""Of every host, with their modes."""
CONTROL_PLANE_FILES: Mapping[str, int] = {
    "etc/kubernetes/ha-api/init.yaml": 0o600,
    "etc/systemd/system/ha-api-control-plane.service": 0o644,
    "etc/systemd/system/ha-api-kubelet-certificates.service": 0o644,
    "etc/systemd/system/ha-api-kubelet-certificates.timer": 0o644,
    "usr/local/lib/ha-api/etcd.py": 0o755,
    "usr/local/lib/ha-api/kubelet_certificates.py": 0o755,
    "usr/local/lib/ha-api/stop_control_plane.sh": 0o755,
}
"""Of a control-plane host: kept as they should be on members, too."""
API_SERVER_FILES: Mapping[str, int] = {
    "etc/kubernetes/api-server/audit-policy.yaml": 0o600,
    "etc/kubernetes/api-server/authentication.yaml": 0o600,
    "etc/kubernetes/api-server/encryption.yaml": 0o600,
}
"""Of a control-plane host that is about to become a member: what its API server reads when it starts."""
JOINING_FILES: Mapping[str, int] = {
    "etc/kubernetes/ha-api/join.yaml": 0o600,
    "run/ha-api/discovery.conf": 0o600,
}
"""Of a host that joins."""
KUBERNETES_FILES = {**HOST_FILES, **CONTROL_PLANE_FILES, **API_SERVER_FILES, **JOINING_FILES}
LOCAL_ENDPOINT_FILES: Mapping[str, int] = {
    "etc/haproxy/ha-api/ca.pem": 0o644,
    "etc/haproxy/haproxy.cfg": 0o644,
}
"""Of a worker with a HAProxy of its own."""
WORKERS_AT_FULL_PACE = 20
"""Up to this many workers check as often as a load balancer does, more of them less often: a check, with its TLS
handshake, costs an API server 4 ms (measured)."""
LOCAL_ENDPOINT = IPv4Address("127.0.0.1")
"""Where a host's agents find an API server: on the control plane its own, on a worker by its HAProxy."""


AUTHORITIES = (
    "ca", "ca-key", "etcd-ca", "etcd-ca-key", "front-proxy-ca", "front-proxy-ca-key", "service-account-key",
    "service-account-public-key", "encryption-key", "bootstrap-certificate", "bootstrap-key",
)  # fmt: skip
"""What a cluster keeps for its whole life: in PEM, but for the encryption key, which is in Base64."""


@dataclass(frozen=True, kw_only=True)
class Authorities:
    """A cluster's certificate authorities and keys."""

    files: Mapping[str, str]
    """By the names in `AUTHORITIES`."""

    @classmethod
    def from_json(cls, text: str) -> "Authorities":
        """From what program/certificates.py prints."""
        return cls(files=json.loads(text))

    def __getitem__(self, name: str) -> str:
        return self.files[name]

    @property
    def pki(self) -> Mapping[str, str]:
        """By path in kubeadm's folder (kubeadm's "manual certificate distribution"): what control planes share."""
        return {
            "ca.crt": self["ca"],
            "ca.key": self["ca-key"],
            "etcd/ca.crt": self["etcd-ca"],
            "etcd/ca.key": self["etcd-ca-key"],
            "front-proxy-ca.crt": self["front-proxy-ca"],
            "front-proxy-ca.key": self["front-proxy-ca-key"],
            "sa.key": self["service-account-key"],
            "sa.pub": self["service-account-public-key"],
        }


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the files of all its hosts depend on."""

    settings: Settings
    vip: IPv4Address
    floating_ip: str | None
    version: str
    """A full one, such as 1.37.2."""
    authorities: Authorities

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """Names and addresses by which clients reach the API server besides its host's own."""
        local = [str(LOCAL_ENDPOINT)] if self.settings.local_api_endpoint else []
        floating = [self.floating_ip] if self.floating_ip else []
        name = [self.settings.endpoint_name] if self.settings.endpoint_name else []
        return tuple(dict.fromkeys((str(self.vip), *floating, *local, *name, *self.settings.api_server_names)))

    @property
    def kubelets_name(self) -> str:
        """The name by which a worker's kubelet reaches the API servers if it leads to the VIP there; empty for none.

        With a floating IP it leads there instead, and no security group admits hosts that come back from the router.
        """
        without = self.settings.local_api_endpoint or self.floating_ip
        return "" if without else self.settings.endpoint_name

    @property
    def agents_endpoint(self) -> str:
        """The URL by which a worker's kubelet, and kube-proxy everywhere, reach the API servers."""
        return f"https://{LOCAL_ENDPOINT if self.settings.local_api_endpoint else self.vip}:{API_PORT}"

    @property
    def needs_containerd_2(self) -> bool:
        """Whether its kubelet has no fallback for a runtime without the CRI call RuntimeConfig."""
        return tuple(int(part) for part in self.version.split(".")[:2]) >= (1, 38)

    @property
    def ignored_preflight_errors(self) -> tuple[str, ...]:
        """Checks of kubeadm that the configuration has decided on already."""
        # Its only way to accept cgroup v1 (kubernetes/system-validators, cgroup_validator_linux.go).
        return ("SystemVerification",) if self.settings.kubelet_configuration.get("failCgroupV1") is False else ()


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one host's files depend on."""

    name: str
    address: IPv4Address
    control_plane: bool
    cluster: Cluster

    @property
    def taints(self) -> list[dict[str, str]] | None:
        """As in kubeadm's configuration: None for kubeadm's own of the control plane."""
        if self.control_plane:
            return None
        found: list[dict[str, str]] = []
        for taint in self.cluster.settings.worker_taints:
            label, _, effect = taint.rpartition(":")
            key, _, value = label.partition("=")
            found.append({"key": key, "value": value, "effect": effect})
        return found

    @property
    def kubelet_configuration(self) -> dict[str, Any]:
        """What the host's kubelet reads besides kubeadm's own file, which the cluster has for all of them."""
        configured = self.cluster.settings.kubelet_configuration
        shutdown = {key: value for key, value in configured.items() if key.startswith("shutdownGracePeriod")}
        others = {key: value for key, value in configured.items() if key not in shutdown}
        if self.control_plane:
            # Its kubelet would end the API server and etcd at the same time: ha-api-control-plane.service ends them in
            # order.
            shutdown = {}
        elif not shutdown:
            # Pods first, then those that other pods need. Nova turns an instance off after 60 s (shutdown_timeout).
            shutdown = {"shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s"}
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            # The cluster's CA signs the kubelets' serving certificates, so API servers can verify them.
            "serverTLSBootstrap": True,
            **others,
            **shutdown,
        }

    @property
    def kubelet_arguments(self) -> list[dict[str, str]]:
        """As in kubeadm's configuration."""
        arguments = {"node-ip": str(self.address), "config-dir": "/etc/kubernetes/kubelet.conf.d"}
        if not self.control_plane and self.cluster.settings.worker_labels:
            arguments["node-labels"] = ",".join(self.cluster.settings.worker_labels)
        return [{"name": name, "value": value} for name, value in arguments.items()]


@dataclass(frozen=True, kw_only=True)
class LocalEndpoint:
    """What the files of a worker's HAProxy depend on."""

    api_servers: tuple[tuple[str, IPv4Address], ...]
    """Name in HAProxy and address of the control-plane hosts."""
    timers: Timers
    api_ca_certificate: str
    api_client_certificate: str = ""
    """Always empty, because the checks are anonymous; the load balancers' template has it."""

    @classmethod
    def from_settings(cls, settings: Settings, control_plane: Mapping[str, IPv4Address], ca: str) -> "LocalEndpoint":
        """The endpoint of each worker; `control_plane` has addresses by host name, `ca` is the cluster's, in PEM."""
        # In steps of 20, so that adding a worker rarely changes the others.
        slower = ceil(settings.workers.count / WORKERS_AT_FULL_PACE)
        return cls(
            api_servers=tuple(control_plane.items()),
            timers=replace(settings.timers, api_check_interval=settings.timers.api_check_interval * slower),
            api_ca_certificate=ca,
        )


def renewal_period(today: date) -> str:
    """The half-year, such as 2026-2: the administrator's certificate, valid for a year, is renewed once in each."""
    return f"{today.year}-{1 if today.month <= 6 else 2}"


@dataclass(frozen=True, kw_only=True)
class ExistingCluster:
    """What a cluster was created with, and has now."""

    version: str
    pod_network: str
    service_network: str
    network_plugin: str
    """The one that was applied last; empty if none was yet."""
    ending: bool
    """A destroy began and did not finish, so hosts no longer leave the cluster one by one."""

    @classmethod
    def parse(cls, printed: str, *, ending: bool) -> "ExistingCluster":
        """From what its steps have printed (templates/steps/kubernetes/init.sh.j2, network.sh.j2)."""
        facts = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
        return cls(
            version=facts["version"],
            pod_network=facts["podNetwork"],
            service_network=facts["serviceNetwork"],
            network_plugin=facts.get("networkPlugin", ""),
            ending=ending,
        )

    def problems(self, settings: Settings) -> list[str]:
        """Why the stack cannot have these settings, one line each."""
        wanted = settings.kubernetes_version
        if not settings.kubernetes:
            why = f'kubernetesVersion = "{wanted}"' if not wanted else "apiServers, or controlPlaneCount = 0"
            return [
                f"{why}: the cluster, which runs {self.version}, would be destroyed; if this is intended, use "
                "`pulumi destroy --run-program --ignore-protect`, and create the stack again"
            ]
        found: list[str] = []
        if self.version != wanted and not self.version.startswith(f"{wanted}."):
            found.append(
                f'kubernetesVersion = "{wanted}": the cluster runs {self.version}, and this program cannot upgrade it; '
                f'use "{self.version}", or its minor version'
            )
        for key, had, now in (
            ("podNetwork", self.pod_network, settings.pod_network),
            ("serviceNetwork", self.service_network, settings.service_network),
        ):
            if had != str(now):
                found.append(
                    f"{key} = {now}: the cluster has {had}, which cannot be changed while it exists; use {had}"
                )
        if (
            self.network_plugin == NetworkPlugin.FLANNEL
            and settings.network_plugin is NetworkPlugin.NONE
            and not any(
                protocol == "udp" and ports and ports[0] <= FLANNEL_PORT <= ports[1]
                for protocol, ports in settings.network_plugin_ports
            )
        ):
            found.append(
                "networkPlugin = none: the cluster runs flannel, and without its port the pods of one host no longer "
                f"reach those of another; list udp/{FLANNEL_PORT} in networkPluginPorts until flannel is gone "
                "(docs/operations.md, Replace flannel)"
            )
        return found


def subnet_problems(settings: Settings, subnet: IPv4Network) -> list[str]:
    """Which of the cluster's networks overlap the hosts' own, if the program creates a cluster."""
    networks = {"podNetwork": settings.pod_network, "serviceNetwork": settings.service_network}
    return [
        f"{key} = {network}: overlaps the hosts' subnet {subnet}, so they would not reach each other; choose a "
        "network that nobody else uses"
        for key, network in networks.items()
        if settings.kubernetes and network.overlaps(subnet)
    ]
