"""The two load balancers: instances with keepalived, HAProxy and firewalld, serving the VIP.

The invariant: at any time at most one load balancer is being changed, be it a line of a file, a package or the whole
instance. The second is touched only after the first was proven to serve, so what fails on the first never reaches the
second. The first is the standby, where it is known: what fails there costs no client anything, and the VIP moves once.
The same order serves soft anti-affinity, which is decided on what runs already: instances that Nova schedules at the
same moment do not see each other.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import pulumi

from components.host import Host, make_pair_key
from components.instance import RoleArgs, Server, boot, make_port, make_server_group, prepare, with_proxy
from components.servers import Servers
from components.virtual_ip import VirtualIp
from model.load_balancers import LoadBalancerHost, LoadBalancerPair
from model.rendering import configure_script, install_script, load_balancer_files, pair_key_script, prove_script
from model.settings import Target
from model.topology import host_names


@dataclass(frozen=True, kw_only=True)
class LoadBalancersArgs(RoleArgs):
    """What the load balancers are made of, and configured with."""

    control_plane: Servers
    workers: Servers
    vip: VirtualIp
    vrrp_password: pulumi.Output[str]
    api_client_certificate: pulumi.Output[str]
    cluster_ca: pulumi.Output[str]
    """The CA of the cluster that the program creates, PEM; empty for none."""
    holder: str | None
    """The load balancer that holds the VIP now, as far as it is known."""


class LoadBalancers(pulumi.ComponentResource):
    """The configured pair."""

    hosts: list[Host]
    configured: list[pulumi.Resource]
    """The step after which both serve."""
    digests: dict[str, pulumi.Output[dict[str, str]]]
    """By host and path: SHA-256 of each file. As secret as what is in the files: a password of 8 characters can be
    found by trying, given the digest of a file that is known but for it."""

    def __init__(self, name: str, args: LoadBalancersArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openstack-ha-api:loadbalancer:LoadBalancers", name, None, opts)
        self._args = args
        self.digests = {}
        group = make_server_group(args, self)
        names = host_names(args.settings, args.role)
        ports = [make_port(host_name, args, parent=self, vip=args.vip.address) for host_name in names]
        noticed = args.vip.notice_pairs(ports)
        addresses = [port.all_fixed_ips.apply(args.cloud.address_of) for port in ports]
        pair, key = self._pair(), make_pair_key(args.group_name, parent=self)
        servers: dict[str, Server] = {}
        scripts: dict[str, pulumi.Output[str]] = {}
        configured: list[pulumi.Resource] = []
        for host_name in sorted(names, key=lambda name: name == args.holder):
            index = names.index(host_name)
            host = boot(index, ports[index], host_name, args, group, parent=self, after=configured)
            server = prepare(host, args, parent=self)
            facts = _facts_of(server, pair, peer_address=addresses[1 - index])
            script = facts.apply(lambda host: configure_script(host, load_balancer_files(host)))
            self.digests[host_name] = facts.apply(_digests)
            installed = host.run(
                "install",
                with_proxy(args.settings, install_script(args.settings)),
                parent=self,
                after=[server.prepared, *configured],
            )
            keyed = host.run("pair-key", key.apply(pair_key_script), parent=self, after=[server.prepared, *configured])
            # Not after the control plane's instances, whose hosts wait for this: one that is replaced could not join
            # before the next one leaves. The script gives new ones a limited time to boot.
            configured = [host.run("configure", script, parent=self, after=[installed, keyed, noticed, *configured])]
            servers[host_name], scripts[host_name] = server, script
        self.configured = configured
        # From here on in the order of their names: which was first is no change.
        self._prove([servers[name] for name in names], [scripts[name] for name in names])
        self.hosts = [servers[name].host for name in names]
        self.register_outputs({"addresses": {host.name: host.address for host in self.hosts}})

    def _pair(self) -> pulumi.Output[LoadBalancerPair]:
        args = self._args
        # The workers' only if something leads there: a new worker is otherwise no change of the load balancers.
        to_workers = any(it.target is Target.WORKERS for it in args.settings.frontends)
        hosts = (_addresses(args.control_plane.hosts), _addresses(args.workers.hosts if to_workers else []))
        secrets = (args.vrrp_password, args.api_client_certificate)
        return pulumi.Output.all(args.vip.address, *hosts, *secrets, args.cluster_ca).apply(
            lambda facts: LoadBalancerPair.from_settings(
                args.settings,
                vip=IPv4Address(facts[0]),
                control_plane=facts[1],
                workers=facts[2],
                vrrp_password=facts[3],
                api_client_certificate=facts[4],
                cluster_ca=facts[5],
            )
        )

    def _prove(self, servers: list[Server], scripts: list[pulumi.Output[str]]) -> None:
        # Every change of either host's files has the pair proven again. No output of `configure` is a trigger: with it,
        # this would be re-created too, even in a takeover's run that excludes it, and with the old VIP.
        digest = pulumi.Output.all(*scripts).apply(lambda texts: hashlib.sha256("".join(texts).encode()).hexdigest())
        for server in servers:
            script = pulumi.Output.all(self._args.vip.address, server.interface, server.host.address).apply(
                lambda facts: prove_script(IPv4Address(facts[0]), facts[1], IPv4Address(facts[2]))
            )
            server.host.run("prove", script, parent=self, after=self.configured, triggers=[digest])


def _addresses(hosts: Sequence[Host]) -> pulumi.Output[dict[str, IPv4Address]]:
    """By name; known from the hosts' ports, before there is an instance."""
    return pulumi.Output.all(*(host.address for host in hosts)).apply(
        lambda found: {host.name: IPv4Address(it) for host, it in zip(hosts, found, strict=True)}
    )


def _facts_of(
    server: Server, pair: pulumi.Output[LoadBalancerPair], peer_address: pulumi.Output[str]
) -> pulumi.Output[LoadBalancerHost]:
    return pulumi.Output.all(pair, server.host.address, peer_address, server.interface).apply(
        lambda facts: LoadBalancerHost(
            name=server.host.name,
            address=IPv4Address(facts[1]),
            peer_address=IPv4Address(facts[2]),
            interface=facts[3],
            pair=facts[0],
        )
    )


def _digests(host: LoadBalancerHost) -> dict[str, str]:
    return {file.path: hashlib.sha256(file.text.encode()).hexdigest() for file in load_balancer_files(host)}
