"""Templates to files and scripts: the only place that renders `templates/`.

Plain data in, text out: nothing is read but `templates/`, and nothing is written.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model import topology
from model.load_balancers import LOAD_BALANCER_FILES, LoadBalancerHost
from model.settings import Settings

TEMPLATES = Path(__file__).parent.parent / "templates"
LOAD_BALANCER_TEMPLATES = TEMPLATES / "load_balancer"

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
        exporter_port=topology.EXPORTER_PORT,
        election_address=topology.ELECTION_ADDRESS,
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


_environment.filters["heredoc_end"] = _heredoc_end


def prepare_script(settings: Settings, address: IPv4Address) -> str:
    """Every host's first step: waits for cloud-init, sets APT's proxy and mirror, prints `interface=NAME`."""
    return _render("steps/prepare.sh.j2", settings=settings, address=address)


def install_script(settings: Settings) -> str:
    """A load balancer's second step: packages."""
    return _render("steps/install.sh.j2", settings=settings)


def configure_script(host: LoadBalancerHost, files: Iterable[HostFile]) -> str:
    """A load balancer's third step: files are staged, validated, moved into place, reloaded; put back if that fails."""
    return _render("steps/configure.sh.j2", host=host, files=tuple(files), known_files=LOAD_BALANCER_FILES)


def prove_script(vip: IPv4Address, interface: str, address: IPv4Address) -> str:
    """A load balancer's last step: the services run, the VIP answers, and exactly one host holds it."""
    return _render("steps/prove.sh.j2", vip=vip, interface=interface, address=address)


def user_data(host_private_key: str, host_public_key: str) -> str:
    """For cloud-init: the host key, and nothing that could ever change, because instances ignore a change."""
    return _render("user_data.yaml.j2", private=host_private_key, public=host_public_key)


def kubeadm_config(vip: str, floating_ip: str | None) -> str:
    """A `kubeadm init --config` file whose control-plane endpoint is the VIP."""
    return _render("kubeadm.yaml.j2", vip=vip, floating_ip=floating_ip)
