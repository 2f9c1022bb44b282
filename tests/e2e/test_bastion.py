"""A stack on a tenant network that is reached through a bastion alone, and a bastion that dies during an `up`.

The bastion's user and the type of its host key differ from the hosts'. The security groups admit nobody else.
"""

import asyncio
import os
import re
import signal
import subprocess
from base64 import b64encode
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.lab.cloud import IMAGE, NETWORK, TENANT_NETWORK, TENANT_SUBNET
from dev.lab.progress import console
from dev.lab.settings import LabSettings
from dev.lab_stack import ssh_key
from model.topology import API_PORT
from operate.hosts.pair import wait_for
from operate.hosts.ssh import Access
from operate.stack.engine import PULUMI
from program.holder import answering_load_balancer
from tests.e2e.harness import System, findings, start

NAME = "lab-bastion"
USER = "jump"
HOSTS = ("behind-lb-0", "behind-lb-1", "behind-cp-0")
SOCKS_PORT = 20_080
# An address of the subnet outside of Neutron's pool.
OTHER_VIP = str(LabSettings.from_environ().tenant_network[230])
STOP_SECONDS, BOOT_SECONDS = 120, 300  # on a machine that does other things as well


class Bastion:
    """A small instance with a floating IP; `inside` is its address on the tenant network."""

    def __init__(self, member: Any, folder: Path) -> None:
        self._compute, self._network = member.compute, member.network
        self.remove()
        key = folder / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", "", "-f", key], check=True)
        self.host_key = key.with_suffix(".pub").read_text().strip()
        admins = f"{LabSettings.from_environ().instance_gateway}/32"
        group = self._network.create_security_group(name=NAME)
        self._network.create_security_group_rule(
            security_group_id=group.id, direction="ingress", ethertype="IPv4", protocol="tcp",
            port_range_min=22, port_range_max=22, remote_ip_prefix=admins,
        )  # fmt: skip
        port = self._network.create_port(
            name=NAME, network_id=self._network.find_network(TENANT_NETWORK).id, security_group_ids=[group.id]
        )
        self._port = port
        self.inside = str(port.fixed_ips[0]["ip_address"])
        user_data = {
            "users": [{"name": USER, "ssh_authorized_keys": [ssh_key().public], "sudo": "ALL=(ALL) NOPASSWD:ALL"}],
            "ssh_keys": {"ecdsa_private": key.read_text(), "ecdsa_public": self.host_key},
        }
        self._server = self._compute.create_server(
            name=NAME,
            image_id=member.image.find_image(IMAGE).id,
            flavor_id=self._compute.find_flavor("lab.small").id,
            networks=[{"port": port.id}],
            user_data=b64encode(f"#cloud-config\n{yaml.safe_dump(user_data)}".encode()).decode(),
        )
        external = self._network.find_network(NETWORK).id
        floating = self._network.create_ip(floating_network_id=external, port_id=port.id, description=NAME)
        self.address = str(floating.floating_ip_address)

    def wait_until_it_answers(self) -> None:
        self._compute.wait_for_server(self._server, wait=BOOT_SECONDS)
        wait_for(f"{self.address} answers", lambda: bool(self.key_types()), BOOT_SECONDS)

    def key_types(self) -> set[str]:
        """The types of its host keys, as anybody sees them; none without an answer."""
        scan = subprocess.run(["ssh-keyscan", "-T", "2", self.address], capture_output=True, text=True, check=False)
        return {line.split()[1] for line in scan.stdout.splitlines()}

    def stop(self) -> None:
        self._compute.stop_server(self._server)
        self._compute.wait_for_server(self._server, status="SHUTOFF", wait=STOP_SECONDS, interval=0.5)

    def start(self) -> None:
        self._compute.start_server(self._server)
        self._compute.wait_for_server(self._compute.get_server(self._server), wait=BOOT_SECONDS, interval=0.5)
        self.wait_until_it_answers()

    def hold(self, address: str) -> None:
        """Answer for another address, as a load balancer does that was built manually."""
        self._network.update_port(self._port, allowed_address_pairs=[{"ip_address": address}])
        known_hosts = f"{self.address} {self.host_key}\n"
        access = Access(user=USER, private_key=ssh_key().private, known_hosts=known_hosts)
        asyncio.run(access.run(self.address, f"sudo ip address add {address}/32 dev eth0"))

    def address_pairs(self) -> list[Any]:
        return self._network.get_port(self._port).allowed_address_pairs

    def remove(self) -> None:
        for server in list(self._compute.servers(name=f"^{NAME}$")):
            self._compute.delete_server(server)
            self._compute.wait_for_delete(server, wait=STOP_SECONDS)
        for address in list(self._network.ips(description=NAME)):
            self._network.delete_ip(address)
        for port in list(self._network.ports(name=NAME)):
            self._network.delete_port(port)
        for group in list(self._network.security_groups(name=NAME)):
            self._network.delete_security_group(group)


