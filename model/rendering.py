"""Templates to files and scripts: the only place that renders `templates/`.

Plain data in, text out: nothing is read but `templates/`, and nothing is written.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model import topology
from model.kubernetes import (
    API_SERVER_FILES,
    CONTROL_PLANE_FILES,
    HOST_FILES,
    JOINING_FILES,
    KUBERNETES_FILES,
    LOCAL_ENDPOINT_FILES,
    Cluster,
    LocalEndpoint,
    Node,
)
from model.load_balancers import (
    CONNECTIONS,
    FORGOTTEN_AFTER,
    GRACE,
    LOAD_BALANCER_FILES,
    NEW_CONNECTIONS,
    LoadBalancerHost,
)
from model.settings import HostKeyType, NetworkPlugin, Settings

TEMPLATES = Path(__file__).parent.parent / "templates"
LOAD_BALANCER_TEMPLATES = TEMPLATES / "load_balancer"
KUBERNETES_TEMPLATES = TEMPLATES / "kubernetes"

_environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    undefined=StrictUndefined,  # a missing name is an error, never an empty string in a file
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    comment_start_string="{##",  # `${#array[@]}` is Bash
    comment_end_string="##}",
    autoescape=False,  # noqa: S701 - no HTML; model/settings/fields.py restricts the values
)


def _render(template: str, **context: object) -> str:
    return _environment.get_template(template).render(
        api_port=topology.API_PORT,
        health_port=topology.HEALTH_PORT,
        metrics_port=topology.METRICS_PORT,
        exchange_port=topology.EXCHANGE_PORT,
        tunnel_port=topology.TUNNEL_PORT,
        exporter_port=topology.EXPORTER_PORT,
        election_address=topology.ELECTION_ADDRESS,
        grace=GRACE,
        connections=CONNECTIONS,
        new_connections=NEW_CONNECTIONS,
        forgotten_after=FORGOTTEN_AFTER,
        **context,
    )


@dataclass(frozen=True, kw_only=True)
class HostFile:
    """A file on a host: its path from the root, its mode, its whole text."""

    path: str
    mode: int
    text: str


def load_balancer_files(host: LoadBalancerHost) -> tuple[HostFile, ...]:
    """The files of one load balancer."""

    def text(path: str) -> str:
        program = LOAD_BALANCER_TEMPLATES / path
        if program.exists():
            return program.read_text()
        template = f"load_balancer/{path}.j2"
        # haproxy.cfg carries its own digest: that of the text without it.
        configuration_id = _digest(_render(template, host=host, pair=host.pair, configuration_id=""))
        return _render(template, host=host, pair=host.pair, configuration_id=configuration_id)

    # A file with no text is one that this configuration does not need.
    return tuple(
        HostFile(path=path, mode=file.mode, text=rendered)
        for path, file in LOAD_BALANCER_FILES.items()
        if (rendered := text(path))
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _heredoc_end(text: str) -> str:
    """A delimiter that `text` cannot contain, and that changes only when the text does."""
    return f"END-{_digest(text)}"


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


_environment.filters["heredoc_end"] = _heredoc_end
_environment.filters["base64"] = _base64


def prepare_script(settings: Settings, address: IPv4Address) -> str:
    """Every host's first step: waits for cloud-init, sets APT's proxy and mirror, prints `interface=NAME`."""
    return _render("steps/prepare.sh.j2", settings=settings, address=address)


def install_script(settings: Settings) -> str:
    """A load balancer's second step: packages."""
    return _render("steps/install.sh.j2", settings=settings)


def try_firewalld_script(settings: Settings) -> str:
    """For `./ha preflight --boot`, after the packages: firewalld starts, and the kernel has what its rules need."""
    return _render("steps/try_firewalld.sh.j2", settings=settings)


def pair_key_script(key: str) -> str:
    """A step between a load balancer's second and third: the pair's secret, which `configure`'s previews never show."""
    return _render("steps/pair_key.sh.j2", key=key)


def configure_script(host: LoadBalancerHost, files: Iterable[HostFile]) -> str:
    """A load balancer's third step: files are staged, validated, moved into place, reloaded; put back if that fails."""
    return _render("steps/configure.sh.j2", host=host, files=tuple(files), known_files=LOAD_BALANCER_FILES)


def prove_script(vip: IPv4Address, interface: str, address: IPv4Address) -> str:
    """A load balancer's last step: the services run, the VIP answers, and exactly one host holds it."""
    return _render("steps/prove.sh.j2", vip=vip, interface=interface, address=address)


