"""The lab keeps what it promises: a cloud that bears load, copies in bulk, enforces its rules and survives a stop.

First by its name, for the other tests stand on it; and one of these stops the lab, with all that is on it.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dev.lab import host_network
from dev.lab.cloud import IMAGE, NETWORK, Cloud, connect
from dev.lab.container import Container
from dev.lab.kubernetes import repository, versions
from dev.lab.settings import LabSettings

PARALLEL_REQUESTS = 50
BULK_MIB = 200
SERVICES_MEMORY_GIB = 4
NAME = "lab-test"
HOST_NETWORK = 2  # NamespaceMode.NODE of the CRI

INSTALL_RUNTIME = """
set -euo pipefail
mkdir -p /etc/apt/keyrings /etc/containerd/certs.d/registry.k8s.io
cat >/etc/apt/keyrings/kubernetes.asc <<'END'
{key}
END
echo 'deb [signed-by=/etc/apt/keyrings/kubernetes.asc] {source} /' >/etc/apt/sources.list.d/kubernetes.list
cat >/etc/containerd/registry-ca.crt <<'END'
{authority}
END
cat >/etc/containerd/certs.d/registry.k8s.io/hosts.toml <<'END'
[host."{registry}"]
  capabilities = ["pull", "resolve"]
  ca = "/etc/containerd/registry-ca.crt"
