"""Templates to files and scripts: the only Jinja environment.

What is rendered here is plain data in and text out; nothing is read but `templates/`, and nothing is written.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model import topology
from model.settings import Settings
from model.timers import Timers

TEMPLATES = Path(__file__).parent.parent / "templates"
LOAD_BALANCER_TEMPLATES = TEMPLATES / "load_balancer"

_environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    undefined=StrictUndefined,  # a name that is missing is an error, never an empty string in a file
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    comment_start_string="{##",  # `${#array[@]}` is Bash
    comment_end_string="##}",
    autoescape=False,  # noqa: S701 - no HTML; values are restricted in model/settings.py
)


def _render(template: str, **context: object) -> str:
    return _environment.get_template(template).render(
        api_port=topology.API_PORT,
        health_port=topology.HEALTH_PORT,
        metrics_port=topology.METRICS_PORT,
        exporter_port=topology.EXPORTER_PORT,
        election_address=topology.ELECTION_ADDRESS,
        **context,
    )


# What lands on a load balancer: template and place are the same path, a template with ".j2", a program as it is.
LOAD_BALANCER_FILES = {
    "etc/firewalld/zones/public.xml": 0o644,
    "etc/haproxy/ha-api/ca.pem": 0o644,
    "etc/haproxy/ha-api/client.pem": 0o600,
    "etc/haproxy/haproxy.cfg": 0o644,
    "etc/keepalived/check_haproxy.sh": 0o755,
    "etc/keepalived/keepalived.conf": 0o640,  # may hold the VRRP password
    "etc/keepalived/notify.sh": 0o755,
    "etc/sysctl.d/60-ha-api.conf": 0o644,
    "etc/systemd/system/ha-api-metrics.service": 0o644,
    "etc/systemd/system/ha-api-metrics.timer": 0o644,
    "etc/systemd/system/ha-api-watchdog.service": 0o644,
    "etc/systemd/system/haproxy.service.d/ha-api.conf": 0o644,
    "etc/systemd/system/keepalived.service.d/ha-api.conf": 0o644,
    "etc/systemd/system/prometheus-node-exporter.service.d/ha-api.conf": 0o644,
    "usr/local/lib/ha-api/metrics.py": 0o755,
    "usr/local/lib/ha-api/watchdog.py": 0o755,
}


@dataclass(frozen=True, kw_only=True)
class HostFile:
    """A file on a host: its path from the root, its mode, its whole text."""

    path: str
    mode: int
    text: str


@dataclass(frozen=True, kw_only=True)
class LoadBalancerHost:
    """All that the files of one load balancer depend on."""

    name: str
    address: IPv4Address
    peer_address: IPv4Address
    interface: str
    """The interface that carries `address`, as the host calls it."""
    vip: IPv4Address
    api_servers: tuple[tuple[str, IPv4Address], ...]
    vrrp_router_id: int
    vrrp_password: str
    """Empty selects VRRPv3, which has no authentication."""
    timers: Timers
    api_ca_certificate: str
    """PEM; empty checks API servers without verifying them."""
    api_client_certificate: str
    """PEM, certificates and key; empty asks them anonymously."""


def load_balancer_files(host: LoadBalancerHost) -> tuple[HostFile, ...]:
    """The files of one load balancer."""

    def text(path: str) -> str:
        program = LOAD_BALANCER_TEMPLATES / path
        if program.exists():
            return program.read_text()
        # haproxy.cfg carries its own digest, which is that of the text without it.
        configuration_id = _digest(_render(f"load_balancer/{path}.j2", host=host, configuration_id=""))
        return _render(f"load_balancer/{path}.j2", host=host, configuration_id=configuration_id)

    # A file without text is one that this configuration has no use for.
    return tuple(
        HostFile(path=path, mode=mode, text=rendered)
        for path, mode in LOAD_BALANCER_FILES.items()
        if (rendered := text(path))
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _heredoc_end(text: str) -> str:
    """A delimiter that `text` cannot contain, and that stays the same while the text does."""
    return f"END-{_digest(text)}"


_environment.filters["heredoc_end"] = _heredoc_end


def prepare_script(settings: Settings, address: IPv4Address) -> str:
    """Every host's first step: waits for cloud-init, tells APT about proxy and mirror, prints `interface=NAME`."""
    return _render("steps/prepare.sh.j2", settings=settings, address=address)


def install_script(settings: Settings) -> str:
    """A load balancer's second step: packages."""
    return _render("steps/install.sh.j2", settings=settings)


def configure_script(host: LoadBalancerHost, files: Iterable[HostFile]) -> str:
    """A load balancer's third step: files, staged, validated, moved into place, reloaded, put back if that fails."""
    return _render("steps/configure.sh.j2", host=host, files=tuple(files))


def prove_script(vip: IPv4Address, interface: str, address: IPv4Address) -> str:
    """A load balancer's last step: the services run, the VIP answers, and exactly one host holds it."""
    return _render("steps/prove.sh.j2", vip=vip, interface=interface, address=address)


def user_data(host_private_key: str, host_public_key: str) -> str:
    """cloud-init's part: the host key, and nothing that could ever change, for a change replaces the instance."""
    return _render("user_data.yaml.j2", private=host_private_key, public=host_public_key)


def kubeadm_config(vip: str, floating_ip: str | None) -> str:
    """A `kubeadm init --config` file whose control-plane endpoint is the VIP."""
    return _render("kubeadm.yaml.j2", vip=vip, floating_ip=floating_ip)
