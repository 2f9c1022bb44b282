"""Each file of a load balancer, and what a change of it does on the host."""

import subprocess
from ipaddress import IPv4Address

import pytest

from dev.bench.standin_systemd import merge, seconds
from model.load_balancers import LOAD_BALANCER_FILES, Consequence, LoadBalancerHost, LoadBalancerPair
from model.rendering import LOAD_BALANCER_TEMPLATES, configure_script, load_balancer_files
from model.settings import Settings
from tests.unit.example import example_values

ADDRESSES = (IPv4Address("198.51.100.11"), IPv4Address("198.51.100.12"))


def load_balancer(address: IPv4Address, peer_address: IPv4Address) -> LoadBalancerHost:
    pair = LoadBalancerPair.from_settings(
        Settings.parse(example_values()), vip=IPv4Address("198.51.100.100"), control_plane={}
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
