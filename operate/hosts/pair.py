"""The two load balancers as clients and the cloud see them: which one answers, its instance and its port."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from openstack.compute.v2.server import Server
from openstack.connection import Connection

from model.topology import HEALTH_PORT
from operate.stack.applied import Outputs
from operate.stack.cloud import found
from operate.stack.resources import PORT, SERVER_GROUP
from program.holder import answering_load_balancer

# Nova kills an instance that has not shut down after 60 s. A boot in software emulation takes over two minutes.
STOP_SECONDS = 120.0
BOOT_SECONDS = 300.0


class PairError(Exception):
    """Something about the pair is missing, refused, or did not happen in time; its text is shown as it is."""


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds; PairError if it does not within `seconds`. `what` follows the word "until"."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise PairError(f"timed out after {seconds:.0f} s, waiting until {what}")
        time.sleep(0.5)


class Pair:
    """The load balancers of a stack. Names are those of the stack's outputs.

    `ids` are those in Pulumi's state (`recorded_ids`). In the cloud, ports and instances are found by them alone: names
    and addresses are not unique there, and another stack of the project may have the same cluster name.
    """

    def __init__(self, outputs: Outputs, ids: Mapping[tuple[str, str], str], cloud: Connection) -> None:
        self.outputs = outputs
        self._ids = ids
        # openstacksdk creates its methods at run time, without types.
        untyped: Any = cloud
        self._compute, self._network = untyped.compute, untyped.network

    def holder(self, seconds: float = 30) -> str:
        """The name of the load balancer that answers on the VIP; PairError if none does within `seconds`."""
        found: list[str] = []

        def ask() -> bool:
            name = answering_load_balancer(self.outputs.reachable_vip)
            found.extend([name] if name else [])
            return name is not None

        wait_for(f"a load balancer answers on the VIP at {self.outputs.reachable_vip}", ask, seconds)
        return found[-1]

    def peer_of(self, name: str) -> str:
        """The other load balancer."""
        (peer,) = self.outputs.load_balancers.keys() - {name}
        return peer

    def wait_until_whole(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until both load balancers answer, each on its own address."""
        for name, address in self.outputs.load_balancers.items():

            def answers(name: str = name, address: str = address) -> bool:
                return answering_load_balancer(address) == name

            wait_for(f"{name} answers at http://{address}:{HEALTH_PORT}/healthz", answers, seconds)

    def instances(self, name: str) -> list[Any]:
        """Nova's instances of a load balancer, normally one: the one on its port; those that never got there come last.

        An instance that Nova could not build, or has not built yet, is not on the port, but in the server group.
        """
        port = found(self._network.get_port, self._ids.get((PORT, name)))
        # The role's group is named like its hosts, without their index.
        group = found(self._compute.get_server_group, self._ids.get((SERVER_GROUP, name.rpartition("-")[0])))
        attached = found(self._compute.get_server, port.device_id if port else None)
        members = (found(self._compute.get_server, it) for it in (group.member_ids if group else ()))
        unbuilt = [it for it in members if it and it.name == name and not it.addresses]
        return [attached, *(it for it in unbuilt if it.id != attached.id)] if attached else unbuilt

    def instance(self, name: str) -> Any:
        """The instance of a load balancer; PairError if there is none."""
        for server in self.instances(name):
            return server
        raise PairError(f"the cloud has no instance on the port of {name}: `./ha rebuild {name}` re-creates it")

    def delete_instance(self, instance_id: str) -> None:
        """Delete an instance, and wait until it is gone."""
        self._compute.delete_server(instance_id)
        # Not fetched first: an instance that no hypervisor has is gone at once, and the query would fail.
        self._compute.wait_for_delete(Server.new(id=instance_id), wait=STOP_SECONDS)

    def ask_to_stop(self, name: str) -> Any:
        """Have Nova start to shut down a load balancer's instance; returns it as it was before."""
        server = self.instance(name)
        self._compute.stop_server(server)
        return server

    def stop(self, name: str) -> None:
        """Shut a load balancer's instance down through Nova."""
        server = self.ask_to_stop(name)
        self._compute.wait_for_server(server, status="SHUTOFF", wait=STOP_SECONDS, interval=0.5)

    def start(self, name: str) -> bool:
        """Start a load balancer's instance; False if it was running."""
        # After an interruption a stop may still be in progress, and Nova refuses a start until it has ended.
        if self.instance(name).task_state:
            wait_for(f"Nova has finished its task on {name}", lambda: not self.instance(name).task_state, STOP_SECONDS)
        # Queried again: wait_for_server returns at once for an object whose status was ACTIVE before the stop.
        server = self.instance(name)
        if server.status != "SHUTOFF":
            return False
        self._compute.start_server(server)
        self._compute.wait_for_server(server, status="ACTIVE", wait=BOOT_SECONDS, interval=0.5)
        return True

    def set_port(self, name: str, *, up: bool) -> None:
        """Set a load balancer's port up or down through Neutron."""
        self._network.update_port(self._ids[PORT, name], is_admin_state_up=up)
