"""Faults on the holder of the VIP, each undone again, and what they cost a client."""

from collections.abc import Callable
from dataclasses import dataclass

from openstack.config import OpenStackConfig
from openstack.connection import Connection

from dev.lab.settings import LabSettings
from dev.lab_stack import CLOUD
from dev.standin.apiserver import BACKEND_HEADER
from operate.hosts.pair import STOP_SECONDS, Pair, wait_for
from operate.hosts.ssh import Access, on_all
from operate.probe import Probe, ProbeReport
from operate.stack.applied import Outputs
from program.holder import answering_load_balancer

# A fault is over when for so long every request has been answered.
STEADY_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Failover:
    """A fault, who held the VIP before and after it, and what the probe saw."""

    fault: str
    before: str
    after: str
    report: ProbeReport


class Faults(Pair):
    """Faults on the load balancers of a stack on the lab."""

    def __init__(self, outputs: Outputs, access: Access) -> None:
        clouds = OpenStackConfig(config_files=[str(LabSettings.from_environ().clouds_yaml)])
        super().__init__(outputs, Connection(config=clouds.get_one(CLOUD)))
        self._access = access

    def undo_all(self) -> None:
        """Undo the faults that a run leaves behind that was killed."""
        for name in self.outputs.load_balancers:
            self.set_port(name, up=True)
            self.start(name)

    def stop_instance_of_holder(self) -> Failover:
        """Shut the holder's instance down through Nova, measure, and start it again whatever happens in between."""
        holder = self.holder()
        try:
            return self._measure("the holder's instance is shut down", holder, lambda: self.stop(holder))
        finally:
            self.start(holder)
            self.wait_until_whole()

    def cut_off_holder(self) -> Failover:
        """Take the holder's port down through Neutron, measure, and bring it up again whatever happens in between.

        For the peer and for clients this is a crash: an instance that is shut down says goodbye, this one cannot.
        """
        holder = self.holder()

        def cut_off() -> None:
            self.set_port(holder, up=False)
            # Neutron answers before its agent has done it.
            address = self.outputs.load_balancers[holder]
            wait_for(f"{holder} is cut off", lambda: answering_load_balancer(address, 0.5) is None, STOP_SECONDS)

        try:
            return self._measure("the holder's port is taken down", holder, cut_off)
        finally:
            self.set_port(holder, up=True)
            self.wait_until_whole()

    def kill_haproxy_of_holder(self) -> Failover:
        """Kill all of the holder's HAProxy (SIGKILL); systemd starts it again."""
        return self._kill_on_holder("haproxy", "the holder's HAProxy is killed")

    def hang_haproxy_of_holder(self) -> Failover:
        """Stop all of the holder's HAProxy (SIGSTOP) where it is: the kernel goes on accepting connections for it."""
        holder = self.holder()
        try:
            return self._measure("the holder's HAProxy hangs", holder, lambda: self._signal(holder, "STOP", "haproxy"))
        finally:
            self._signal(holder, "CONT", "haproxy")
            self.wait_until_whole()

    def kill_keepalived_of_holder(self) -> Failover:
        """Kill all of the holder's keepalived (SIGKILL): it leaves the VIP behind; systemd starts it again."""
        return self._kill_on_holder("keepalived", "the holder's keepalived is killed")

    def _kill_on_holder(self, unit: str, fault: str) -> Failover:
        holder = self.holder()
        result = self._measure(fault, holder, lambda: self._signal(holder, "KILL", unit))
        self.wait_until_whole()
        return result

    def _signal(self, name: str, signal: str, unit: str) -> None:
        command = f"sudo systemctl kill --signal={signal} {unit}"
        on_all([self.outputs.load_balancers[name]], lambda address: self._access.run(address, command))

    def _measure(self, fault: str, holder: str, inflict: Callable[[], None]) -> Failover:
        with Probe(self.outputs.endpoint, limit=STOP_SECONDS + 60, backend_header=BACKEND_HEADER) as probe:
            wait_for(f"{self.outputs.endpoint} answers steadily", lambda: probe.steady >= 2, 60)
            probe.mark(fault)
            inflict()
            done = probe.elapsed

            def recovered() -> bool:
                return min(probe.steady, probe.elapsed - done) >= STEADY_SECONDS

            wait_for(f"{self.outputs.endpoint} answers again after {fault}", recovered, 60)
            after = self.holder()
        return Failover(fault=fault, before=holder, after=after, report=probe.report())
