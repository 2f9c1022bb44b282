"""What every role's instance is made of: port, host key, instance, and the wait until it can be worked on.

An instance's name, port and key depend on its index alone: growing or shrinking a role touches only what is added or
removed. servers.py and load_balancers.py decide in which order instances are created.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import pulumi
import pulumi_openstack as openstack

from components.host import Host, Login, make_host_key
from components.security_groups import SecurityGroups
from model.cloud import Cloud
from model.rendering import prepare_script, user_data
from model.settings import RoleSettings, ServerGroupPolicy, Settings
from model.topology import Role

# Nova gives a guest 60 s to shut down. On a hypervisor that is gone it never does: the run fails after this time, and
# the next one deletes the instance, because Nova refuses a second stop at once. By default it would take 30 minutes.
DELETE_TIMEOUT = "5m"


@dataclass(frozen=True, kw_only=True)
class RoleArgs:
    """What a role's instances are made of."""

    role: Role
    settings: Settings
    cloud: Cloud
    security_groups: SecurityGroups
    key_pair_name: str
    """Plain text: if it were the resource's output, a new public key would replace all hosts."""
    key_pair: openstack.compute.Keypair | None
    """The key pair, if the program creates it."""
    login: Login
    hooks: pulumi.ResourceHookBinding | None = None
    """What runs before an instance is deleted."""

    @property
    def wanted(self) -> RoleSettings:
        """What the configuration says of the role."""
        return self.role.settings(self.settings)

    @property
    def group_name(self) -> str:
        """Name of the role's server group."""
        return f"{self.settings.cluster_name}-{self.role}"


@dataclass(frozen=True, kw_only=True)
class Server:
    """An instance that can be worked on."""

    host: Host
    interface: pulumi.Output[str]
    """The interface that carries the address, as the host calls it."""
    prepared: pulumi.Resource
    """What has to be done before anything else runs on the host."""


def with_proxy(settings: Settings, script: pulumi.Input[str]) -> pulumi.Output[str]:
    """A script with APT's proxy in it: a secret if that is one."""
    return (pulumi.Output.secret if settings.apt_proxy_encrypted else pulumi.Output.from_input)(script)


def make_server_group(args: RoleArgs, parent: pulumi.Resource) -> openstack.compute.ServerGroup | None:
    """The role's server group, if there is something to spread."""
    policy = args.wanted.server_group_policy
    if not args.wanted.count or policy is ServerGroupPolicy.NONE:
        return None
    return openstack.compute.ServerGroup(
        args.group_name,
        name=args.group_name,
        policies=policy,
        # Because of its fixed name, the engine would delete it first, and before it all its instances at once. In Nova,
        # two groups may have one name.
        opts=pulumi.ResourceOptions(parent=parent, delete_before_replace=False),
    )


def make_port(
    name: str, args: RoleArgs, *, parent: pulumi.Resource, vip: pulumi.Output[str] | None = None
) -> openstack.networking.Port:
    """An instance's port; with `vip` it may answer for that address, too.

    Without `vip` its address pairs are not the program's: a network plugin such as Calico sets them for its pods.
    """
    # The exact address, no network: with a floating IP on it OVN takes nothing else.
    pairs = [openstack.networking.PortAllowedAddressPairArgs(ip_address=vip)] if vip else None
    return openstack.networking.Port(
        name,
        name=name,
        network_id=args.cloud.network_id,
        fixed_ips=[openstack.networking.PortFixedIpArgs(subnet_id=args.cloud.subnet_id)],
        security_group_ids=[args.security_groups.ids[args.role]],
        allowed_address_pairs=pairs,
        opts=pulumi.ResourceOptions(parent=parent, ignore_changes=None if pairs else ["allowedAddressPairs"]),
    )


