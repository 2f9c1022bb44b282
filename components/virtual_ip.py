"""The failover VIP: an address of the subnet that belongs to no instance.

An unbound Neutron port reserves it, so that Neutron gives it to nobody else. The load balancers may answer for it
because their own ports list it in their allowed address pairs (see instance.py); keepalived decides which of them does.

What leads clients there is here too: its floating IP, and the record of the endpoint's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_openstack as openstack

from model.cloud import Cloud
from model.settings import Settings
from model.topology import vip_port_name

RECORD_TTL = 300
"""Seconds. A failover does not change the record. Only another `vip` or floating IP does, which takes minutes anyway.
And for so long resolvers that have the record can do without its name servers."""


@dataclass(frozen=True, kw_only=True)
class VirtualIpArgs:
    """What the VIP depends on."""

    settings: Settings
    cloud: Cloud


class VirtualIp(pulumi.ComponentResource):
    """The VIP's port, and its floating IP and the record of the endpoint's name if they are configured."""

    address: pulumi.Output[str]
    floating_address: pulumi.Output[str | None]
    endpoint_host: pulumi.Output[str]
    """Where clients find the API: its name, or else its floating IP, or else the address."""

    def __init__(self, name: str, args: VirtualIpArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openstack-ha-api:network:VirtualIp", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        # Certificates, kubeconfig files and DNS contain these addresses, and a released one may never come back.
        kept = pulumi.ResourceOptions(parent=self, protect=True)
        port_name = self._port_name = vip_port_name(args.settings)
        port = self._port = openstack.networking.Port(
            port_name,
            name=port_name,
            description="Reserves the failover VIP; bound to no instance on purpose",
            network_id=args.cloud.network_id,
            fixed_ips=[
                openstack.networking.PortFixedIpArgs(
                    subnet_id=args.cloud.subnet_id, ip_address=str(args.settings.vip) if args.settings.vip else None
                )
            ],
            # Never plugged, so it stays down (as in Octavia), and security groups on it would have no effect.
            admin_state_up=False,
            no_security_groups=True,
            opts=kept,
        )
        self.address = port.all_fixed_ips.apply(args.cloud.address_of)
        self.floating_address = pulumi.Output.from_input(None)
        if args.cloud.floating_pool:
            floating_ip = openstack.networking.FloatingIp(
                f"{args.settings.cluster_name}-vip-floating",
                pool=args.cloud.floating_pool,
                # Neutron reads it only at the creation, and the provider never replaces for it.
                subnet_id=args.cloud.floating_subnet_id,
                description=f"The failover VIP of {args.settings.cluster_name}",
                opts=kept,
            )
            association = openstack.networking.FloatingIpAssociate(
                f"{args.settings.cluster_name}-vip-floating",
                floating_ip=floating_ip.address,
                port_id=port.id,
                # Otherwise it would still translate to the old address after a change of the VIP.
                fixed_ip=self.address,
                opts=own,
            )
            self.floating_address = association.floating_ip
        endpoint_address = pulumi.Output.all(self.address, self.floating_address).apply(lambda both: both[1] or both[0])
        self.endpoint_host = endpoint_address.apply(lambda address: args.settings.endpoint_name or address)
        if args.cloud.endpoint_zone_id:
            openstack.dns.RecordSet(
                f"{args.settings.cluster_name}-endpoint",
                zone_id=args.cloud.endpoint_zone_id,
                name=f"{args.settings.endpoint_name}.",
                type="A",
                ttl=RECORD_TTL,
                records=[endpoint_address],
                description=f"The Kubernetes API of {args.settings.cluster_name}",
                opts=own,
            )
        self.register_outputs({"address": self.address, "floatingAddress": self.floating_address})

    def notice_pairs(self, ports: Sequence[pulumi.Resource]) -> pulumi.Resource:
        """Make Neutron look again at which ports have the VIP in their address pairs; nothing else changes.

        Only ML2/OVN needs it, and only after a change of the address. It records the holder's hypervisor as the host of
        the VIP's port, so Neutron binds the port there when its address changes, and a bound port does not become a
        virtual one when the pairs follow. For up to five minutes OVN would answer ARP for the VIP, beside the holder.
        Any update of the port after the pairs' makes it virtual (seen with Neutron 21).
        """
        return openstack.networking.PortSecGroupAssociate(
            f"{self._port_name}-notice-pairs",
            port_id=self._port.id,
            security_group_ids=[],
            opts=pulumi.ResourceOptions(parent=self, depends_on=ports, replacement_trigger=self.address),
        )
