"""Names, and the one table of security rules."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network

from model.ports import (
    API_PORT,
    EXCHANGE_PORT,
    EXPORTER_PORT,
    FLANNEL_PORT,
    HEALTH_PORT,
    METRICS_PORT,
    NODE_PORTS,
    SSH_PORT,
    TUNNEL_PORT,
)
from model.settings import NetworkPlugin, RoleSettings, Settings, Target

ELECTION_ADDRESS = "169.254.112.51"
"""The address that VRRP elects a holder of, on the loopback device: link-local (RFC 3927), never used on the wire."""


class Role(StrEnum):
    """What an instance is for. The value is the part of its name."""

    LOAD_BALANCER = "lb"
    CONTROL_PLANE = "cp"
    WORKER = "worker"

    @property
    def configuration_prefix(self) -> str:
        """What the role's configuration keys start with."""
        return _ROLE_FACTS[self].configuration_prefix

    @property
    def output_name(self) -> str:
        """The role's key in the stack's outputs."""
        return _ROLE_FACTS[self].output_name

    @property
    def replaced_by(self) -> tuple[str, ...]:
        """Properties of the instance whose change replaces it."""
        return _ROLE_FACTS[self].replaced_by

    def settings(self, settings: Settings) -> RoleSettings:
        """The role's part of the configuration."""
        match self:
            case Role.LOAD_BALANCER:
                return settings.load_balancers
            case Role.CONTROL_PLANE:
                return settings.control_plane
            case Role.WORKER:
                return settings.workers


@dataclass(frozen=True)
class _RoleFacts:
    configuration_prefix: str
    output_name: str
    replaced_by: tuple[str, ...]


# The provider would change image and flavor in place. A rebuild onto another image keeps the instance's id, so no step
# would run again on a host that is empty. A resize keeps the disk, which suits bare hosts (a cluster's nodes are
# replaced, see components/instance.py). A load balancer has nothing worth keeping, and a resize that hangs is worse
# than a new instance: Nova waits for a confirmation between two hypervisors, and steps could not tell when the host is
# back.
_ROLE_FACTS = {
    Role.LOAD_BALANCER: _RoleFacts("loadBalancer", "loadBalancers", ("imageId", "flavorId")),
    Role.CONTROL_PLANE: _RoleFacts("controlPlane", "controlPlane", ("imageId",)),
    Role.WORKER: _RoleFacts("worker", "workers", ("imageId",)),
}


def role_of(target: Target) -> Role:
    """The role of a frontend's servers."""
    return Role.WORKER if target is Target.WORKERS else Role.CONTROL_PLANE


def host_names(settings: Settings, role: Role) -> tuple[str, ...]:
    """Names of a role's instances: `{cluster}-{role}-{index}`.

    A name depends only on its index, so growing or shrinking a role leaves the other instances alone.
    """
    return tuple(f"{settings.cluster_name}-{role}-{index}" for index in range(role.settings(settings).count))


def vip_port_name(settings: Settings) -> str:
    """Name of the port that reserves the VIP."""
    return f"{settings.cluster_name}-vip"


@dataclass(frozen=True)
class Rule:
    """One rule of a role's security group, for IPv4.

    `source` is a role (the members of its group) or a network in CIDR notation; for egress it is the destination.
    `ports` is None for all ports, and for protocols without ports. Protocols by name or IANA number.
    """

    role: Role
    purpose: str
    source: Role | str
    protocol: str | None = "tcp"
    ports: tuple[int, int] | None = None
    egress: bool = False

    @property
    def name(self) -> str:
        """Unique in the role's group, and stable: changing one rule leaves the others alone."""
        return f"{self.purpose}-{'to' if self.egress else 'from'}-{self.source}"


def security_rules(settings: Settings) -> tuple[Rule, ...]:
    """Everything that is allowed. There are no other rules: the groups' default rules are deleted.

    The cluster's ports and who uses them: https://kubernetes.io/docs/reference/networking/ports-and-protocols/
    ("Self" there is the role's own group here).
    """
    lb, cp, worker = Role.LOAD_BALANCER, Role.CONTROL_PLANE, Role.WORKER
    api, health = (API_PORT, API_PORT), (HEALTH_PORT, HEALTH_PORT)
    metrics, exporter = (METRICS_PORT, METRICS_PORT), (EXPORTER_PORT, EXPORTER_PORT)
    admins = tuple(str(cidr) for cidr in settings.admin_cidrs)
    # API servers that the program did not create use the endpoint too, and are in none of its groups.
    clients = tuple(
        dict.fromkeys(str(cidr) for cidr in (*settings.api_allowed_cidrs, *map(IPv4Network, settings.api_servers)))
    )

    def table() -> Iterator[tuple[Role, str, tuple[Role | str, ...], str, tuple[int, int] | None]]:
        #     whose   what                  from whom        protocol  ports
        yield lb, "api", (*clients, lb, cp, worker), "tcp", api
        yield lb, "health", (*admins, lb), "tcp", health
        yield lb, "metrics", admins, "tcp", metrics
        yield lb, "exporter", admins, "tcp", exporter
        yield lb, "vrrp", (lb,), "112", None
        yield lb, "held-connections", (lb,), "udp", (EXCHANGE_PORT, TUNNEL_PORT)
        for frontend in settings.frontends:
            allowed = map(str, frontend.allowed_cidrs)
            yield lb, f"frontend-{frontend.port}", (*allowed, cp, worker), "tcp", (frontend.port, frontend.port)

        yield cp, "api", (lb, cp, worker), "tcp", api
        yield cp, "etcd", (cp,), "tcp", (2379, 2380)
        # Workers: metrics-server, where it runs on one.
        yield cp, "kubelet", (cp, worker), "tcp", (10250, 10250)
        yield cp, "controller-manager", (cp,), "tcp", (10257, 10257)
        yield cp, "scheduler", (cp,), "tcp", (10259, 10259)

        yield worker, "kubelet", (cp, worker), "tcp", (10250, 10250)
        yield worker, "kube-proxy", (worker,), "tcp", (10256, 10256)

        for frontend in settings.frontends:
            port = frontend.server_port
            yield role_of(frontend.target), f"frontend-to-{port}", (lb,), "tcp", (port, port)

        # Flannel's rule is named like any plugin's, so another plugin on the same port keeps it.
        flannel = settings.kubernetes and settings.network_plugin is NetworkPlugin.FLANNEL
        for role in (cp, worker):
            for protocol, ports in (
                (("udp", (FLANNEL_PORT, FLANNEL_PORT)),) if flannel else settings.network_plugin_ports
            ):
                name = "-".join(["plugin", protocol, *map(str, dict.fromkeys(ports or ()))])
                yield role, name, (cp, worker), protocol, ports
        for protocol in ("tcp", "udp"):
            yield worker, f"node-ports-{protocol}", tuple(map(str, settings.node_port_cidrs)), protocol, NODE_PORTS

        for role in Role:
            yield role, "ssh", admins, "tcp", (SSH_PORT, SSH_PORT)

    # Neutron refuses a second rule that is equal. Two frontends may lead to one port; a plugin may want the kubelet's.
    ingress: dict[tuple[Role, Role | str, str, tuple[int, int] | None], Rule] = {}
    for role, purpose, sources, protocol, ports in table():
        for source in sources:
            ingress.setdefault((role, source, protocol, ports), Rule(role, purpose, source, protocol, ports))
    # Packages, DNS, NTP, and replies that do not belong to a tracked connection.
    egress = tuple(Rule(role, "all", "0.0.0.0/0", protocol=None, egress=True) for role in Role)
    return (*ingress.values(), *egress)
