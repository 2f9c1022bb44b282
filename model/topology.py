"""Names, and the one table of security rules."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network

from model.settings import RoleSettings, Settings

API_PORT = 6443
SSH_PORT = 22
HEALTH_PORT = 8404
"""Where each load balancer's HAProxy says that it is alive, and which host it is on."""
ELECTION_ADDRESS = "169.254.112.51"
"""What VRRP elects a holder of, on its loopback device: link-local (RFC 3927), and never on a wire as an address."""
METRICS_PORT = 8405
"""Where each load balancer's HAProxy answers Prometheus."""
EXPORTER_PORT = 9100
"""Where each load balancer's node exporter answers Prometheus."""


class Role(StrEnum):
    """What an instance is for. The value is the part of its name."""

    LOAD_BALANCER = "lb"
    CONTROL_PLANE = "cp"
    WORKER = "worker"

    def settings(self, settings: Settings) -> RoleSettings:
        """What the configuration says of this role."""
        match self:
            case Role.LOAD_BALANCER:
                return settings.load_balancers
            case Role.CONTROL_PLANE:
                return settings.control_plane
            case Role.WORKER:
                return settings.workers


def host_names(settings: Settings, role: Role) -> tuple[str, ...]:
    """Names of a role's instances: `{cluster}-{role}-{index}`.

    A name depends on its index alone, so growing or shrinking a role leaves the other instances as they are.
    """
    return tuple(f"{settings.cluster_name}-{role}-{index}" for index in range(role.settings(settings).count))


def vip_port_name(settings: Settings) -> str:
    """Name of the port that reserves the VIP."""
    return f"{settings.cluster_name}-vip"


@dataclass(frozen=True)
class Rule:
    """One permission of a role's security group, for IPv4.

    `source` is a role (the members of its group), a network in CIDR notation, or, for what the hosts may send,
    the destination. `ports` is None for all, and for protocols that have none. Protocols by name or IANA number.
    """

    role: Role
    purpose: str
    source: Role | str
    protocol: str | None = "tcp"
    ports: tuple[int, int] | None = None
    egress: bool = False

    @property
    def name(self) -> str:
        """Unique in the role's group, and stable: a change of one rule leaves the others alone."""
        return f"{self.purpose}-{'to' if self.egress else 'from'}-{self.source}"


def security_rules(settings: Settings) -> tuple[Rule, ...]:
    """All that is allowed; there is no other rule, for the groups' default rules are deleted.

    The cluster's ports and who uses them: https://kubernetes.io/docs/reference/networking/ports-and-protocols/
    ("Self" there is the own group here). Pod networks, NodePorts and ingresses depend on what is installed later, and
    are for their owners to add to the groups, whose ids the stack puts out.
    """
    lb, cp, worker = Role.LOAD_BALANCER, Role.CONTROL_PLANE, Role.WORKER
    api, health = (API_PORT, API_PORT), (HEALTH_PORT, HEALTH_PORT)
    metrics, exporter = (METRICS_PORT, METRICS_PORT), (EXPORTER_PORT, EXPORTER_PORT)
    admins = tuple(str(cidr) for cidr in settings.admin_cidrs)
    # API servers that are not the program's use the endpoint as its own do, and are in none of its groups.
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

        yield cp, "api", (lb, cp, worker), "tcp", api
        yield cp, "etcd", (cp,), "tcp", (2379, 2380)
        yield cp, "kubelet", (cp,), "tcp", (10250, 10250)
        yield cp, "controller-manager", (cp,), "tcp", (10257, 10257)
        yield cp, "scheduler", (cp,), "tcp", (10259, 10259)

        yield worker, "kubelet", (cp, worker), "tcp", (10250, 10250)
        yield worker, "kube-proxy", (worker,), "tcp", (10256, 10256)

        for role in Role:
            yield role, "ssh", admins, "tcp", (SSH_PORT, SSH_PORT)

    ingress = tuple(
        Rule(role, purpose, source, protocol, ports)
        for role, purpose, sources, protocol, ports in table()
        for source in sources
    )
    # Packages, names, time, and answers that are no part of a known connection.
    egress = tuple(Rule(role, "all", "0.0.0.0/0", protocol=None, egress=True) for role in Role)
    return ingress + egress