def boot(
    index: int,
    port: openstack.networking.Port,
    name: str,
    args: RoleArgs,
    group: openstack.compute.ServerGroup | None,
    *,
    parent: pulumi.Resource,
    after: Sequence[pulumi.Resource] = (),
) -> Host:
    """The `index`-th instance of a role; nothing waits for its SSH yet."""
    found = args.cloud.roles[args.role]
    zones = args.wanted.availability_zones
    size = args.wanted.root_volume_size
    volume = openstack.compute.InstanceBlockDeviceArgs(
        source_type="image",
        uuid=found.image_id,
        destination_type="volume",
        volume_size=size,
        volume_type=args.wanted.root_volume_type or None,
        boot_index=0,
        delete_on_termination=True,
    )
    image_path = "blockDevices[0].uuid" if size else "imageId"
    key = make_host_key(name, args.settings.host_key_type, parent=parent)
    instance = openstack.compute.Instance(
        name,
        name=name,
        flavor_id=found.flavor_id,
        # Not both: Nova names no image of an instance that boots from a volume, so every run would rebuild it. The text
        # that the provider has in its place, "Attempt to boot from volume", is no change of an input that is absent.
        image_id=None if size else found.image_id,
        block_devices=[volume] if size else None,
        # Not False, which would replace the hosts of stacks that were created without this input.
        config_drive=args.settings.config_drive or None,
        key_pair=args.key_pair_name,
        availability_zone=zones[index % len(zones)] if zones else None,
        networks=[openstack.compute.InstanceNetworkArgs(port=port.id)],
        scheduler_hints=[openstack.compute.InstanceSchedulerHintArgs(group=group.id)] if group else None,
        # Refused by the provider before anything is deleted: existing instances ignore it, but a replacement takes the
        # program's values, and could not be created once the old instance is gone.
        power_state=found.gone or None,
        user_data=pulumi.Output.all(key.private, key.public).apply(lambda pair: user_data(*pair)),
        # In a clean shutdown keepalived sends priority 0, etcd hands over leadership, HAProxy closes its connections.
        # Nova's delete alone is a power cut. An instance that is gone or in ERROR is deleted all the same.
        stop_before_destroy=True,
        opts=pulumi.ResourceOptions(
            parent=parent,
            # All rules first: a host that boots without egress gets no keys from the metadata service, and never asks
            # again. No input comes from a rule, so the instance stays when a rule is changed or replaced.
            depends_on=[args.security_groups, *([args.key_pair] if args.key_pair else []), *after],
            # The port can be plugged into one instance at a time.
            delete_before_replace=True,
            # User data is read at the first boot only. A new image of the same name must not replace what runs; an
            # image given by its id is meant. A missing flavor or image matters only for new instances.
            ignore_changes=[
                "userData",
                *([image_path] if found.image_kept else []),
                *(["flavorId"] if found.flavor_kept else []),
                *(["powerState"] if found.gone else []),
            ],
            # A resize would stop a member of the cluster without a word; a new instance is preceded by a departure.
            replace_on_changes=[*args.role.replaced_by, *(["flavorId"] if args.hooks else [])],
            custom_timeouts=pulumi.CustomTimeouts(delete=DELETE_TIMEOUT),
            hooks=args.hooks,
        ),
    )
    return Host(
        name,
        instance=instance,
        address=port.all_fixed_ips.apply(args.cloud.address_of),
        user=args.wanted.user,
        host_key=key.public,
        login=args.login,
    )


def prepare(host: Host, args: RoleArgs, *, parent: pulumi.Resource, after: Sequence[pulumi.Resource] = ()) -> Server:
    """The wait for a host's SSH and cloud-init, and what has to be done before anything else runs on it."""
    script = host.address.apply(lambda address: prepare_script(args.settings, IPv4Address(address)))
    prepared = host.run("prepare", with_proxy(args.settings, script), parent=parent, after=after)
    # Not a secret, even where the script is one: it is in files that previews should show.
    out = pulumi.Output.unsecret(prepared.stdout)
    interface = out.apply(lambda text: text.rpartition("interface=")[2].strip())
    return Server(host=host, interface=interface, prepared=prepared)
