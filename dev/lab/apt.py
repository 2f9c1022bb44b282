"""How the host reaches its package mirrors, so that the cloud's build and the instances can do the same."""

import json
import os
import shlex
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from dev.lab.errors import LabError
from dev.lab.shell import run

HOST_SUITE = "bookworm"
"""Debian's name of the release that the host runs and the cloud is built from."""

# Only the options needed to reach a mirror; a mirror of frozen packages needs the date checks off, as on the host.
_CARRIED_OPTIONS = (
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
)


@dataclass(frozen=True, kw_only=True)
class HostApt:
    """The host's sources of Debian 12 packages, its APT options that matter, and its name servers."""

    sources: tuple[str, ...]
    options: tuple[str, ...]
    hosts: tuple[str, ...]
    nameservers: tuple[str, ...]

    def sources_of(self, suite: str) -> tuple[str, ...]:
        """The sources of another Debian release. A mirror of Debian has every release in the same places."""
        return tuple(source.replace(f" {HOST_SUITE}", f" {suite}") for source in self.sources)

    @classmethod
    def read(cls) -> "HostApt":
        """Queries APT and reads resolv.conf. Raises LabError if instances could not use what the host uses."""
        sources, hosts = _sources()
        options = _options()
        proxies = [urlsplit(value).hostname for name, value in options.items() if name.endswith("Proxy")]
        for proxy in filter(None, proxies):
            if _is_loopback(proxy):
                raise LabError(
                    f"APT's proxy on this host is on the loopback address ({proxy}), which instances cannot reach. "
                    "Make it listen on another address of the host, and set that address in /etc/apt/apt.conf.d."
                )
        return cls(
            sources=sources,
            options=tuple(f'{name} "{value}";' for name, value in options.items()),
            hosts=tuple(dict.fromkeys([*hosts, *filter(None, proxies)])),
            nameservers=_nameservers(),
        )

    def addresses(self) -> dict[str, list[str]]:
        """The IPv4 addresses of mirrors, proxies and name servers, by name; a name that does not resolve has none."""
        found: dict[str, list[str]] = {server: [server] for server in self.nameservers}
        for host in self.hosts:
            try:
                found[host] = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, 80, socket.AF_INET)})
            except socket.gaierror:
                found[host] = []
        return found


def _sources() -> tuple[tuple[str, ...], list[str]]:
    format_ = json.dumps({"uri": "$(REPO_URI)", "suite": "$(RELEASE)", "component": "$(COMPONENT)"})
    lines: list[str] = []
    hosts: list[str] = []
    for row in run(["apt-get", "indextargets", "--format", format_, "Created-By: Packages"]).splitlines():
        target: dict[str, str] = json.loads(row)
        if target["suite"].split("-")[0] != HOST_SUITE or target["component"] != "main":
            continue
        host = urlsplit(target["uri"]).hostname
        if host is None or _is_loopback(host):
            raise LabError(
                f"APT's source {target['uri']} is on this host, where instances cannot reach it. "
                "Set a mirror on the network in /etc/apt/sources.list."
            )
        lines.append(f"deb {target['uri']} {target['suite']} {target['component']}")
        hosts.append(host)
    if not lines:
        raise LabError(
            f"APT on this host has no source for Debian 12 ({HOST_SUITE}), which the lab is built from. Use a "
            "Debian 12 host, or add such a source to /etc/apt/sources.list.d."
        )
    return tuple(dict.fromkeys(lines)), hosts


def _options() -> dict[str, str]:
    options: dict[str, str] = {}
    for line in run(["apt-config", "dump", *_CARRIED_OPTIONS]).splitlines():
        name, value = shlex.split(line.rstrip(";"))
        options[name] = value
    # APT also uses these variables, but an instance does not have them.
    for scheme in ("http", "https"):
        proxy = os.environ.get(f"{scheme}_proxy")
        if proxy:
            options.setdefault(f"Acquire::{scheme}::Proxy", proxy)
    return options


def _nameservers() -> tuple[str, ...]:
    # systemd-resolved's stub is on loopback; the servers behind it are in its own file.
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if not path.exists():
            continue
        fields = [line.split() for line in path.read_text().splitlines()]
        servers = [field[1] for field in fields if len(field) > 1 and field[0] == "nameserver"]
        reachable = tuple(server for server in servers if ":" not in server and not _is_loopback(server))
        if reachable:
            return reachable
    raise LabError(
        "This host has no IPv4 name server except on loopback, where instances cannot reach it. "
        "Set one in /etc/resolv.conf."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
