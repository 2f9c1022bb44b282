"""Settings to components to outputs."""

import pulumi_openstack as openstack

from components.cloud import look_up
from components.configuration import read_configuration
from components.host import Login
from components.load_balancer import LoadBalancers, LoadBalancersArgs
from components.network import VirtualIp, VirtualIpArgs
from components.outputs import export_outputs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from components.servers import Servers, ServersArgs
from model.topology import Role

configuration = read_configuration()
settings = configuration.settings
cluster = settings.cluster_name
cloud = look_up(settings, vip_port_name=VirtualIp.port_name(settings))
login = Login(private_key=configuration.ssh_private_key, bastion=settings.bastion, timeout=settings.ssh_timeout)

key_pair = settings.key_pair or openstack.compute.Keypair(cluster, name=cluster, public_key=settings.public_key).name
vip = VirtualIp("vip", VirtualIpArgs(settings=settings, cloud=cloud))
groups = SecurityGroups("security-groups", SecurityGroupsArgs(settings=settings))
servers = {
    role: Servers(
        f"{cluster}-{role}",
        ServersArgs(
            role=role,
            settings=settings,
            cloud=cloud,
            security_group_id=groups.ids[role],
            key_pair=key_pair,
            login=login,
            vip=vip.address if role is Role.LOAD_BALANCER else None,
            one_after_another=role is Role.LOAD_BALANCER,
        ),
    )
    for role in Role
}
LoadBalancers(
    "load-balancers",
    LoadBalancersArgs(
        settings=settings,
        servers=servers[Role.LOAD_BALANCER],
        control_plane=servers[Role.CONTROL_PLANE],
        vip=vip.address,
        vrrp_password=configuration.vrrp_password,
    ),
)
export_outputs(settings, vip, servers, groups)
