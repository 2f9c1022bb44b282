"""The two load balancers as their users and the cloud see them: who answers, which instance and port each has."""

import time
from collections.abc import Callable
from typing import Any

from openstack.compute.v2.server import Server
from openstack.connection import Connection

from model.topology import HEALTH_PORT
from operate.stack.applied import Outputs
from program.holder import answering_load_balancer

# Nova ends an instance that does not shut down after 60 s; a boot in software emulation takes longer than two minutes.
STOP_SECONDS = 120.0
BOOT_SECONDS = 300.0


class PairError(Exception):
    """What did not happen in time, or is not there; its text is shown as it is."""


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds; PairError that names `what` was awaited after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise PairError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.5)


class Pair:
    """The load balancers of a stack. Names are those of the stack's outputs."""

    def __init__(self, outputs: Outputs, cloud: Connection) -> None:
        self.outputs = outputs
        # openstacksdk's methods are made at run time and carry no types of their own.
        untyped: Any = cloud
        self._compute, self._network = untyped.compute, untyped.network

    def holder(self, seconds: float = 30) -> str:
        """The name of the load balancer that answers on the VIP; PairError when none does within `seconds`."""
        found: list[str] = []

        def ask() -> bool:
            name = answering_load_balancer(self.outputs.vip)
            found.extend([name] if name else [])
            return name is not None

        wait_for(f"a load balancer answers on the VIP {self.outputs.vip}", ask, seconds)
        return found[-1]

    def peer_of(self, name: str) -> str:
        """The other one."""
        (peer,) = self.outputs.load_balancers.keys() - {name}
        return peer

    def wait_until_whole(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until both load balancers answer, each on its own address."""
        for name, address in self.outputs.load_balancers.items():

            def answers(name: str = name, address: str = address) -> bool:
                return answering_load_balancer(address) == name

            wait_for(f"{name} answers at http://{address}:{HEALTH_PORT}/healthz", answers, seconds)

    def instances(self, name: str) -> list[Any]:
        """The instances of a load balancer, as Nova has them, those without an address last: one, as a rule."""
        # Names are not unique in a cloud, but with the address they are.
        address = self.outputs.load_balancers[name]
        servers = self._compute.servers(name=f"^{name}$")
        found = [
            it
            for it in servers
            # One that Nova could not build has none.
            if not it.addresses or any(port["addr"] == address for ports in it.addresses.values() for port in ports)
        ]
        return sorted(found, key=lambda it: not it.addresses)

    def instance(self, name: str) -> Any:
        """The instance of a load balancer; PairError when there is none."""
        for server in self.instances(name):
            return server
        address = self.outputs.load_balancers[name]
        raise PairError(
            f"the cloud has no instance {name} with the address {address}: `./ha rebuild {name}` makes it anew"
        )

    def delete_instance(self, instance_id: str) -> None:
        """Delete an instance, and wait until it is gone."""
        self._compute.delete_server(instance_id)
        # Nova deletes one that no hypervisor has at once, so that it cannot be asked for any more.
        self._compute.wait_for_delete(Server.new(id=instance_id), wait=STOP_SECONDS)

    def ask_to_stop(self, name: str) -> Any:
        """Have Nova begin to shut a load balancer's instance down; the instance, as it was before."""
        server = self.instance(name)
        self._compute.stop_server(server)
        return server

    def stop(self, name: str) -> None:
        """Shut a load balancer's instance down through Nova."""
        server = self.ask_to_stop(name)
        self._compute.wait_for_server(server, status="SHUTOFF", wait=STOP_SECONDS, interval=0.5)

    def start(self, name: str) -> bool:
        """Start a load balancer's instance; False if it runs, and there was nothing to do."""
        # A stop that was interrupted is under way still, and Nova refuses to start the instance until it has ended.
        if self.instance(name).task_state:
            wait_for(f"Nova has done with {name}", lambda: not self.instance(name).task_state, STOP_SECONDS)
        # As it is now: openstacksdk does not ask whether one that was ACTIVE when it was looked at has become so.
        server = self.instance(name)
        if server.status != "SHUTOFF":
            return False
        self._compute.start_server(server)
        self._compute.wait_for_server(server, status="ACTIVE", wait=BOOT_SECONDS, interval=0.5)
        return True

    def set_port(self, name: str, *, up: bool) -> None:
        """Take a load balancer's port down through Neutron, or up again."""
        address = self.outputs.load_balancers[name]
        for port in self._network.ports(fixed_ips=f"ip_address={address}"):
            if port.is_admin_state_up != up:
                self._network.update_port(port, is_admin_state_up=up)
