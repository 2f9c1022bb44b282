"""How hosts are reached: key pair, time limit, bastion; and the type of the hosts' own keys."""

from enum import Enum, StrEnum, auto
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from model.settings.fields import HostName, LoginUser, Model, PublicKey, Text


class HostKeyType(StrEnum):
    """The type of a host key, as ssh-keygen (`-t`) and cloud-init (`ssh_keys`) call it."""

    ED25519 = "ed25519"
    ECDSA = "ecdsa"

    @classmethod
    def of(cls, public_key: str) -> "HostKeyType":
        """The type of a public key in OpenSSH format that the program has created."""
        return cls.ED25519 if public_key.startswith("ssh-ed25519 ") else cls.ECDSA


class BastionFault(Enum):
    """Why a bastion lets no connection through. That it does not reach the host behind it is none of these."""

    UNREACHABLE = auto()
    HOST_KEY = auto()
    LOGIN = auto()
    FORWARDING = auto()


class BastionSettings(Model):
    """A bastion: a jump host for SSH."""

    host: str
    port: int
    user: str
    host_key: str

    @property
    def known_hosts(self) -> str:
        """Its line in a known_hosts file, with the newline (sshd(8): the port is part of the name, unless it is 22)."""
        name = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        return f"{name} {self.host_key}\n"

    def problem(self, fault: BastionFault) -> tuple[str, str]:
        """What is wrong with it, and what to do."""
        match fault:
            case BastionFault.UNREACHABLE:
                return f"does not answer on port {self.port}", "start it, or correct bastionHost or bastionPort"
            case BastionFault.HOST_KEY:
                return (
                    "its host key is not bastionHostKey",
                    f"compare with `ssh-keyscan -p {self.port} {self.host}`, and find out why it changed",
                )
            case BastionFault.LOGIN:
                return (
                    f"refuses {self.user} with sshPrivateKey",
                    "correct bastionUser, or install the public key there",
                )
            case BastionFault.FORWARDING:
                return (
                    f"does not forward connections for {self.user}",
                    "allow them in its sshd_config (AllowTcpForwarding, PermitOpen)",
                )


class SshSettings(Model):
    """SSH to every host."""

    key_pair: Text
    public_key: PublicKey
    ssh_timeout: Annotated[int, Field(ge=10, le=7200)]
    bastion_host: HostName
    bastion_port: Annotated[int, Field(ge=1, le=65535)]
    bastion_user: LoginUser
    bastion_host_key: PublicKey
    host_key_type: HostKeyType
    login_public_key: str
    """Public half of `sshPrivateKey` in OpenSSH format; empty where secrets are unreadable."""

    @field_validator("public_key")
    @classmethod
    def _one_key(cls, value: str, info: ValidationInfo) -> str:
        if "key_pair" in info.data and bool(value) == bool(info.data["key_pair"]):
            both = "are both set" if value else "are both empty"
            raise ValueError(f"publicKey and keyPair {both}; set exactly one of them")
        return value

    @field_validator("bastion_host_key")
    @classmethod
    def _pinned_bastion(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("bastion_host") and not value:
            raise ValueError("is empty, but bastionHost is set; use the last two words of a line of `ssh-keyscan HOST`")
        return value

    @property
    def bastion(self) -> BastionSettings | None:
        """The bastion, if one is configured."""
        if not self.bastion_host:
            return None
        return BastionSettings(
            host=self.bastion_host, port=self.bastion_port, user=self.bastion_user, host_key=self.bastion_host_key
        )

    def key_mismatch(self, public_key: str) -> list[str]:
        """The problem, if any: `sshPrivateKey` belongs to another OpenSSH public key than this one."""
        if self.login_public_key.split()[:2] == public_key.split()[:2]:
            return []
        return ["sshPrivateKey does not belong to the public key that the hosts get; set the private key of that pair"]
