"""The stack's outputs: addresses, ids, and how to connect."""

import shlex

import pulumi

from components.host import Host
from components.kubernetes import Kubernetes
from components.security_groups import SecurityGroups
from components.virtual_ip import VirtualIp
from model.rendering import kubeadm_config
from model.settings import BastionSettings, Settings
from model.topology import API_PORT, Role

_SSH = "ssh -o UserKnownHostsFile=known_hosts"


def export_outputs(  # noqa: PLR0917 - what the program has made
    settings: Settings,
    vip: VirtualIp,
    hosts: dict[Role, list[Host]],
    groups: SecurityGroups,
    digests: dict[str, pulumi.Output[dict[str, str]]],
    kubernetes: Kubernetes | None,
) -> None:
    """Export the stack's outputs; docs/configuration.md describes each."""
    every = [host for role in Role for host in hosts[role]]
    pulumi.export("vip", vip.address)
    pulumi.export("floatingIp", vip.floating_address)
    pulumi.export("endpoint", pulumi.Output.format("https://{0}:{1}", vip.endpoint_host, API_PORT))
    pulumi.export(
        "addresses",
        {role.output_name: {host.name: host.address for host in hosts[role]} for role in Role},
    )
    pulumi.export("securityGroupIds", {role.output_name: groups.ids[role] for role in Role})
    pulumi.export("sshCommands", {host.name: _ssh_command(host, settings.bastion) for host in every})
    # `pulumi stack output knownHosts > known_hosts`, and ssh checks the hosts and the bastion as the program does.
    known_hosts = [pulumi.Output.format("{0} {1}\n", host.address, host.host_key) for host in every]
    bastion = settings.bastion.known_hosts if settings.bastion else ""
    pulumi.export("knownHosts", pulumi.Output.all(*known_hosts, bastion).apply("".join))
    # What `./ha status` compares the load balancers' files with; a secret when they have one in them.
    pulumi.export("configurationDigests", digests)
    if kubernetes:
        pulumi.export("kubeconfig", kubernetes.kubeconfig)
        pulumi.export("kubernetesVersion", kubernetes.version)
    else:
        pulumi.export(
            "kubeadmConfig",
            pulumi.Output.all(vip.address, vip.floating_address).apply(
                lambda both: kubeadm_config(settings, both[0], both[1])
            ),
        )


def _ssh_command(host: Host, bastion: BastionSettings | None) -> pulumi.Output[str]:
    through = ""
    if bastion:
        # Not -J: with it, ssh would look for the bastion's key in ~/.ssh/known_hosts only.
        proxy = f"{_SSH} -W %h:%p -p {bastion.port} {bastion.user}@{bastion.host}"
        through = f"-o {shlex.quote(f'ProxyCommand={proxy}')} "
    return pulumi.Output.format("{0} {1}{2}@{3}", _SSH, through, host.user, host.address)
