"""Faults that the demo and the measurements on the lab inject, and that `./ha drill` does not have."""

import socket
from collections.abc import Callable

from model.topology import SSH_PORT
from operate.drill.faults import DrillFault


class LinkCut(DrillFault):
    """The port of any host is taken down through Neutron.

    For everybody else this is a crash: a load balancer that is shut down sends priority 0, this one cannot.
    """

    name = "link-cut"
    title = "it is cut off the network"
    notice = "nobody answers until the peer misses the advertisements; connections are cut"
    way_back = "its port is brought up through Neutron"
    seconds = 5.0

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        """Take the port down; Neutron answers before its agent has done so."""
        about_to()
        self.site.pair.set_port(host, up=False)

    def in_effect(self, host: str) -> bool:
        """Whether the host is unreachable."""
        outputs = self.site.outputs
        addresses = {**outputs.load_balancers, **outputs.control_plane, **outputs.workers}
        try:
            socket.create_connection((addresses[host], SSH_PORT), timeout=0.5).close()
        except OSError:
            return True
        return False

    def undo(self, host: str) -> str | None:
        """Bring the port up."""
        self.site.pair.set_port(host, up=True)
        return f"{host}: its port is up"


class HaproxyHung(DrillFault):
    """All of the holder's HAProxy is stopped (SIGSTOP): the kernel goes on accepting connections for it."""

    name = "haproxy-hung"
    title = "HAProxy hangs"
    notice = "nobody answers until the watchdog has noticed"
    way_back = "it is continued (SIGCONT)"
    seconds = 5.0

    def inflict(self, host: str, about_to: Callable[[], None]) -> None:
        """All processes of its unit."""
        self.site.run(host, "systemctl kill --signal=STOP haproxy", about_to)

    def undo(self, host: str) -> str | None:
        """Continue them."""
        self.site.run(host, "systemctl kill --signal=CONT haproxy")
        return f"{host}: HAProxy runs"
