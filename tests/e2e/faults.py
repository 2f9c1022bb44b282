"""Faults at a host's own address, and how long an interruption may be with each fault."""

from collections.abc import Callable

from model.timers import PROFILES, Profile
from operate.drill.faults import DrillFault, FaultName
from operate.hosts.report import PairReport
from program.holder import answering_load_balancer

# Generous bounds, for a busy machine. Advertisements that are missing take longest to be noticed.
FAILOVER_SECONDS = PROFILES[Profile.DEFAULT].master_down_interval / 1000 + 2
# Who hands the VIP over, or leaves it behind, costs the requests that are under way.
PLANNED_MOVE_SECONDS = 0.5
# A shorter interruption may be the probe's own: that is how late it was itself.
BOUNDS = {
    FaultName.HAPROXY_KILLED: FAILOVER_SECONDS,
    FaultName.KEEPALIVED_KILLED: PLANNED_MOVE_SECONDS,
    FaultName.INSTANCE_STOPPED: PLANNED_MOVE_SECONDS,
}


class AddressLost(DrillFault):
    """The holder's DHCP client stops for some seconds, and takes the host's address with it; the link stays up."""

    name = "own-address-lost"
    title = "it loses its own address"
    notice = "nobody answers until its watchdog has noticed"
    way_back = "the host starts its DHCP client again"
    seconds = 8.0

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        # By itself and a moment later: it takes the connection away that it was started over.
        units = "systemd-networkd.socket systemd-networkd.service"
        script = f"sleep 1; systemctl stop {units}; sleep 12; systemctl start {units}"
        self.site.run(host, f"systemd-run --quiet --collect sh -c '{script}'", about_to)

    def in_effect(self, host: str) -> bool:
        return answering_load_balancer(self.site.outputs.load_balancers[host], 0.5) is None

    def undo(self, host: str) -> str | None:
        """Fails until the host has its address again, and is then repeated."""
        self.site.run(host, "systemctl start systemd-networkd")
        return f"{host}: it has its address again"


class StandbyAddressLost(AddressLost):
    """The same on the standby."""

    name = "standby-own-address-lost"
    title = "its standby loses its own address"

    def host(self, report: PairReport) -> str:
        return self.site.pair.peer_of(super().host(report))
