"""Sets up and removes the host's side of the lab: links, addresses, NAT and kernel settings."""

import json
import shlex
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any

from dev.lab.errors import LabError
from dev.lab.settings import LabSettings
from dev.lab.shell import run

# Host's end and container's end of the two links, in systemd-nspawn's notation.
API_LINK = "lab-api:lab-api0"
PROVIDER_LINK = "lab-provider:lab-provider0"
_API_END, _PROVIDER_END = (link.split(":")[0] for link in (API_LINK, PROVIDER_LINK))
LINKS = (_API_END, _PROVIDER_END)

_COMMENT = "openstack-ha-api-lab"
_SYSCTL = Path("/proc/sys")
# Minimums. To the kernel, the services of all guests are the same few users. Their 128 inotify instances are used up
# by about fifteen guests; the next guest's systemd cannot start, and the guest shuts down.
_KERNEL = {"net/ipv4/ip_forward": 1, "fs/inotify/max_user_instances": 1024}
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# Of every hop in the lab, in bytes: links, bridge, network and instances. This is the default of guests and links. With
# another MTU, a hop that was not configured would drop packets that are too long for it, and bulk copies would hang.
MTU = 1500


def collisions(settings: LabSettings, routes: list[IPv4Network], addresses: dict[str, list[str]]) -> list[str]:
    """One message for each route or package mirror of the host that the lab's networks would hide.

    `routes` are the destinations of the host's routes; `addresses` are the mirrors' addresses by name.
    """
    errors: list[str] = []
    wanted = {
        "LAB_API_CIDR": settings.api_network,
        "LAB_INSTANCE_CIDR": settings.instance_network,
        "LAB_TENANT_CIDR": settings.tenant_network,
    }
    for variable, network in wanted.items():
        errors.extend(
            f"{variable}={network}: the host already has a route to {route}; choose another network"
            for route in routes
            if network.overlaps(route)
        )
        errors.extend(
            f"{variable}={network}: it contains {name} ({value}), which this host uses and could not reach behind "
            "the lab; choose another network"
            for name, values in addresses.items()
            for value in values
            if ip_address(value) in network
        )
    return errors


def host_routes() -> list[IPv4Network]:
    """The destinations of the host's IPv4 routes, without the default route and the lab's own links."""
    routes: list[dict[str, Any]] = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    networks = [
        IPv4Network(route["dst"])
        for route in routes
        if route["dst"] != "default" and route.get("dev") not in LINKS and route.get("type") != "broadcast"
    ]
    # A VPN often replaces the default route with two routes, each to one half of the Internet.
    return [network for network in networks if network.prefixlen > 1]


def owner() -> Path | None:
    """The state folder of the lab whose link is on this host, or None."""
    links: list[dict[str, Any]] = json.loads(run(["ip", "-json", "link", "show"]))
    for link in links:
        if link["ifname"] == _API_END:
            return Path(link["ifalias"]) if "ifalias" in link else None
    return None


def configure(settings: LabSettings) -> None:
    """Sets up the host's ends of the links (the container's start creates the links), NAT, and kernel settings."""
    ends = (
        (_API_END, settings.api_gateway, settings.api_network),
        (_PROVIDER_END, settings.instance_gateway, settings.instance_network),
    )
    for link, address, network in ends:
        run(["ip", "link", "set", link, "alias", settings.state])
        run(["ip", "link", "set", link, "mtu", str(MTU), "up"])
        run(["ip", "address", "replace", f"{address}/{network.prefixlen}", "dev", link])
    # The router translates nothing, so that the host reaches the instances behind it.
    tenant, router = str(settings.tenant_network), str(settings.router_address)
    run(["ip", "route", "replace", tenant, "via", router, "dev", _PROVIDER_END])
    # The lab's switch computes no checksums, so each sender must.
    run(["ethtool", "--offload", _PROVIDER_END, "tx", "off"])
    _set_kernel(settings.state)
    for rule in _rules(settings):
        if not _has(rule):
            run(["iptables", "--wait", "--table", rule[0], "--insert", *rule[1:]])


def remove(settings: LabSettings) -> None:
    """Removes links, rules and addresses, if they exist, and restores the kernel settings."""
    for link in LINKS:
        run(["ip", "link", "delete", link], check=False)
    for table in ("nat", "filter", "mangle"):
        for line in run(["iptables-save", "--table", table], check=False).splitlines():
            if line.startswith("-A ") and _COMMENT in line:
                run(["iptables", "--wait", "--table", table, "--delete", *shlex.split(line)[1:]])
    _restore_kernel(settings.state)


def _rules(settings: LabSettings) -> list[list[str]]:
    network, tenant, link = str(settings.instance_network), str(settings.tenant_network), _PROVIDER_END
    comment = ["-m", "comment", "--comment", _COMMENT]
    clamp = ["-p", "tcp", "--tcp-flags", "SYN,RST", "SYN", *comment, "-j", "TCPMSS", "--clamp-mss-to-pmtu"]
    return [
        # The host's uplink may have a smaller MTU than the lab's networks.
        ["mangle", "FORWARD", "-i", link, *clamp],
        ["mangle", "FORWARD", "-o", link, *clamp],
        ["nat", "POSTROUTING", "-s", network, "!", "-d", network, *comment, "-j", "MASQUERADE"],
        ["nat", "POSTROUTING", "-s", tenant, "!", "-d", network, *comment, "-j", "MASQUERADE"],
        # Inserted last, so it comes first: an instance that answers one of the other network is not translated.
        ["nat", "POSTROUTING", "-s", network, "-d", tenant, *comment, "-j", "ACCEPT"],
        # If the host's policy is to forward nothing (as Docker sets it), instances could not reach any mirror.
        ["filter", "FORWARD", "-i", link, *comment, "-j", "ACCEPT"],
        ["filter", "FORWARD", "-o", link, *comment, "-j", "ACCEPT"],
    ]


def _has(rule: list[str]) -> bool:
    lines = run(["iptables-save", "--table", rule[0]]).splitlines()
    return any(set(rule[1:]) <= set(shlex.split(line)) for line in lines)


def _set_kernel(state: Path) -> None:
    saved = state / "sysctl.json"
    boot = _BOOT_ID.read_text().strip()
    # A killed lab leaves its values set: the saved ones are the host's, unless the machine has rebooted since.
    if not saved.exists() or json.loads(saved.read_text())["boot"] != boot:
        before = {name: int((_SYSCTL / name).read_text()) for name in _KERNEL}
        saved.write_text(json.dumps({"boot": boot, "values": before}))
    for name, value in _KERNEL.items():
        (_SYSCTL / name).write_text(f"{max(value, int((_SYSCTL / name).read_text()))}\n")


def _restore_kernel(state: Path) -> None:
    saved = state / "sysctl.json"
    if saved.exists():
        before = json.loads(saved.read_text())
        if before["boot"] == _BOOT_ID.read_text().strip():
            for name, value in before["values"].items():
                (_SYSCTL / name).write_text(f"{value}\n")
        saved.unlink()


def assert_free(settings: LabSettings, addresses: dict[str, list[str]]) -> None:
    """Raises LabError with all reasons if the lab's networks collide with the host's or with another lab."""
    other = owner()
    if other is not None and other != settings.state:
        raise LabError(
            f"Another lab runs on this machine, with its state in {other}. Stop it first: "
            f"`XDG_STATE_HOME={other.parent.parent} python -m dev.lab down`."
        )
    errors = collisions(settings, host_routes(), addresses)
    if errors:
        raise LabError("The lab's networks collide with this host's:\n" + "\n".join(f"- {error}" for error in errors))
