"""The instances of the control plane and the workers.

They come up with SSH and cloud-init ready for kubeadm. This component does not care what runs on them; kubernetes.py
does.

The control plane's instances are created, and replaced, one after another. Nova decides on anti-affinity when it
schedules an instance, by what runs already, so instances that are scheduled at the same moment may all land on one
hypervisor, and etcd's majority with them. And hosts join the cluster in this order, so they have to leave it in this
order: the hook of each waits until the one before has joined again. Only the instance waits for the one before, not
what runs on the host. Workers are created in parallel: there may be hundreds, no majority depends on them, and the more
there are, the more even Nova's choice.
"""

import pulumi

from components.host import Host
from components.instance import RoleArgs, Server, boot, make_port, make_server_group, prepare
from model.topology import Role, host_names


class Servers(pulumi.ComponentResource):
    """A role's hosts."""

    hosts: list[Host]

    def __init__(self, name: str, args: RoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openstack-ha-api:compute:Servers", name, None, opts)
        self._args = args
        group = make_server_group(args, self)
        self.hosts = []
        for index, host_name in enumerate(host_names(args.settings, args.role)):
            port = make_port(host_name, args, parent=self)
            before = [host.instance for host in self.hosts[-1:] if args.role is Role.CONTROL_PLANE]
            self.hosts.append(boot(index, port, host_name, args, group, parent=self, after=before))
        self.register_outputs({"addresses": {host.name: host.address for host in self.hosts}})

    def prepare(self, *, after: list[pulumi.Resource]) -> list[Server]:
        """Wait until each host can be worked on, and set up its APT."""
        return [prepare(host, self._args, parent=self, after=after) for host in self.hosts]
