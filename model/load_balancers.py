"""A load balancer's files: the list, what a change of each one asks for, and the facts that they are rendered from."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Self

from model.settings import FrontendSettings, Settings
from model.timers import Timers
from model.topology import Role, role_of

GRACE = 180
"""Seconds for which connections may go on through a load balancer that has given the VIP up on purpose.

Most requests end sooner. A watch lasts up to an hour, so to wait for all would block every maintenance.
"""

CONNECTIONS = 20_000
"""Of the API's port, and of each frontend: none takes one from another."""
NEW_CONNECTIONS = 2_000
"""Of each frontend in a second: a flood of them would take the CPU time that the API's connections need."""
RESERVED_CONNECTIONS = 400
"""Of the health and metrics ports, when no more clients fit."""

FORGOTTEN_AFTER = 10
"""Seconds for which the kernel tracks a connection that has ended: as long as one that was reset, and not 120.

Such an entry is only needed for late segments, and within this time a lost FIN is repeated several times. All these
connections end on this host, whose own TIME-WAIT (60 s) keeps their segments apart from those of a later connection.
"""
KERNELS_TRACKED = 262_144
"""Entries that the kernel allows by itself on a host with more than 4 GiB."""


class Consequence(StrEnum):
    """What has to happen on the host after a file has changed. templates/steps/configure.sh.j2 does it."""

    DAEMON_RELOAD = "daemon-reload"
    LOAD_SYSCTL = "load-sysctl"
    RELOAD_FIREWALLD = "reload-firewalld"
    RELOAD_HAPROXY = "reload-haproxy"
    RELOAD_KEEPALIVED = "reload-keepalived"
    RESTART_WATCHDOG = "restart-watchdog"
    RESTART_HELD_CONNECTIONS = "restart-held-connections"
    RESTART_MONITORING = "restart-monitoring"


@dataclass(frozen=True)
class LoadBalancerFile:
    """How a file is installed."""

    mode: int
    consequences: tuple[Consequence, ...]


_DAEMON_RELOAD = Consequence.DAEMON_RELOAD
_FIREWALLD = LoadBalancerFile(0o644, (Consequence.RELOAD_FIREWALLD,))
_HAPROXY = LoadBalancerFile(0o644, (Consequence.RELOAD_HAPROXY,))
_HAPROXY_SECRET = LoadBalancerFile(0o600, (Consequence.RELOAD_HAPROXY,))
_KEEPALIVED = LoadBalancerFile(0o640, (Consequence.RELOAD_KEEPALIVED,))  # may hold the VRRP password
_KEEPALIVED_SCRIPT = LoadBalancerFile(0o755, (Consequence.RELOAD_KEEPALIVED,))
_SYSCTL = LoadBalancerFile(0o644, (Consequence.LOAD_SYSCTL,))
_HELD_CONNECTIONS_PROGRAM = LoadBalancerFile(0o755, (Consequence.RESTART_HELD_CONNECTIONS,))
_HELD_CONNECTIONS_UNIT = LoadBalancerFile(0o644, (_DAEMON_RELOAD, Consequence.RESTART_HELD_CONNECTIONS))
_METRICS_PROGRAM = LoadBalancerFile(0o755, (Consequence.RESTART_MONITORING,))
_METRICS_UNIT = LoadBalancerFile(0o644, (_DAEMON_RELOAD, Consequence.RESTART_MONITORING))
_WATCHDOG_PROGRAM = LoadBalancerFile(0o755, (Consequence.RESTART_WATCHDOG,))
_WATCHDOG_UNIT = LoadBalancerFile(0o644, (_DAEMON_RELOAD, Consequence.RESTART_WATCHDOG))
# In force from the service's next start: a restart would cut connections.
_SERVICE_DROP_IN = LoadBalancerFile(0o644, (_DAEMON_RELOAD,))
# In force at once: after a daemon-reload systemd computes the next time of a waiting timer again.
_TIMER_DROP_IN = LoadBalancerFile(0o644, (_DAEMON_RELOAD,))

