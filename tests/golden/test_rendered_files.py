"""Whole rendered files, compared with the reviewed ones in `expected/`, and checked by the programs that read them.

After an intended change: `make golden UPDATE=1`, then review the difference.
"""

import json
import os
import re
import shlex
import subprocess
from ipaddress import IPv4Address
from itertools import product
from pathlib import Path

import pytest

from dev.review.render import STAND_IN_INTERFACE, render
from model.load_balancers import LoadBalancerHost, LoadBalancerPair
from model.rendering import (
    LOAD_BALANCER_TEMPLATES,
    configure_script,
    install_script,
    load_balancer_files,
    pair_key_script,
    prepare_script,
    prove_script,
)
from model.settings import Settings
from tests.golden import debian_13
from tests.unit.example import example_values

EXPECTED = Path(__file__).parent / "expected"
FRONTENDS = [
    {
        "name": "ingress",
        "port": 443,
        "targetPort": 30443,
        "allowedCidrs": ["203.0.113.0/24"],
        "check": "https",
        "checkPath": "/healthz",
        "proxyProtocol": True,
    },
    {"name": "rke2", "port": 9345, "target": "controlPlane"},
    {
        "name": "plain-http",
        "port": 80,
        "targetPort": 30080,
        "allowedCidrs": ["203.0.113.0/24", "192.0.2.0/24"],
        "check": "http",
        "checkPath": "/-/ready",
        "checkStatus": 404,
    },
]
STACKS = {
    "default": {},
    "password-and-five-servers": {"vip": "198.51.100.200", "controlPlaneCount": "5", "vrrpPassword": "P@ssw0rd"},
    "frontends": {"frontends": json.dumps(FRONTENDS), "workerCount": "2"},
}
FILES = [
    "etc/firewalld/zones/public.xml",
    "etc/haproxy/haproxy.cfg",
    "etc/keepalived/check_haproxy.sh",
    "etc/keepalived/keepalived.conf",
    "etc/modules-load.d/60-ha-api.conf",
    "etc/sysctl.d/60-ha-api.conf",
    "etc/systemd/system/apt-daily-upgrade.timer.d/ha-api.conf",
    "etc/systemd/system/ha-api-held-connections.service",
    "etc/systemd/system/ha-api-metrics.service",
    "etc/systemd/system/ha-api-metrics.timer",
    "etc/systemd/system/ha-api-watchdog.service",
    "etc/systemd/system/haproxy.service.d/ha-api.conf",
    "etc/systemd/system/keepalived.service.d/ha-api.conf",
    "etc/systemd/system/prometheus-node-exporter.service.d/ha-api.conf",
]
NEW_CONNECTIONS = "etc/haproxy/ha-api/new-connections.nft"
PROGRAMS = [
    "etc/keepalived/notify.sh",
    *(f"usr/local/lib/ha-api/{name}.py" for name in ("handover", "haproxy", "held_connections", "metrics", "watchdog")),
]
HOSTS = ["k8s-lb-0", "k8s-lb-1"]
RELEASES = pytest.mark.parametrize("debian_13_s", [False, True], ids=["installed", "Debian 13's"])


@pytest.fixture(scope="session", params=STACKS)
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp(request.param)
    render(Settings.parse(example_values(**STACKS[request.param])), out)
    return request.param, out


def test_every_rendered_file_is_the_reviewed_one(rendered: tuple[str, Path]):
    stack, out = rendered
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    own = [*FILES, NEW_CONNECTIONS] if stack == "frontends" else FILES
    assert files == sorted(f"{host}/{file}" for host in HOSTS for file in own + PROGRAMS)
    for host, program in product(HOSTS, PROGRAMS):
        assert (out / host / program).read_text() == (LOAD_BALANCER_TEMPLATES / program).read_text()
    for file in (f"{host}/{file}" for host in HOSTS for file in own):
        text = (out / file).read_text()
        expected = EXPECTED / stack / file
        if os.environ.get("UPDATE"):
            expected.parent.mkdir(parents=True, exist_ok=True)
            expected.write_text(text)
        assert text == expected.read_text(), f"{file} has changed; if this is intended: make golden UPDATE=1"


def command(name: str, *, debian_13_s: bool) -> list[str]:
    return debian_13.program(name) if debian_13_s else [name]