def user_data(host_private_key: str, host_public_key: str) -> str:
    """For cloud-init: the host key, and nothing that could ever change, because instances ignore a change."""
    # Not as the settings have it: a new instance gets the key of the one before.
    key_type = HostKeyType.of(host_public_key)
    return _render("user_data.yaml.j2", type=key_type, private=host_private_key, public=host_public_key)


def kubeadm_config(settings: Settings, vip: str, floating_ip: str | None) -> str:
    """A `kubeadm init --config` file whose control-plane endpoint is the name of the VIP, or its address."""
    names = dict.fromkeys(filter(None, (vip, floating_ip, settings.endpoint_name, *settings.api_server_names)))
    return _render("kubeadm.yaml.j2", settings=settings, vip=vip, floating_ip=floating_ip, certificate_names=names)


def kubernetes_files(node: Node, paths: Iterable[str]) -> tuple[HostFile, ...]:
    """A node's files of these paths of `KUBERNETES_FILES`; those that this configuration does not need have no text."""

    def text(path: str) -> str:
        if path == "run/ha-api/discovery.conf":
            return _discovery(node.cluster)
        plain = KUBERNETES_TEMPLATES / path
        if plain.exists():
            return plain.read_text()
        return _render(f"kubernetes/{path}.j2", node=node, cluster=node.cluster)

    return tuple(HostFile(path=path, mode=KUBERNETES_FILES[path], text=text(path)) for path in paths)


def local_endpoint_files(endpoint: LocalEndpoint) -> tuple[HostFile, ...]:
    """The files of a worker's HAProxy."""
    return tuple(
        HostFile(path=path, mode=mode, text=_render(f"kubernetes/{path}.j2", endpoint=endpoint))
        for path, mode in LOCAL_ENDPOINT_FILES.items()
    )


def _discovery(cluster: Cluster) -> str:
    """What a host joins with: where the API is, whom to trust, and a certificate that is good for joining alone."""
    return kubeconfig(
        "bootstrap",
        "host",
        f"https://{cluster.vip}:{topology.API_PORT}",
        ca=cluster.authorities["ca"],
        certificate=cluster.authorities["bootstrap-certificate"],
        key=cluster.authorities["bootstrap-key"],
    )


def kubeconfig(name: str, user: str, server: str, *, ca: str, certificate: str, key: str) -> str:
    """A client's configuration, with everything in it; the certificates and the key in PEM."""
    return _render(
        "kubernetes/kubeconfig.yaml.j2", name=name, user=user, server=server, ca=ca, certificate=certificate, key=key
    )


def _pki(cluster: Cluster) -> tuple[HostFile, ...]:
    return tuple(
        HostFile(path=f"etc/kubernetes/pki/{path}", mode=0o600 if path.endswith(".key") else 0o644, text=text)
        for path, text in cluster.authorities.pki.items()
    )


def kubernetes_version_script(settings: Settings) -> str:
    """The first control-plane host's step: prints `version=1.37.2`, the newest that the settings admit."""
    return _render("steps/kubernetes/version.sh.j2", settings=settings)


def kubernetes_packages_script(node: Node) -> str:
    """Every node's step before it joins: container runtime, kubelet, kubeadm, and images."""
    containerd = "etc/containerd/config.toml"
    return _render(
        "steps/kubernetes/packages.sh.j2",
        node=node,
        cluster=node.cluster,
        files=kubernetes_files(node, [path for path in HOST_FILES if path != containerd]),
        containerd=kubernetes_files(node, [containerd])[0],
    )


def kubernetes_endpoint_script(settings: Settings, endpoint: LocalEndpoint) -> str:
    """A worker's step before it joins: its own HAProxy, or none if the settings have it use the VIP."""
    certificate, configuration = local_endpoint_files(endpoint)
    return _render(
        "steps/kubernetes/endpoint.sh.j2", settings=settings, files=(certificate,), configuration=configuration
    )


def kubernetes_init_script(node: Node) -> str:
    """The cluster's first step: `kubeadm init`, once in its life."""
    files = (*_pki(node.cluster), *kubernetes_files(node, (*API_SERVER_FILES, *CONTROL_PLANE_FILES)))
    return _render("steps/kubernetes/init.sh.j2", node=node, cluster=node.cluster, files=files)