LOAD_BALANCER_FILES: Mapping[str, LoadBalancerFile] = {
    "etc/firewalld/zones/public.xml": _FIREWALLD,
    "etc/haproxy/ha-api/ca.pem": _HAPROXY,
    "etc/haproxy/ha-api/client.pem": _HAPROXY_SECRET,
    "etc/haproxy/ha-api/new-connections.nft": _HAPROXY,
    "etc/haproxy/haproxy.cfg": _HAPROXY,
    "etc/keepalived/check_haproxy.sh": _KEEPALIVED_SCRIPT,
    "etc/keepalived/keepalived.conf": _KEEPALIVED,
    "etc/keepalived/notify.sh": _KEEPALIVED_SCRIPT,
    "etc/modules-load.d/60-ha-api.conf": _SYSCTL,
    "etc/sysctl.d/60-ha-api.conf": _SYSCTL,
    "etc/systemd/system/apt-daily-upgrade.timer.d/ha-api.conf": _TIMER_DROP_IN,
    "etc/systemd/system/ha-api-held-connections.service": _HELD_CONNECTIONS_UNIT,
    "etc/systemd/system/ha-api-metrics.service": _METRICS_UNIT,
    "etc/systemd/system/ha-api-metrics.timer": _METRICS_UNIT,
    "etc/systemd/system/ha-api-watchdog.service": _WATCHDOG_UNIT,
    "etc/systemd/system/haproxy.service.d/ha-api.conf": _SERVICE_DROP_IN,
    "etc/systemd/system/keepalived.service.d/ha-api.conf": _SERVICE_DROP_IN,
    "etc/systemd/system/prometheus-node-exporter.service.d/ha-api.conf": _METRICS_UNIT,
    "usr/local/lib/ha-api/handover.py": _HELD_CONNECTIONS_PROGRAM,
    "usr/local/lib/ha-api/haproxy.py": LoadBalancerFile(
        0o644, (Consequence.RESTART_WATCHDOG, Consequence.RESTART_HELD_CONNECTIONS)
    ),
    "usr/local/lib/ha-api/held_connections.py": _HELD_CONNECTIONS_PROGRAM,
    "usr/local/lib/ha-api/metrics.py": _METRICS_PROGRAM,
    "usr/local/lib/ha-api/watchdog.py": _WATCHDOG_PROGRAM,
}
"""By path on the host, which is the path in templates/load_balancer/ too; a template's ends in ".j2"."""


@dataclass(frozen=True, kw_only=True)
class Frontend:
    """A further port of the VIP, and its servers."""

    settings: FrontendSettings
    servers: tuple[tuple[str, IPv4Address], ...]
    """Name in HAProxy and address."""


@dataclass(frozen=True, kw_only=True)
class LoadBalancerPair:
    """What the files of both load balancers depend on."""

    vip: IPv4Address
    api_servers: tuple[tuple[str, IPv4Address], ...]
    """Name in HAProxy and address, in their order in haproxy.cfg."""
    vrrp_router_id: int
    timers: Timers
    vrrp_password: str = ""
    """Empty selects VRRPv3, which has no authentication."""
    api_ca_certificate: str = ""
    """PEM; empty checks API servers without verifying them."""
    api_client_certificate: str = ""
    """PEM, certificates and key; empty checks API servers anonymously."""
    frontends: tuple[Frontend, ...] = ()

    @property
    def connections(self) -> int:
        """All that HAProxy accepts at a time, if there are frontends."""
        return CONNECTIONS * (1 + len(self.frontends)) + RESERVED_CONNECTIONS

    @property
    def tracked_connections(self) -> int:
        """Entries of the kernel's connection tracking: a connection has two, the client's and the server's.

        Each port has up to 20,000 connections. In the time until an ended one is forgotten, 20,000 new ones may come at
        once, after a failover, and 2,000 in each second: 2 x (20,000 + 20,000 + 10 x 2,000) = 120,000 entries. They
        take some 320 bytes each, so 38 MB for a port, while they are there. The API's port has no limit of new
        connections, and gets what a frontend gets. The kernel's own limit is never lowered.
        """
        new = CONNECTIONS + NEW_CONNECTIONS * FORGOTTEN_AFTER
        return max(KERNELS_TRACKED, 2 * (self.connections + new * (1 + len(self.frontends))))

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        vip: IPv4Address,
        control_plane: Mapping[str, IPv4Address],
        workers: Mapping[str, IPv4Address],
        vrrp_password: str = "",
        api_client_certificate: str = "",
        cluster_ca: str = "",
    ) -> Self:
        """The pair of a configuration; hosts are addresses by name. Secrets are not in `Settings`.

        `cluster_ca` is the CA (PEM) of a cluster that the program creates.
        """
        hosts = {Role.CONTROL_PLANE: control_plane, Role.WORKER: workers}
        return cls(
            vip=vip,
            api_servers=(*control_plane.items(), *((str(address), address) for address in settings.api_servers)),
            vrrp_router_id=settings.vrrp_router_id,
            timers=settings.timers,
            vrrp_password=vrrp_password,
            api_ca_certificate=cluster_ca or settings.api_ca_certificate,
            api_client_certificate=api_client_certificate,
            frontends=tuple(
                Frontend(settings=frontend, servers=tuple(hosts[role_of(frontend.target)].items()))
                for frontend in settings.frontends
            ),
        )


@dataclass(frozen=True, kw_only=True)
class LoadBalancerHost:
    """What one load balancer's files depend on."""

    name: str
    address: IPv4Address
    peer_address: IPv4Address
    interface: str
    """The interface that carries `address`, as the host calls it."""
    pair: LoadBalancerPair
