"""Each file of a load balancer, and what a change of it does on the host."""

import json
import re
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from dev.bench.standin_systemd import merge, seconds
from model.load_balancers import (
    LOAD_BALANCER_FILES,
    RESERVED_CONNECTIONS,
    Consequence,
    LoadBalancerHost,
    LoadBalancerPair,
)
from model.rendering import LOAD_BALANCER_TEMPLATES, configure_script, load_balancer_files
from model.settings import Settings
from model.settings.frontends import MOST, OWN_NAMES, OWN_PORTS
from tests.unit.example import example_values

ADDRESSES = (IPv4Address("198.51.100.11"), IPv4Address("198.51.100.12"))


def load_balancer(address: IPv4Address, peer_address: IPv4Address) -> LoadBalancerHost:
    pair = LoadBalancerPair.from_settings(
        Settings.parse(example_values()), vip=IPv4Address("198.51.100.100"), control_plane={}, workers={}
    )
    return LoadBalancerHost(name="k8s-lb-0", address=address, peer_address=peer_address, interface="ens3", pair=pair)


def consequences(*paths: str) -> set[str]:
    """What configure.sh says that a change of these files asks for."""
    host = load_balancer(*ADDRESSES)
    lines = configure_script(host, load_balancer_files(host)).splitlines()
    assert lines.pop() == "main </dev/null"
    script = "\n".join([*lines, f"consequences {' '.join(paths)}"])
    result = subprocess.run(["bash", "-s"], input=script, capture_output=True, text=True, check=True)
    return {*result.stdout.split()}


def test_the_script_does_what_the_list_says():
    for path in ("etc/haproxy/ha-api/client.pem", "etc/systemd/system/ha-api-watchdog.service"):
        assert consequences(path) == {*LOAD_BALANCER_FILES[path].consequences}


def test_nothing_changed_asks_for_nothing():
    assert consequences() == set()


def test_a_file_of_an_older_version_asks_for_everything():
    assert consequences("etc/keepalived/a-file-of-an-older-version") == {*Consequence}


@pytest.mark.parametrize("path", LOAD_BALANCER_FILES)
def test_every_file_has_a_consequence(path: str):
    """Or it would be installed, and nothing would read it before the next boot."""
    assert LOAD_BALANCER_FILES[path].consequences


@pytest.mark.parametrize("path", [path for path in LOAD_BALANCER_FILES if path.startswith("etc/systemd/")])
def test_systemd_reads_a_changed_unit(path: str):
    assert Consequence.DAEMON_RELOAD in LOAD_BALANCER_FILES[path].consequences


def test_the_list_is_the_folder():
    found = [
        path.relative_to(LOAD_BALANCER_TEMPLATES)
        for path in LOAD_BALANCER_TEMPLATES.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"  # of programs that tests import
    ]
    assert {str(path).removesuffix(".j2") for path in found} == {*LOAD_BALANCER_FILES}


# apt's own, the same in Debian 12 and 13 and Ubuntu 22.04 and 24.04.
APT_DAILY_UPGRADE_TIMER = """
[Timer]
OnCalendar=*-*-* 6:00
RandomizedDelaySec=60m
Persistent=true
"""
UPGRADE_HOURS = 2


def test_the_two_load_balancers_are_never_upgraded_at_the_same_time():
    starts: list[float] = []
    for host in (load_balancer(*ADDRESSES), load_balancer(*reversed(ADDRESSES))):
        drop_in = next(file.text for file in load_balancer_files(host) if "apt-daily-upgrade.timer.d/" in file.path)
        timer = merge([APT_DAILY_UPGRADE_TIMER, drop_in])["Timer"]
        # After both were off, neither catches up as it boots.
        assert timer["Persistent"][-1] == "false"
        (calendar,) = timer["OnCalendar"]
        date, time, zone = calendar.split()
        assert (date, zone) == ("*-*-*", "UTC")
        hour, minute = map(int, time.split(":"))
        starts.append(hour + minute / 60)
        delay = seconds(timer["RandomizedDelaySec"][-1]) / 3600
    apart = (starts[1] - starts[0]) % 24
    # apt waits up to an hour for its own lock, and an upgrade takes minutes.
    assert min(apart, 24 - apart) - delay > UPGRADE_HOURS