def kubernetes_join_script(node: Node) -> str:
    """A node's step: `kubeadm join`, unless it is in the cluster; a control-plane host serves at its end."""
    ca = HostFile(path="run/ha-api/ca.crt", mode=0o644, text=node.cluster.authorities["ca"])
    joining = kubernetes_files(node, JOINING_FILES)
    control_plane = (*_pki(node.cluster), *kubernetes_files(node, API_SERVER_FILES))
    return _render(
        "steps/kubernetes/join.sh.j2",
        node=node,
        cluster=node.cluster,
        files=(*control_plane, *joining) if node.control_plane else (ca, *joining),
        control_plane_files=kubernetes_files(node, CONTROL_PLANE_FILES),
    )


def kubernetes_network_script(cluster: Cluster) -> str:
    """A step after the cluster exists: the network plugin, kube-proxy's endpoint, and CoreDNS on two hosts."""
    settings = cluster.settings
    flannel = settings.network_plugin is NetworkPlugin.FLANNEL
    manifest = _render("kubernetes/flannel.yaml.j2", settings=settings) if flannel else ""
    term = {
        "labelSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        # Else a pod of the Deployment's former template keeps the new ones off its worker, until it has ended.
        "matchLabelKeys": ["pod-template-hash"],
        "topologyKey": "kubernetes.io/hostname",
    }
    affinity = {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": None,
            "requiredDuringSchedulingIgnoredDuringExecution": [term],
        }
    }
    patch = json.dumps({"spec": {"template": {"spec": {"affinity": affinity}}}})
    return _render("steps/kubernetes/network.sh.j2", cluster=cluster, manifest=manifest, coredns_patch=patch)


def kubernetes_ready_script(settings: Settings) -> str:
    """The last step: waits for all nodes, and for DNS."""
    workers = topology.host_names(settings, topology.Role.WORKER)
    nodes = (*topology.host_names(settings, topology.Role.CONTROL_PLANE), *workers)
    no_control_plane = {"key": "node-role.kubernetes.io/control-plane", "operator": "DoesNotExist"}
    # CoreDNS tolerates the control plane's taint alone, and a worker's keep it off all workers.
    tainted = any(taint.endswith((":NoSchedule", ":NoExecute")) for taint in settings.worker_taints)
    dns_hosts = settings.control_plane.count if tainted else len(nodes)
    preferred = [{"weight": 100, "preference": {"matchExpressions": [no_control_plane]}}]
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    return _render(
        "steps/kubernetes/ready.sh.j2",
        dns_patch=json.dumps({"spec": {"template": {"spec": {"affinity": affinity}}}}),
        nodes=nodes,
        workers=workers,
        dns_hosts=min(2, dns_hosts),
        # Without a plugin of ours nodes become Ready when the user's is installed.
        wait_for_network=settings.network_plugin is not NetworkPlugin.NONE,
    )


def kubernetes_leave_script(
    name: str,
    address: IPv4Address,
    *,
    control_plane: bool,
    healthy_others: int,
    returning: Sequence[str],
    wait: int,
    drain: int,
) -> str:
    """What another control-plane host runs first, before the instance of `name` is deleted.

    It prints `cordoned` if the host got pods until then.

    So many members of etcd have to be healthy, or workers Ready, besides the host's own (`healthy_others`). For that,
    the script waits: it then fails if etcd has too few members, or if a host that left earlier in the same
    run, to be replaced, is not back (`returning`). `wait` and `drain` are seconds.
    """
    return _render(
        "steps/kubernetes/leave.sh.j2",
        name=name,
        address=address,
        control_plane=control_plane,
        healthy_others=healthy_others,
        returning=returning,
        wait=wait,
        drain=drain,
    )


def kubernetes_stop_api_server_script() -> str:
    """What a control-plane host that leaves runs itself, if it answers, so that no request fails when it is gone."""
    return _render("steps/kubernetes/stop_api_server.sh.j2")


def kubernetes_remove_script(name: str, address: IPv4Address, *, control_plane: bool, cordoned: bool, wait: int) -> str:
    """What another control-plane host runs last: it removes the member and the Node of `name`.

    If that fails, a host that got pods before (`cordoned`) gets them again. `wait` is in seconds.
    """
    return _render(
        "steps/kubernetes/remove.sh.j2",
        name=name,
        address=address,
        control_plane=control_plane,
        cordoned=cordoned,
        wait=wait,
    )
