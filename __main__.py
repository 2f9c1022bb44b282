"""Settings to components to outputs."""

import pulumi
import pulumi_openstack as openstack

from components.certificates import CertificateAuthorities
from components.departure import Departure
from components.host import Login
from components.instance import RoleArgs
from components.kubernetes import Kubernetes, KubernetesArgs
from components.load_balancers import LoadBalancers, LoadBalancersArgs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from components.servers import Servers
from components.virtual_ip import VirtualIp, VirtualIpArgs
from model.topology import Role, vip_port_name
from program.configuration import read_configuration
from program.existing_cluster import existing_cluster
from program.holder import answering_load_balancer
from program.lookups import look_up
from program.outputs import export_outputs

configuration = read_configuration()
settings = configuration.settings
cluster = settings.cluster_name
existing = existing_cluster(settings)
cloud = look_up(settings, vip_port_name=vip_port_name(settings))
login = Login(private_key=configuration.ssh_private_key, bastion=settings.bastion, timeout=settings.ssh_timeout)

key_pair = None
if settings.public_key:
    key_pair = openstack.compute.Keypair(cluster, name=cluster, public_key=settings.public_key)
vip = VirtualIp("vip", VirtualIpArgs(settings=settings, cloud=cloud))
groups = SecurityGroups("security-groups", SecurityGroupsArgs(settings=settings))
# Also without a cluster: instances of a first run that failed before `kubeadm init` have these hooks.
departure = Departure(settings, login, running=existing is not None and not existing.ending)
authorities = CertificateAuthorities("certificate-authorities", cluster) if settings.kubernetes else None
roles = {
    role: RoleArgs(
        role=role,
        settings=settings,
        cloud=cloud,
        security_groups=groups,
        key_pair_name=settings.key_pair or cluster,
        key_pair=key_pair,
        login=login,
        hooks=departure.of_instances(role) if settings.kubernetes else None,
    )
    for role in Role
}
control_plane = Servers("control-plane", roles[Role.CONTROL_PLANE])
workers = Servers("workers", roles[Role.WORKER])
load_balancers = LoadBalancers(
    "load-balancers",
    LoadBalancersArgs(
        **vars(roles[Role.LOAD_BALANCER]),
        control_plane=control_plane,
        workers=workers,
        vip=vip,
        vrrp_password=configuration.vrrp_password,
        api_client_certificate=configuration.api_client_certificate,
        cluster_ca=authorities.ca if authorities else pulumi.Output.from_input(""),
        holder=answering_load_balancer(cloud.reachable_vip) if cloud.reachable_vip else None,
    ),
)
# After a failure the engine starts nothing more, so what waits for the other hosts comes last: one that is down, or
# fails, keeps no change from the load balancers.
prepared = [servers.prepare(after=load_balancers.configured) for servers in (control_plane, workers)]
kubernetes = None
if authorities:
    departure.control_plane = control_plane.hosts
    kubernetes = Kubernetes(
        "kubernetes",
        KubernetesArgs(
            settings=settings,
            control_plane=prepared[0],
            workers=prepared[1],
            vip=vip.address,
            floating_address=vip.floating_address,
            endpoint_host=vip.endpoint_host,
            authorities=authorities.everything,
            departure=departure,
            running=existing is not None,
        ),
    )
hosts = {
    Role.LOAD_BALANCER: load_balancers.hosts,
    Role.CONTROL_PLANE: control_plane.hosts,
    Role.WORKER: workers.hosts,
}
export_outputs(settings, vip, hosts, groups, load_balancers.digests, kubernetes)
