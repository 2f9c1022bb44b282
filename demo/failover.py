"""Faults on the holder of the VIP, each undone again, and what they cost a client."""

import http.client
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openstack.config import OpenStackConfig
from openstack.connection import Connection

from demo.probe import Probe, Report
from demo.stack import CLOUD, Outputs
from lab.settings import LabSettings
from operate.ssh import Access, on_all

HEALTH_PORT = 8404
# A fault is over when for so long every request has been answered.
STEADY_SECONDS = 5.0
# Nova ends an instance that does not shut down after 60 s; a boot in software emulation takes longer than two minutes.
STOP_SECONDS = 120.0
BOOT_SECONDS = 300.0


class FailoverError(Exception):
    """What did not happen in time; its text is shown as it is."""


@dataclass(frozen=True, kw_only=True)
class Failover:
    """A fault, who held the VIP before and after it, and what the probe saw."""

    fault: str
    before: str
    after: str
    report: Report


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds; FailoverError that names `what` was awaited after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise FailoverError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.5)


def answering_load_balancer(address: str) -> str | None:
    """The name of the load balancer whose HAProxy answers at an address, its own or the VIP; None without an answer."""
    try:
        with urllib.request.urlopen(f"http://{address}:{HEALTH_PORT}/healthz", timeout=2) as response:
            return response.read().decode().strip()
    except (OSError, http.client.HTTPException):  # urllib's errors are OSErrors
        return None


class Pair:
    """The two load balancers of a stack on the lab."""

    def __init__(self, outputs: Outputs, access: Access) -> None:
        self._outputs = outputs
        self._access = access
        clouds = OpenStackConfig(config_files=[str(LabSettings.from_environ().clouds_yaml)])
        # openstacksdk's methods are made at run time and carry no types of their own.
        cloud: Any = Connection(config=clouds.get_one(CLOUD))
        self._compute, self._network = cloud.compute, cloud.network

    def holder(self) -> str:
        """The name of the load balancer that answers on the VIP; FailoverError when none does within 30 s."""
        found: list[str] = []

        def ask() -> bool:
            name = answering_load_balancer(self._outputs.vip)
            found.extend([name] if name else [])
            return name is not None

        wait_for(f"a load balancer answers on the VIP {self._outputs.vip}", ask, 30)
        return found[-1]

    def wait_until_whole(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until both load balancers answer, each on its own address."""
        for name, address in self._outputs.load_balancers.items():

            def answers(name: str = name, address: str = address) -> bool:
                return answering_load_balancer(address) == name

            wait_for(f"{name} answers at http://{address}:{HEALTH_PORT}/healthz", answers, seconds)

    def undo_all(self) -> None:
        """Undo the faults that a run leaves behind that was killed."""
        for name in self._outputs.load_balancers:
            self._set_port(name, up=True)
            self.start(name)

    def stop(self, name: str) -> None:
        """Shut a load balancer's instance down through Nova."""
        server = self._server(name)
        self._compute.stop_server(server)
        self._compute.wait_for_server(server, status="SHUTOFF", wait=STOP_SECONDS, interval=0.5)

    def start(self, name: str) -> None:
        """Start a load balancer's instance, if it does not run."""
        server = self._server(name)
        # A stop that was interrupted is under way still, and Nova refuses to start the instance until it has ended.
        if server.task_state:
            wait_for(f"Nova has done with {name}", lambda: not self._server(name).task_state, STOP_SECONDS)
        if self._server(name).status == "SHUTOFF":
            self._compute.start_server(server)
            self._compute.wait_for_server(server, status="ACTIVE", wait=BOOT_SECONDS, interval=0.5)

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
        try:
            return self._measure("the holder's port is taken down", holder, lambda: self._set_port(holder, up=False))
        finally:
            self._set_port(holder, up=True)
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

    def _kill_on_holder(self, program: str, fault: str) -> Failover:
        holder = self.holder()
        result = self._measure(fault, holder, lambda: self._signal(holder, "KILL", program))
        self.wait_until_whole()
        return result

    def _signal(self, name: str, signal: str, program: str) -> None:
        # Not through systemd, which cannot signal all processes of a unit in the lab's containers.
        command = f"sudo pkill --signal {signal} --exact {program}"
        on_all([self._outputs.load_balancers[name]], lambda address: self._access.run(address, command))

    def _measure(self, fault: str, holder: str, inflict: Callable[[], None]) -> Failover:
        with Probe(self._outputs.endpoint, limit=STOP_SECONDS + 60) as probe:
            wait_for(f"{self._outputs.endpoint} answers steadily", lambda: probe.steady >= 2, 60)
            probe.mark(fault)
            inflict()
            done = probe.elapsed

            def recovered() -> bool:
                return min(probe.steady, probe.elapsed - done) >= STEADY_SECONDS

            wait_for(f"{self._outputs.endpoint} answers again after {fault}", recovered, 60)
            after = self.holder()
        return Failover(fault=fault, before=holder, after=after, report=probe.report())

    def _server(self, name: str) -> Any:
        """The instance of a load balancer. Names are not unique in a cloud, but with the address they are."""
        address = self._outputs.load_balancers[name]
        for server in self._compute.servers(name=f"^{name}$"):
            if any(port["addr"] == address for ports in server.addresses.values() for port in ports):
                return server
        raise FailoverError(f"the cloud has no instance {name} with the address {address}: run `pulumi up`")

    def _set_port(self, name: str, *, up: bool) -> None:
        address = self._outputs.load_balancers[name]
        for port in self._network.ports(fixed_ips=f"ip_address={address}"):
            if port.is_admin_state_up != up:
                self._network.update_port(port, is_admin_state_up=up)
