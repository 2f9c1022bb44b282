"""What the stack says of itself: addresses, ids, and how to go on."""

import pulumi

from components.host import Host
from components.security_groups import SecurityGroups
from components.virtual_ip import VirtualIp
from model.rendering import kubeadm_config
from model.settings import BastionSettings, Settings
from model.topology import API_PORT, Role

_OUTPUT_NAMES = {Role.LOAD_BALANCER: "loadBalancers", Role.CONTROL_PLANE: "controlPlane", Role.WORKER: "workers"}


def export_outputs(
    settings: Settings,
    vip: VirtualIp,
    hosts: dict[Role, list[Host]],
    groups: SecurityGroups,
    digests: dict[str, pulumi.Output[dict[str, str]]],
) -> None:
    """Export the stack's outputs; the README describes each."""
    every = [host for role in Role for host in hosts[role]]
    endpoint_address = pulumi.Output.all(vip.address, vip.floating_address).apply(lambda both: both[1] or both[0])
    pulumi.export("vip", vip.address)
    pulumi.export("floatingIp", vip.floating_address)
    pulumi.export("endpoint", pulumi.Output.format("https://{0}:{1}", endpoint_address, API_PORT))
    pulumi.export(
        "addresses",
        {name: {host.name: host.address for host in hosts[role]} for role, name in _OUTPUT_NAMES.items()},
    )
    pulumi.export("securityGroupIds", {name: groups.ids[role] for role, name in _OUTPUT_NAMES.items()})
    pulumi.export("sshCommands", {host.name: _ssh_command(host, settings.bastion) for host in every})
    # `pulumi stack output knownHosts > known_hosts`, and ssh checks the hosts as the program does.
    pulumi.export(
        "knownHosts",
        pulumi.Output.all(*(pulumi.Output.format("{0} {1}\n", host.address, host.host_key) for host in every)).apply(
            "".join
        ),
    )
    # What `./ha status` compares the load balancers' files with; a secret when they have one in them.
    pulumi.export("configurationDigests", digests)
    pulumi.export(
        "kubeadmConfig",
        pulumi.Output.all(vip.address, vip.floating_address).apply(lambda both: kubeadm_config(both[0], both[1])),
    )


def _ssh_command(host: Host, bastion: BastionSettings | None) -> pulumi.Output[str]:
    jump = f"-J {bastion.user}@{bastion.host}:{bastion.port} " if bastion else ""
    return pulumi.Output.format("ssh -o UserKnownHostsFile=known_hosts {0}{1}@{2}", jump, host.user, host.address)