def test_no_frontend_can_have_the_name_of_a_part_of_haproxy_s_configuration():
    host = load_balancer(*ADDRESSES)
    (text,) = (file.text for file in load_balancer_files(host) if file.path == "etc/haproxy/haproxy.cfg")
    assert set(re.findall(r"^(?:frontend|backend) (\S+)$", text, re.MULTILINE)) == OWN_NAMES


def test_every_port_that_haproxy_listens_on_anyway_is_refused_as_a_frontend_s():
    host = load_balancer(*ADDRESSES)
    (text,) = (file.text for file in load_balancer_files(host) if file.path == "etc/haproxy/haproxy.cfg")
    assert {int(it) for it in re.findall(r"^ *bind \*:(\d+)", text, re.MULTILINE)} <= OWN_PORTS


def test_all_ports_together_never_fill_haproxy():
    """A full HAProxy would not answer health checks: the VIP would move for a flood."""
    frontends = json.dumps([{"name": f"f{it}", "port": 1000 + it} for it in range(MOST)])
    pair = LoadBalancerPair.from_settings(
        Settings.parse(example_values(frontends=frontends)),
        vip=IPv4Address("198.51.100.100"),
        control_plane={},
        workers={f"k8s-worker-{it}": IPv4Address("10.0.0.1") + it for it in range(1000)},
    )
    host = replace(load_balancer(*ADDRESSES), pair=pair)
    (text,) = (file.text for file in load_balancer_files(host) if file.path == "etc/haproxy/haproxy.cfg")
    total, *ports = (int(it) for it in re.findall(r"^ *maxconn (\d+)$", text, re.MULTILINE))
    assert len(ports) == 1 + MOST
    assert total >= sum(ports) + RESERVED_CONNECTIONS
    # A connection has two, a check one. The kernel's limit for a process: fs.nr_open.
    assert 2 * total + sum(len(it.servers) for it in pair.frontends) < 1_048_576


@pytest.mark.parametrize("frontends", [0, 1, 2, MOST])
def test_no_allowed_number_of_connections_fills_the_kernel_s_connection_tracking(frontends: int):
    """A full table drops new connections of all ports, and HAProxy's own checks."""
    values = example_values(frontends=json.dumps([{"name": f"f{it}", "port": 1000 + it} for it in range(frontends)]))
    pair = LoadBalancerPair.from_settings(
        Settings.parse(values), vip=IPv4Address("198.51.100.100"), control_plane={}, workers={}
    )
    host = replace(load_balancer(*ADDRESSES), pair=pair)
    files = {file.path: file.text for file in load_balancer_files(host)}
    found = re.findall(
        r"^-net\.netfilter\.nf_conntrack_(\S+) = (\d+)$", files["etc/sysctl.d/60-ha-api.conf"], re.MULTILINE
    )
    kernel = {name: int(value) for name, value in found}
    limits = re.findall(r"rate over (\d+)/second burst (\d+) ", files.get("etc/haproxy/ha-api/new-connections.nft", ""))
    assert len(limits) == frontends
    # The API's port has no limit of new connections: as many as a frontend's.
    rate, burst = map(int, limits[0]) if limits else (2_000, 20_000)
    port = files["etc/haproxy/haproxy.cfg"].partition("\nfrontend apiserver\n")[2]
    held = int(re.findall(r"^ *maxconn (\d+)$", port, re.MULTILINE)[0])
    ended = burst + rate * kernel["tcp_timeout_time_wait"]
    assert kernel["max"] >= 2 * ((held + ended) * (1 + frontends) + RESERVED_CONNECTIONS)
    # Of a host with more than 4 GiB.
    assert kernel["max"] >= 262_144