@pytest.fixture(scope="module")
def bastion(member: Any, tmp_path_factory: pytest.TempPathFactory) -> Generator[Bastion]:
    bastion = Bastion(member, tmp_path_factory.mktemp("bastion"))
    try:
        bastion.wait_until_it_answers()
        yield bastion
    finally:
        bastion.remove()


@pytest.fixture(scope="module")
def behind(bastion: Bastion) -> Generator[System]:
    """A stack that was never brought up."""
    only = [f"{bastion.inside}/32"]
    system = System(
        NAME,
        "behind",
        network=TENANT_NETWORK,
        subnet=TENANT_SUBNET,
        adminCidrs=only,
        apiAllowedCidrs=only,
        bastionHost=bastion.address,
        bastionUser=USER,
        bastionHostKey=bastion.host_key,
    )
    system.delete_leftovers()
    system.configure()
    yield system
    system.destroy()


def test_the_bastion_has_nothing_in_common_with_the_hosts(bastion: Bastion):
    assert bastion.key_types() == {"ecdsa-sha2-nistp256"}


def test_preflight_logs_in_to_the_bastion(behind: System, bastion: Bastion):
    found = findings(behind.ha("preflight", "--json"))
    assert found[f"bastion {bastion.address}"]["result"] == "ok"
    assert bastion.inside in found["SSH from the bastion"]["found"]
    assert found["SSH from the bastion"]["result"] == "ok"
    assert found["forwarding by the bastion"]["result"] == "ok"


@pytest.mark.extended
def test_an_up_names_the_bastion_that_dies(behind: System, bastion: Bastion):
    """tests/toolchain/test_bastion.py shows the same in every run, without a cloud."""
    behind.configure(sshTimeout=90)  # so long do steps that have not logged in yet wait for the bastion
    shown: list[str] = []
    stopped = False
    with start(PULUMI, "up", "--yes", "--skip-preview", "--non-interactive", "--stack", behind.name) as up:
        try:
            assert up.stdout
            for line in up.stdout:
                shown.append(line)
                if "behind-lb-0-install creating" in line and not stopped:
                    stopped = True  # the line is shown again with each thing that the step says
                    bastion.stop()
        finally:
            if up.poll() is None:
                os.killpg(up.pid, signal.SIGINT)
    text = "".join(shown)
    console.print(text, markup=False)
    assert up.returncode != 0
    # Hosts that were booting were waited for.
    assert re.search(r"behind-lb-0-prepare created", text)
    blamed = re.search(r"error: behind-lb-0-install has no connection to behind-lb-0: .*", text)
    assert blamed
    for words in (
        f"the bastion {bastion.address}",
        "does not answer on port 22",
        "start it",
        "`pulumi up` again",
    ):
        assert words in blamed[0]
    found = findings(behind.ha("preflight", "--json", status=1))
    assert found[f"bastion {bastion.address}"]["found"].startswith("does not answer on port 22")
    bastion.start()


def test_an_up_goes_through_the_bastion(behind: System):
    behind.up()
    assert behind.has_no_changes()