END
cat >/etc/containerd/config.toml <<'END'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:{pause}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
END
echo 'runtime-endpoint: unix:///run/containerd/containerd.sock' >/etc/crictl.yaml
export DEBIAN_FRONTEND=noninteractive
apt-get update --error-on=any
apt-get install --yes --no-install-recommends -o Dpkg::Options::=--force-confold containerd cri-tools
"""


class Instance:
    """An instance of the lab, and its port, reached over SSH."""

    def __init__(self, address: str, port: str, key: Path) -> None:
        self.address = address
        self.port = port
        self._ssh = ["ssh", "-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        self._ssh += ["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", f"debian@{address}"]

    def run(self, command: str, timeout: float = 60, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*self._ssh, command], input=stdin, capture_output=True, timeout=timeout, check=False)

    def wait_for_ssh(self) -> None:
        wait_until(lambda: self.run("true").returncode == 0, 300, f"SSH on {self.address}")


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def settings() -> LabSettings:
    return LabSettings.from_environ()


@pytest.fixture(scope="module")
def member(settings: LabSettings) -> Any:
    assert Container(settings).pid() is not None, "the lab does not run: start it with `make lab-up`"
    return connect(settings, "lab")


@pytest.fixture(scope="module")
def instances(member: Any, tmp_path_factory: pytest.TempPathFactory) -> Generator[list[Instance]]:
    """Two instances with SSH open to the host, made and removed by the ordinary project member."""
    key = tmp_path_factory.mktemp("ssh") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    _remove(member)
    member.compute.create_keypair(name=NAME, public_key=key.with_suffix(".pub").read_text())
    group = member.network.create_security_group(name=NAME)
    for protocol in ("icmp", "tcp"):
        ports = {"port_range_min": 22, "port_range_max": 22} if protocol == "tcp" else {}
        member.network.create_security_group_rule(
            security_group_id=group.id, direction="ingress", ethertype="IPv4", protocol=protocol, **ports
        )
    network = member.network.find_network(NETWORK)
    made: list[Instance] = []
    for index in range(2):
        port = member.network.create_port(name=NAME, network_id=network.id, security_group_ids=[group.id])
        member.compute.create_server(
            name=f"{NAME}-{index}",
            image_id=member.image.find_image(IMAGE).id,
            flavor_id=member.compute.find_flavor("lab.small").id,
            key_name=NAME,
            networks=[{"port": port.id}],
        )
        made.append(Instance(port.fixed_ips[0]["ip_address"], port.id, key))
    for instance in made:
        instance.wait_for_ssh()
    yield made
    _remove(member)


def _remove(member: Any) -> None:
    for server in list(member.compute.servers(name=f"^{NAME}")):
        member.compute.delete_server(server)
        member.compute.wait_for_delete(server, wait=120)
    for port in list(member.network.ports(name=NAME)):
        member.network.delete_port(port)
    for group in list(member.network.security_groups(name=NAME)):
        member.network.delete_security_group(group)
    member.compute.delete_keypair(NAME, ignore_missing=True)


@pytest.mark.parametrize(
    ("service", "path", "key"),
    [
        ("identity", "/v3/projects", "projects"),
        ("image", "/v2/images", "images"),
        ("placement", "/resource_providers", "resource_providers"),
        ("compute", "/servers/detail", "servers"),
        ("network", "/v2.0/ports", "ports"),
    ],
)
def test_an_api_answers_fifty_requests_at_once(settings: LabSettings, service: str, path: str, key: str) -> None:
    session: Any = connect(settings, "lab-admin").session
    # Where a service's endpoint already has the version in it, the path here has none.
    url = session.get_endpoint(service_type=service, interface="public").removesuffix("/v3") + path
    together = threading.Barrier(PARALLEL_REQUESTS)

    def ask(_: int) -> Any:
        together.wait(timeout=30)
        return session.get(url, headers={"Accept": "application/json"}, timeout=60, connect_retries=0).json()

    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        answers = list(pool.map(ask, range(PARALLEL_REQUESTS)))
    assert all(key in answer for answer in answers)
    assert len(answers) == PARALLEL_REQUESTS


def test_the_services_stay_within_their_memory(settings: LabSettings) -> None:
    assert 0 < Container(settings).memory() < SERVICES_MEMORY_GIB * 2**30


def test_an_instance_reaches_the_package_mirrors(instances: list[Instance]) -> None:
    updated = instances[0].run("sudo apt-get update --error-on=any", timeout=180)
    assert updated.returncode == 0, updated.stderr.decode()


def test_the_image_leaves_the_program_its_work(instances: list[Instance]) -> None:
    found = instances[0].run("dpkg-query --show --showformat '${Package}\n'").stdout.decode().split()
    assert "cloud-init" in found
    assert not {"keepalived", "haproxy", "firewalld"} & set(found)


def test_no_instance_has_processes_of_another_in_its_units(instances: list[Instance]) -> None:
    """Its systemd cannot signal them and waits for them to end, and a login waits for systemd: two minutes."""
    # Both have a session then. A process that is not in the reader's own namespace is listed as 0.
    list_foreign = (
        "sleep 2; here=$(findmnt --noheadings --output TARGET --types cgroup2)"
        "$(sed -n s/^0:://p /proc/1/cgroup | xargs dirname); "
        "find $here/*.slice -name cgroup.procs | tee /dev/stderr | xargs grep --with-filename ^0"
    )

    def listed(instance: Instance) -> subprocess.CompletedProcess[bytes]:
        return instance.run(list_foreign)

    with ThreadPoolExecutor(len(instances)) as pool:
        for done in pool.map(listed, instances):
            assert b"user@1000.service" in done.stderr
            assert done.stdout == b""


def test_a_pod_s_sandbox_starts_in_an_instance(settings: LabSettings, instances: list[Instance]) -> None:
    """With the lab's packages and images, as on a site without Internet. Both have one, each in a cgroup of its own."""
    script = INSTALL_RUNTIME.format(
        source=f"{settings.packages_url}/{repository.PATH}/",
        key=settings.packages_key.read_text(),
        registry=settings.registry_url,
        authority=settings.registry_authority.read_text(),
        pause=versions.TAGS["pause"],
    )
    for index, instance in enumerate(instances):
        installed = instance.run("sudo bash", timeout=300, stdin=script.encode())
        assert installed.returncode == 0, installed.stderr.decode()
        pod = {
            "metadata": {"name": NAME, "namespace": "default", "uid": NAME},
            "linux": {
                "cgroup_parent": f"/{NAME}-{index}",
                "security_context": {"namespace_options": {"network": HOST_NETWORK}},
            },
        }
        started = instance.run("cat >pod.json && sudo crictl runp pod.json", stdin=json.dumps(pod).encode())
        assert started.returncode == 0, started.stderr.decode()
        assert instance.run("sudo crictl pods --quiet --state Ready").stdout.split() == started.stdout.split()
    for index, instance in enumerate(instances):
        found = instance.run(f"sudo find /sys/fs/cgroup -name '{NAME}-*' -printf '%f\\n' | sort --unique").stdout
        assert found.decode().split() == [f"{NAME}-{index}"]


