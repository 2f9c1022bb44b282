"""The instances of a role whose members do not depend on each other: control plane and workers.

They come up with SSH and cloud-init ready for kubeadm. This component does not care what runs on them.
"""

import pulumi

from components.host import Host
from components.instance import RoleArgs, boot, make_port, make_server_group, prepare
from model.topology import host_names


class Servers(pulumi.ComponentResource):
    """A role's hosts."""

    hosts: list[Host]

    def __init__(self, name: str, args: RoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openstack-ha-api:compute:Servers", name, None, opts)
        self._args = args
        group = make_server_group(args, self)
        self.hosts = [
            boot(index, make_port(host_name, args, parent=self), host_name, args, group, parent=self)
            for index, host_name in enumerate(host_names(args.settings, args.role))
        ]
        self.register_outputs({"addresses": {host.name: host.address for host in self.hosts}})

    def prepare(self, *, after: list[pulumi.Resource]) -> None:
        """Wait until each host can be worked on, and set up its APT."""
        for host in self.hosts:
            prepare(host, self._args, parent=self, after=after)
