"""The cluster on the control plane and the workers: packages, `kubeadm init` once, joins, the network plugin.

Three invariants. The cluster is created once in the stack's life: `init` is one resource, which nothing runs again, so
that there is a cluster is a fact of the state, and a replaced first host joins it like any other. Control-plane hosts
join one after another, each when the one before is a healthy etcd member, so that etcd has its majority at any time.
And the join of a host touches no other, except that workers' HAProxies learn of a new API server.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import pulumi

from components.certificates import make_admin_certificate
from components.departure import Departure
from components.host import Host
from components.instance import Server, with_proxy
from model.kubernetes import Authorities, Cluster, LocalEndpoint, Node
from model.rendering import (
    kubeconfig,
    kubernetes_endpoint_script,
    kubernetes_init_script,
    kubernetes_join_script,
    kubernetes_network_script,
    kubernetes_packages_script,
    kubernetes_ready_script,
    kubernetes_version_script,
)
from model.settings import Settings
from model.topology import API_PORT


@dataclass(frozen=True, kw_only=True)
class KubernetesArgs:
    """What the cluster is made of."""

    settings: Settings
    control_plane: list[Server]
    workers: list[Server]
    vip: pulumi.Output[str]
    floating_address: pulumi.Output[str | None]
    endpoint_host: pulumi.Output[str]
    authorities: pulumi.Output[Authorities]
    departure: Departure
    running: bool
    """Whether the cluster existed before this run."""


class Kubernetes(pulumi.ComponentResource):
    """A cluster whose nodes are Ready."""

    kubeconfig: pulumi.Output[str]
    """The administrator's: a secret."""
    version: pulumi.Output[str]

    def __init__(self, name: str, args: KubernetesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openstack-ha-api:kubernetes:Kubernetes", name, None, opts)
        self._args = args
        first = args.control_plane[0]
        # Before there is a cluster, another version may be configured; from then on it is settled.
        asked = first.host.run_once(
            "kubernetes-version",
            with_proxy(args.settings, kubernetes_version_script(args.settings)),
            parent=self,
            after=[first.prepared],
            settled=args.running,
        )
        self.version = asked.stdout.apply(lambda text: text.rpartition("version=")[2].strip())
        self._cluster = self._facts()
        packages = {
            server.host.name: self._packages(server, asked, control_plane=control_plane)
            for servers, control_plane in ((args.control_plane, True), (args.workers, False))
            for server in servers
        }
        # After all instances, so that a destroy deletes it before them.
        administrator = make_admin_certificate(
            args.settings.cluster_name,
            args.authorities,
            parent=self,
            after=[server.host.instance for server in (*args.control_plane, *args.workers)],
            hooks=args.departure.of_the_end(),
        )
        created = first.host.run_once(
            "kubernetes-init",
            self._script(first.host, kubernetes_init_script, control_plane=True),
            parent=self,
            # The first run creates a cluster only when its end can be noticed. Later runs must not wait for all
            # instances here: a host that is replaced joins before the next one leaves.
            after=[packages[first.host.name], *([] if args.running else [administrator.record])],
        )
        joins: list[pulumi.CustomResource] = []
        for server in args.control_plane:
            before = [created, packages[server.host.name], *joins[-1:]]
            joins.append(self._join(server.host, before, control_plane=True))
        if args.settings.local_api_endpoint:
            # Before agents use it.
            before_join = {it.host.name: self._endpoint(it.host, [packages[it.host.name]]) for it in args.workers}
        else:
            before_join = packages
        network = first.host.run(
            "kubernetes-network",
            # No key is in it, so previews may show it.
            pulumi.Output.unsecret(self._cluster.apply(kubernetes_network_script)),
            parent=self,
            after=[joins[0], *(before_join[it.host.name] for it in args.workers)],
        )
        for server in args.workers:
            joins.append(self._join(server.host, [before_join[server.host.name], joins[0]], control_plane=False))
            if not args.settings.local_api_endpoint:
                # Gone only when no agent uses it.
                self._endpoint(server.host, [network, joins[-1]])
        first.host.run(
            "kubernetes-ready",
            kubernetes_ready_script(args.settings),
            parent=self,
            after=[network, *joins],
            # Packages too: they restart the kubelets with what may be another configuration.
            triggers=[step.id for step in (*packages.values(), network, *joins)],
        )
        facts = pulumi.Output.all(args.endpoint_host, args.authorities, administrator.certificate, administrator.key)
        self.kubeconfig = pulumi.Output.secret(
            facts.apply(
                lambda it: kubeconfig(
                    args.settings.cluster_name,
                    f"{args.settings.cluster_name}-admin",
                    f"https://{it[0]}:{API_PORT}",
                    ca=it[1]["ca"],
                    certificate=it[2],
                    key=it[3],
                )
            )
        )
        self.register_outputs({"version": self.version})

    def _facts(self) -> pulumi.Output[Cluster]:
        args = self._args
        return pulumi.Output.all(args.vip, args.floating_address, self.version, args.authorities).apply(
            lambda facts: Cluster(
                settings=args.settings,
                vip=IPv4Address(facts[0]),
                floating_ip=facts[1],
                version=facts[2],
                authorities=facts[3],
            )
        )

    def _script(self, host: Host, render: Callable[[Node], str], *, control_plane: bool) -> pulumi.Output[str]:
        return pulumi.Output.all(host.address, self._cluster).apply(
            lambda facts: render(
                Node(name=host.name, address=IPv4Address(facts[0]), control_plane=control_plane, cluster=facts[1])
            )
        )

    def _packages(self, server: Server, after: pulumi.Resource, *, control_plane: bool) -> pulumi.CustomResource:
        # No key is in it, so previews may show it.
        script = pulumi.Output.unsecret(
            self._script(server.host, kubernetes_packages_script, control_plane=control_plane)
        )
        return server.host.run(
            "kubernetes-packages",
            with_proxy(self._args.settings, script),
            parent=self,
            after=[server.prepared, after],
        )

    def _endpoint(self, host: Host, after: Sequence[pulumi.Resource]) -> pulumi.Resource:
        settings = self._args.settings
        addresses = {server.host.name: server.host.address for server in self._args.control_plane}
        script = pulumi.Output.all(self._args.authorities, pulumi.Output.all(**addresses)).apply(
            lambda facts: kubernetes_endpoint_script(
                settings,
                LocalEndpoint.from_settings(
                    settings,
                    {name: IPv4Address(address) for name, address in facts[1].items()},
                    facts[0]["ca"],
                ),
            )
        )
        return host.run("kubernetes-endpoint", pulumi.Output.unsecret(script), parent=self, after=after)

    def _join(self, host: Host, after: Sequence[pulumi.Resource], *, control_plane: bool) -> pulumi.CustomResource:
        script = self._script(host, kubernetes_join_script, control_plane=control_plane)
        return host.run("kubernetes-join", script, parent=self, after=after)
