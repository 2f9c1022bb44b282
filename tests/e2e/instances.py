"""Instances of the lab without the program: made by the ordinary project member, reached over SSH."""

import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from dev.lab.cloud import IMAGE, NETWORK
from model.rendering import user_data
from operate.hosts.pair import wait_for

NAME = "lab-test"


def host_key() -> tuple[str, str]:
    """For an instance's user data: the private and the public key."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


class Instance:
    """An instance of the lab, and its port, reached over SSH. `key` is what logs in; beside it is known_hosts."""

    def __init__(self, address: str, port: str, key: Path) -> None:
        self.address = address
        self.port = port
        self._key = key
        self._ssh = ["ssh", "-i", str(key), "-o", f"UserKnownHostsFile={key.with_name('known_hosts')}"]
        self._ssh += [
            "-o",
            f"HostKeyAlias={NAME}",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=5",
            f"debian@{address}",
        ]

    def at(self, address: str) -> "Instance":
        """The same, reached at another address."""
        return Instance(address, self.port, self._key)

    def run(self, command: str, timeout: float = 60, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*self._ssh, command], input=stdin, capture_output=True, timeout=timeout, check=False)

    def wait_for_ssh(self) -> None:
        wait_for(f"SSH on {self.address}", lambda: self.run("true").returncode == 0, 300)


class Instances:
    """Makes instances with SSH open to all who reach them, and removes them."""

    def __init__(self, member: Any, folder: Path) -> None:
        self._member = member
        self._key = folder / "id"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._key], check=True)
        # All have one, so that a floating IP may lead to any of them.
        host_private, host_public = host_key()
        (folder / "known_hosts").write_text(f"{NAME} {host_public}\n")
        self._user_data = b64encode(user_data(host_private, host_public).encode()).decode()
        self.remove()
        member.compute.create_keypair(name=NAME, public_key=self._key.with_suffix(".pub").read_text())
        self.group = member.network.create_security_group(name=NAME)
        for protocol in ("icmp", "tcp"):
            ports = {"port_range_min": 22, "port_range_max": 22} if protocol == "tcp" else {}
            member.network.create_security_group_rule(
                security_group_id=self.group.id, direction="ingress", ethertype="IPv4", protocol=protocol, **ports
            )

    def make(self, name: str, network: str = NETWORK) -> Instance:
        """An instance on a network; it boots meanwhile."""
        network_id = self._member.network.find_network(network, ignore_missing=False).id
        port = self._member.network.create_port(name=NAME, network_id=network_id, security_group_ids=[self.group.id])
        self._member.compute.create_server(
            name=f"{NAME}-{name}",
            image_id=self._member.image.find_image(IMAGE).id,
            flavor_id=self._member.compute.find_flavor("lab.small").id,
            key_name=NAME,
            networks=[{"port": port.id}],
            user_data=self._user_data,
        )
        return Instance(port.fixed_ips[0]["ip_address"], port.id, self._key)

    def remove(self) -> None:
        """Everything that was made, now or by a run that was killed."""
        compute, network = self._member.compute, self._member.network
        for server in list(compute.servers(name=f"^{NAME}")):
            compute.delete_server(server)
            compute.wait_for_delete(server, wait=120)
        for address in list(network.ips(description=NAME)):
            network.delete_ip(address)
        for port in list(network.ports(name=NAME)):
            network.delete_port(port)
        for group in list(network.security_groups(name=NAME)):
            network.delete_security_group(group)
        compute.delete_keypair(NAME, ignore_missing=True)