def test_an_instance_does_not_change_the_machine_s_kernel_settings(instances: list[Instance]) -> None:
    for name in ("kernel/panic", "vm/overcommit_memory", "kernel/keys/root_maxkeys"):
        path = Path("/proc/sys") / name
        before = int(path.read_text())
        written = instances[0].run(f"echo {before + 1} | sudo tee {path} && cat {path}")
        assert written.stdout.split() == [str(before + 1).encode()] * 2
        assert int(path.read_text()) == before


def test_every_hop_has_one_mtu(member: Any, instances: list[Instance]) -> None:
    guest = int(instances[0].run("cat /sys/class/net/eth0/mtu").stdout)
    assert guest == member.network.find_network(NETWORK).mtu == host_network.MTU
    for link in host_network.LINKS:
        assert int((Path("/sys/class/net") / link / "mtu").read_text()) == guest


def test_a_bulk_copy_into_an_instance_ends(instances: list[Instance]) -> None:
    arrived = instances[0].run("wc --bytes", timeout=120, stdin=bytes(BULK_MIB * 2**20))
    assert int(arrived.stdout) == BULK_MIB * 2**20


def test_a_bulk_copy_out_of_an_instance_ends(instances: list[Instance]) -> None:
    arrived = instances[0].run(f"head --bytes={BULK_MIB}M /dev/zero", timeout=120)
    assert len(arrived.stdout) == BULK_MIB * 2**20


def test_a_vip_answers_only_with_its_address_pair(
    settings: LabSettings, member: Any, instances: list[Instance]
) -> None:
    holder, other = instances
    vip = str(settings.instance_network[240])
    assert holder.run(f"sudo ip address replace {vip}/32 dev eth0").returncode == 0

    def answers() -> bool:
        return other.run(f"sudo ip neigh flush all; ping -c 1 -W 1 {vip}").returncode == 0

    assert not answers()
    member.network.update_port(holder.port, allowed_address_pairs=[{"ip_address": vip}])
    wait_until(answers, 30, "the VIP's answer")
    member.network.update_port(holder.port, allowed_address_pairs=[])
    wait_until(lambda: not answers(), 30, "the VIP's silence")


def test_an_instance_survives_a_stop_and_a_start_of_the_lab(settings: LabSettings, instances: list[Instance]) -> None:
    survivor = instances[0]
    assert survivor.run("echo precious | sudo tee /root/kept && sync").returncode == 0
    _forget_a_disk()
    _lab("down")
    assert Container(settings).pid() is None
    assert not [link for link in host_network.LINKS if (Path("/sys/class/net") / link).exists()]
    for leftovers in (["iptables-save"], ["losetup", "--list"], ["mount"], ["ps", "-eo", "args"]):
        shown = subprocess.run(leftovers, capture_output=True, text=True, check=True).stdout
        assert "openstack-ha-api-lab" not in shown
        assert str(settings.state) not in shown
        assert "/var/lib/nova/instances" not in shown
    _lab("up")
    survivor.wait_for_ssh()
    assert survivor.run("sudo cat /root/kept").stdout == b"precious\n"
    assert Cloud(settings).can_boot_instances()


def _forget_a_disk() -> None:
    """A loop device of an instance that is gone, as Nova leaves one now and then; the kernel shows no more of it."""
    disk = Path("/var/lib/nova/instances/gone_del/disk")
    disk.parent.mkdir(parents=True)
    disk.write_bytes(bytes(2**20))
    subprocess.run(["losetup", "--find", disk], check=True)
    disk.unlink()
    os.removedirs(disk.parent)


def _lab(command: str) -> None:
    subprocess.run([sys.executable, "-m", "dev.lab", command], check=True, timeout=400)