@RELEASES
@pytest.mark.parametrize("host", HOSTS)
def test_haproxy_accepts_its_configuration(rendered: tuple[str, Path], host: str, debian_13_s: bool):
    config = rendered[1] / host / "etc/haproxy/haproxy.cfg"
    haproxy = command("haproxy", debian_13_s=debian_13_s)
    # Warnings count: a newer release announces what the next one refuses.
    subprocess.run([*haproxy, "-c", "-q", "-dW", "-f", config], check=True)


@RELEASES
@pytest.mark.parametrize("host", HOSTS)
def test_keepalived_accepts_its_configuration(rendered: tuple[str, Path], host: str, tmp_path: Path, debian_13_s: bool):
    """In a network namespace of its own, because keepalived needs the interface; every code but 0 is a refusal."""
    tree = rendered[1] / host
    # It names its scripts by where they are on the host.
    config = tmp_path / "keepalived.conf"
    text = (tree / "etc/keepalived/keepalived.conf").read_text()
    config.write_text(text.replace("/etc/keepalived/", f"{tree}/etc/keepalived/"))
    interface = f"ip link add {STAND_IN_INTERFACE} type veth peer name peer"
    keepalived = shlex.join(command("keepalived", debian_13_s=debian_13_s))
    # As on a load balancer: the folder of the tracked files, and the package's file that newer ones read first.
    place = "mount -t tmpfs none /run && mkdir /run/ha-api && "
    if debian_13_s:
        place += f"mount --bind {debian_13.FOLDER}/etc/keepalived /etc/keepalived && "
    script = f"{place}{interface} && exec {keepalived} --config-test --use-file {config}"
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", script],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_kernel_accepts_the_limits_of_new_connections():
    # Twice, as at each reload: they replace themselves.
    limits = EXPECTED / "frontends" / HOSTS[0] / NEW_CONNECTIONS
    command = f"nft -f {limits} && nft -f {limits} && nft list ruleset"
    loaded = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", command],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for frontend in FRONTENDS:
        assert len(re.findall(rf"tcp dport {frontend['port']} .* drop .*{frontend['name']}", loaded)) == 1


def test_a_configuration_that_haproxy_refuses_fails_its_check(tmp_path: Path):
    broken = tmp_path / "haproxy.cfg"
    broken.write_text("frontend apiserver\n    bind *:6443\n    default_backend nowhere\n")
    assert subprocess.run(["haproxy", "-c", "-q", "-f", broken], check=False, capture_output=True).returncode != 0


def scripts() -> dict[str, str]:
    every = Settings.parse(
        example_values(
            aptProxy="http://proxy:3142", aptNoProxy='["mirror"]', aptMirror="http://mirror/debian", haproxyBranch="3.0"
        )
    )
    plain = Settings.parse(example_values())
    host = LoadBalancerHost(
        name="k8s-lb-0",
        address=IPv4Address("198.51.100.11"),
        peer_address=IPv4Address("198.51.100.12"),
        interface="ens3",
        pair=LoadBalancerPair.from_settings(
            plain,
            vip=IPv4Address("198.51.100.100"),
            control_plane={"k8s-cp-0": IPv4Address("198.51.100.21")},
            workers={},
        ),
    )
    return {
        "prepare": prepare_script(every, host.address),
        "prepare without mirror": prepare_script(plain, host.address),
        "install": install_script(plain),
        "install a branch": install_script(every),
        "pair-key": pair_key_script("00" * 32),
        "configure": configure_script(host, load_balancer_files(host)),
        "prove": prove_script(host.pair.vip, host.interface, host.address),
    }


@pytest.mark.parametrize("step", scripts())
def test_shellcheck_finds_nothing_in_the_scripts(step: str):
    # SC2317: ShellCheck does not see that `run` calls functions.
    result = subprocess.run(
        ["shellcheck", "--exclude=SC2317", "-"], input=scripts()[step], check=False, capture_output=True, text=True
    )
    assert result.stdout == ""


@pytest.mark.parametrize("script", [EXPECTED / "default/k8s-lb-0" / FILES[2], LOAD_BALANCER_TEMPLATES / PROGRAMS[0]])
def test_shellcheck_finds_nothing_in_the_scripts_that_keepalived_runs(script: Path):
    subprocess.run(["shellcheck", script], check=True)