def test_the_printed_commands_log_in_as_printed(behind: System, tmp_path: Path):
    (tmp_path / "known_hosts").write_text(behind.pulumi("stack", "output", "knownHosts").stdout)
    commands = yaml.safe_load(behind.pulumi("stack", "output", "sshCommands", "--json").stdout)
    assert commands.keys() == {*HOSTS}
    # As a user with the key in an agent, and without a configuration.
    script = [
        f"ssh-add -q {ssh_key().private_file}",
        *(f"{command} -o BatchMode=yes hostname" for command in commands.values()),
    ]
    done = subprocess.run(
        ["ssh-agent", "sh", "-ec", "\n".join(script)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.stdout.split(), done.returncode) == ([*commands], 0), done.stderr


def test_the_endpoint_answers_inside_alone_and_through_the_bastion_s_tunnel(
    behind: System, bastion: Bastion, tmp_path: Path
):
    behind.stand_ins().install()
    behind.wait_until_whole()
    assert answering_load_balancer(behind.outputs.vip) is None
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(behind.outputs.known_hosts)
    tunnel = [
        "ssh", "-F", "none", "-i", ssh_key().private_file, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
        "-o", f"UserKnownHostsFile={known_hosts}", "-o", "ExitOnForwardFailure=yes",
        "-N", "-D", f"127.0.0.1:{SOCKS_PORT}", f"{USER}@{bastion.address}",
    ]  # fmt: skip
    curl = ["curl", "--silent", "--insecure", "--max-time", "5", "--proxy", f"socks5h://127.0.0.1:{SOCKS_PORT}"]
    url = f"https://{behind.outputs.vip}:{API_PORT}/readyz"
    with subprocess.Popen(tunnel) as process:
        try:
            wait_for(
                "the tunnel", lambda: subprocess.run([*curl, url], check=False, capture_output=True).returncode == 0, 30
            )
        finally:
            process.terminate()


def test_the_commands_of_ha_work_through_the_bastion(behind: System, tmp_path: Path):
    assert "holds it" in behind.ha("status").words
    holder, standby = behind.holder_and_standby()
    moved = behind.ha("move", "--yes").words
    assert f"{standby} holds the VIP" in moved
    assert "not measured" in moved
    assert "behind-cp-0" in behind.ha("status").words
    behind.ha("drain", "--yes", holder)
    behind.ha("resume", holder)
    _, bundled = behind.bundle(tmp_path / "bundle.tar.gz")
    for name in behind.outputs.load_balancers:
        assert f"{name}/unavailable.txt" not in bundled
        assert any(it.startswith(f"{name}/journal/") for it in bundled)
    refused = behind.ha("drill", "--yes", status=2).words
    assert "as its clients do" in refused
    behind.ha("drill", "--undo")
    behind.ha("monitoring", "--output", tmp_path / "monitoring")
    behind.ha("guard")
    behind.wait_until_whole()


@pytest.mark.extended
def test_an_instance_is_rebuilt_through_the_bastion(behind: System):
    _, standby = behind.holder_and_standby()
    behind.ha("rebuild", "--yes", standby)
    behind.wait_until_whole()


@pytest.mark.extended
def test_a_vip_is_taken_over_through_the_bastion(behind: System, bastion: Bastion):
    """From the bastion itself."""
    bastion.hold(OTHER_VIP)
    behind.config["vip"] = OTHER_VIP
    behind.configure()
    assert f"holds {OTHER_VIP}" in behind.ha("takeover", "--yes", NAME).words
    assert bastion.address_pairs() == []
    assert behind.has_no_changes()
    behind.up()
    behind.wait_until_whole()


def test_a_dead_host_is_not_taken_for_a_dead_bastion(behind: System, bastion: Bastion):
    _, standby = behind.holder_and_standby()
    behind.pair.stop(standby)
    try:
        shown = behind.ha("status", status=1).words
        assert f"problem {standby}: " in shown
        assert "the bastion" not in shown
    finally:
        behind.pair.start(standby)
    behind.wait_until_whole()
    bastion.stop()
    try:
        assert f"the bastion {bastion.address}: does not answer on port 22" in behind.ha("status", status=1).words
    finally:
        bastion.start()
