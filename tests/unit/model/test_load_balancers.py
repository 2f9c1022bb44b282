"""Each file of a load balancer, and what a change of it does on the host."""

import subprocess
from ipaddress import IPv4Address

import pytest

from model.load_balancers import LOAD_BALANCER_FILES, Consequence, LoadBalancerHost, LoadBalancerPair
from model.rendering import LOAD_BALANCER_TEMPLATES, configure_script, load_balancer_files
from model.settings import Settings
from tests.unit.example import example_values


def consequences(*paths: str) -> set[str]:
    """What configure.sh says that a change of these files asks for."""
    pair = LoadBalancerPair.from_settings(
        Settings.parse(example_values()), vip=IPv4Address("198.51.100.100"), control_plane={}
    )
    host = LoadBalancerHost(
        name="k8s-lb-0",
        address=IPv4Address("198.51.100.11"),
        peer_address=IPv4Address("198.51.100.12"),
        interface="ens3",
        pair=pair,
    )
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
    found = [path.relative_to(LOAD_BALANCER_TEMPLATES) for path in LOAD_BALANCER_TEMPLATES.rglob("*") if path.is_file()]
    assert {str(path).removesuffix(".j2") for path in found} == {*LOAD_BALANCER_FILES}
