"""The instances of one role: server group, host keys, ports, instances, and the wait until each can be worked on.

An instance's name, port and keys depend on its index alone: growing or shrinking a role touches only what is added or
removed. What runs on the instances is none of this component's business.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address

import pulumi
import pulumi_openstack as openstack

from components.cloud import Cloud
from components.host import Host, Login, make_host_key
from model.rendering import prepare_script, user_data
from model.settings import ServerGroupPolicy, Settings
from model.topology import Role, host_names


@dataclass(frozen=True, kw_only=True)
class ServersArgs:
    """What a role's instances are made of."""

    role: Role
    settings: Settings
    cloud: Cloud
    security_group_id: pulumi.Output[str]
    key_pair: pulumi.Input[str]
    login: Login
    vip: pulumi.Output[str] | None = None
    """Address that the instances' ports may answer for besides their own."""
    one_after_another: bool = False
    """Create each instance after the one before it: soft anti-affinity is decided on what runs already, and instances
    that are scheduled at the same moment do not see each other (Nova's late check covers hard policies only)."""


class Servers(pulumi.ComponentResource):
    """A role's hosts, ready to be worked on."""

    hosts: list[Host]
    prepared: list[pulumi.Resource]
    """By host: what has to be done before anything else runs on it."""
    interfaces: list[pulumi.Output[str]]
    """By host: the interface that carries its address."""

    def __init__(self, name: str, args: ServersArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openstack-ha-api:compute:Servers", name, None, opts)
        self._args = args
        self.hosts = []
        self.prepared = []
        self.interfaces = []
        role = args.role.settings(args.settings)
        group = None
        if role.count and role.server_group_policy is not ServerGroupPolicy.NONE:
            group = openstack.compute.ServerGroup(
                name, name=name, policies=role.server_group_policy, opts=pulumi.ResourceOptions(parent=self)
            )
        previous: list[pulumi.Resource] = []
        for index, host_name in enumerate(host_names(args.settings, args.role)):
            zone = role.availability_zones[index % len(role.availability_zones)] if role.availability_zones else None
            host, instance = self._host(host_name, zone, group, after=previous)
            if args.one_after_another:
                previous = [instance]
            prepared = host.run(
                "prepare",
                host.address.apply(lambda address: prepare_script(args.settings, IPv4Address(address))),
                parent=self,
            )
            self.hosts.append(host)
            self.prepared.append(prepared)
            self.interfaces.append(prepared.stdout.apply(lambda out: out.rpartition("interface=")[2].strip()))
        self.register_outputs({"addresses": {host.name: host.address for host in self.hosts}})

    def _host(
        self,
        name: str,
        zone: str | None,
        group: openstack.compute.ServerGroup | None,
        *,
        after: list[pulumi.Resource],
    ) -> tuple[Host, openstack.compute.Instance]:
        args = self._args
        found = args.cloud.roles[args.role]
        port = openstack.networking.Port(
            name,
            name=name,
            network_id=args.cloud.network_id,
            fixed_ips=[openstack.networking.PortFixedIpArgs(subnet_id=args.cloud.subnet_id)],
            security_group_ids=[args.security_group_id],
            # The exact address, no network: with a floating IP on it OVN takes nothing else.
            allowed_address_pairs=(
                [openstack.networking.PortAllowedAddressPairArgs(ip_address=args.vip)] if args.vip else None
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        key = make_host_key(name, parent=self)
        instance = openstack.compute.Instance(
            name,
            name=name,
            flavor_id=found.flavor_id,
            image_id=found.image_id,
            key_pair=args.key_pair,
            availability_zone=zone,
            networks=[openstack.compute.InstanceNetworkArgs(port=port.id)],
            scheduler_hints=[openstack.compute.InstanceSchedulerHintArgs(group=group.id)] if group else None,
            user_data=pulumi.Output.all(key.private, key.public).apply(lambda pair: user_data(*pair)),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=after,
                # The port can be plugged into one instance at a time.
                delete_before_replace=True,
                # A new image of the same name must not replace what runs; an image given by its id is meant.
                ignore_changes=["imageId"] if found.image_by_name else None,
            ),
        )
        host = Host(
            name,
            instance=instance,
            address=port.all_fixed_ips.apply(lambda addresses: addresses[0]),
            user=args.role.settings(args.settings).user,
            host_key=key.public,
            login=args.login,
        )
        return host, instance
