"""keepalived, HAProxy and firewalld on the two load balancers.

The invariant: at any time at most one load balancer is being changed. The second is touched only after the first was
proven to serve, so a configuration that fails on the first never reaches the second.
"""

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import pulumi

from components.servers import Servers
from model.rendering import (
    LoadBalancerHost,
    configure_script,
    install_script,
    load_balancer_files,
    prove_script,
)
from model.settings import Settings


@dataclass(frozen=True, kw_only=True)
class LoadBalancersArgs:
    """What the load balancers are configured with."""

    settings: Settings
    servers: Servers
    control_plane: Servers
    vip: pulumi.Output[str]
    vrrp_password: pulumi.Output[str]


class LoadBalancers(pulumi.ComponentResource):
    """The configured pair, serving the VIP."""

    def __init__(self, name: str, args: LoadBalancersArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openstack-ha-api:loadbalancer:LoadBalancers", name, None, opts)
        hosts, interfaces = args.servers.hosts, args.servers.interfaces
        scripts: list[pulumi.Output[str]] = []
        configured: list[pulumi.Resource] = []
        for index, host in enumerate(hosts):
            installed = host.run(
                "install", install_script(args.settings), parent=self, after=[args.servers.prepared[index]]
            )
            facts: dict[str, pulumi.Input[Any]] = {
                "address": host.address,
                "peer_address": hosts[1 - index].address,
                "interface": interfaces[index],
                "vip": args.vip,
                "api_servers": [
                    {"name": server.name, "address": server.address} for server in args.control_plane.hosts
                ],
                "vrrp_password": args.vrrp_password,
            }
            script = pulumi.Output.all(**facts).apply(
                lambda facts, name=host.name: _configure(name, args.settings.vrrp_router_id, facts)
            )
            scripts.append(script)
            configured = [host.run("configure", script, parent=self, after=[installed, *configured])]
        # Every change of either host's files has the pair proven again.
        digest = pulumi.Output.all(*scripts).apply(lambda texts: hashlib.sha256("".join(texts).encode()).hexdigest())
        for host, interface in zip(hosts, interfaces, strict=True):
            script = pulumi.Output.all(args.vip, interface, host.address).apply(
                lambda facts: prove_script(IPv4Address(facts[0]), facts[1], IPv4Address(facts[2]))
            )
            host.run("prove", script, parent=self, after=configured, triggers=[digest])
        self.register_outputs({})


def _configure(name: str, vrrp_router_id: int, facts: dict[str, Any]) -> str:
    host = LoadBalancerHost(
        name=name,
        address=IPv4Address(facts["address"]),
        peer_address=IPv4Address(facts["peer_address"]),
        interface=facts["interface"],
        vip=IPv4Address(facts["vip"]),
        api_servers=tuple((server["name"], IPv4Address(server["address"])) for server in facts["api_servers"]),
        vrrp_router_id=vrrp_router_id,
        vrrp_password=facts["vrrp_password"],
    )
    return configure_script(host, load_balancer_files(host))
