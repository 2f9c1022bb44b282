"""The configurations that the bench compares: ours, and those that other projects publish for the same purpose.

The configuration of another project is a folder in `peers/`, with the files of each load balancer at their paths;
templates end in ".j2". The files are written from the published settings; each names its source and what was adapted to
the bench. docs/peers.md compares them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model import topology
from model.load_balancers import LoadBalancerHost
from model.rendering import HostFile, load_balancer_files
from model.timers import PROFILES, Profile, Timers

PEERS = Path(__file__).parent / "peers"

_environment = Environment(
    loader=FileSystemLoader(PEERS),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 - no HTML
)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The files on the two load balancers."""

    name: str
    title: str
    """Short, for figures."""
    source: str
    """Where the settings are published, and in which version."""
    files: Callable[[LoadBalancerHost], tuple[HostFile, ...]]


def _ours(name: str, title: str, timers: Timers) -> Configuration:
    def files(host: LoadBalancerHost) -> tuple[HostFile, ...]:
        files = load_balancer_files(replace(host, pair=replace(host.pair, timers=timers)))
        # On real hosts a step of its own puts it there.
        return (*files, HostFile(path="etc/ha-api/pair.key", mode=0o600, text="be" * 32))

    return Configuration(name=name, title=title, source="this project: templates/, model/timers.py", files=files)


def peer(name: str, title: str, source: str) -> Configuration:
    """The configuration of another project, from the folder of this name."""

    def file(host: LoadBalancerHost, path: Path) -> HostFile:
        text = path.read_text()
        if path.suffix == ".j2":
            template = _environment.get_template(str(path.relative_to(PEERS)))
            text = template.render(
                host=host,
                pair=host.pair,
                api_port=topology.API_PORT,
                network=IPv4Interface(f"{host.address}/24").network,  # the only segment of the bench
                # If the two hosts differ, the one with the lower address is the first.
                first=host.address < host.peer_address,
            )
        return HostFile(
            path=str(path.relative_to(PEERS / name)).removesuffix(".j2"),
            mode=0o755 if text.startswith("#!") else 0o644,
            text=text,
        )

    def files(host: LoadBalancerHost) -> tuple[HostFile, ...]:
        return tuple(file(host, path) for path in sorted((PEERS / name).rglob("*")) if path.is_file())

    return Configuration(name=name, title=title, source=source, files=files)


_PROFILES = (Profile.DEFAULT, Profile.FAST, Profile.STEADY)

CONFIGURATIONS: Mapping[str, Configuration] = {
    configuration.name: configuration
    for configuration in (
        *(_ours(profile.value, f"ours, {profile}", PROFILES[profile]) for profile in _PROFILES),
        peer(
            "seed",
            "seed",
            "PacketFabric Column & News: Setting up Kubernetes High Availability Cluster, Part I (May 2021)",
        ),
        peer(
            "kubeadm",
            "kubeadm's guide",
            "kubernetes/kubeadm, docs/ha-considerations.md: its text of 2024, option 1 (services of the distribution)",
        ),
        peer(
            "octavia",
            "Octavia",
            "openstack/octavia: amphora driver, ACTIVE_STANDBY, at 000896d (keepalived) and 01a3ed5 (HAProxy); "
            "doc/source/user/guides/basic-cookbook.rst",
        ),
        peer(
            "kolla",
            "kolla-ansible",
            "openstack/kolla-ansible: roles loadbalancer at 38b652d and haproxy-config at 145e64d, "
            "kolla_systemd_worker.py at 752592f",
        ),
        peer(
            "openshift",
            "OpenShift on-prem",
            "openshift/machine-config-operator: keepalived at 132bd73, HAProxy at 249c7bf, static pods at 06dc741, "
            "026c28b; openshift/baremetal-runtimecfg at bb65863",
        ),
    )
}

# Missed advertisements and milliseconds between two: the RFC's three, ever faster, then more and shorter intervals.
ADVERTISEMENTS = (
    *((3, interval) for interval in (1000, 500, 300, 100, 50)),
    *((5, interval) for interval in (100, 50)),
    (7, 100),
    (25, 100),
    (10, 50),
)


def timers_name(missed: int, interval: int) -> str:
    """The name of the configuration with these advertisements."""
    return f"{missed}x{interval}ms"


TIMERS: Mapping[str, Configuration] = {
    timers_name(missed, interval): _ours(
        timers_name(missed, interval),
        f"{missed} x {interval} ms",
        replace(PROFILES[Profile.DEFAULT], advertisement_interval=interval, missed_advertisements=missed),
    )
    for missed, interval in ADVERTISEMENTS
}
"""The default profile with different advertisement timers."""
