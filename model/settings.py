"""The configuration's meaning: raw values in, frozen and validated `Settings` out, all errors at once.

The schema (types, defaults, descriptions) stands in Pulumi.yaml. Values arrive as the engine hands them over, that is
as text, arrays as JSON text. Every value that reaches a file or a command on a host is restricted here to characters
that mean nothing to HAProxy, keepalived, APT or a shell, so that a template never has to quote.

Secrets are checked here too, for a wrong one should fail as early as a wrong CIDR, but they are not part of `Settings`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, ClassVar, Literal, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from model.timers import PROFILES, Profile, Timers

SECRET_KEYS = frozenset({"apiClientCertificate", "sshPrivateKey", "vrrpPassword"})
"""Configuration keys whose values never appear in an error, a `Settings` or a rendered file."""


class ConfigurationError(Exception):
    """Everything that is wrong with the configuration, one line a problem.

    Each problem names the key, the value, the reason, and what to do.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the configuration was refused:\n" + "\n".join(f"  - {problem}" for problem in problems))
        self.problems = problems


class ServerGroupPolicy(StrEnum):
    """How Nova spreads the instances of a role (Nova API, server groups)."""

    SOFT_ANTI_AFFINITY = "soft-anti-affinity"
    ANTI_AFFINITY = "anti-affinity"
    NONE = "none"


def _plain_text(value: str) -> str:
    """Refuse what could become a second line of a file or a second word of a command."""
    if value != value.strip():
        raise ValueError("starts or ends with white space; remove it")
    if found := re.search(r"[\x00-\x1f\x7f\"'`$\\;&|<>{}()]", value):
        raise ValueError(f"contains {found.group()!r}, which has a meaning in a file or a shell; remove it")
    return value


def _json_array(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        raise ValueError("is not an array; write it as a list in the stack's file") from None


def _cidr(value: str) -> IPv4Network:
    try:
        return IPv4Network(value)
    except ValueError:
        pass
    try:
        fitting = IPv4Network(value, strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is not an IPv4 network; write it as 198.51.100.0/24") from None
    raise ValueError(f"{value!r} has bits set right of its prefix; did you mean {fitting}?")


def _without_overlap(cidrs: tuple[IPv4Network, ...]) -> tuple[IPv4Network, ...]:
    for i, wide in enumerate(cidrs):
        for narrow in cidrs[:i]:
            if wide.overlaps(narrow):
                raise ValueError(f"{narrow} and {wide} overlap; keep the wider one only")
    return cidrs


def _url(value: str) -> str:
    if value and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?", value):
        raise ValueError("is not a plain http(s) URL without user and query; write it as http://mirror.example/debian")
    return value.rstrip("/")


def _public_key(value: str) -> str:
    if value:
        try:
            load_ssh_public_key(value.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("is not an OpenSSH public key; take the content of a .pub file") from None
    return value


def _certificates(pem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise ValueError("is not a certificate in PEM format (-----BEGIN CERTIFICATE-----)") from None


def _ca_certificate(value: str) -> str:
    # Written anew, so that nothing else that stood in the text reaches a file.
    return _pem(_certificates(value)) if value else ""


def _pem(certificates: list[x509.Certificate]) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


Text = Annotated[str, AfterValidator(_plain_text)]
Required = Annotated[Text, Field(min_length=1)]
Cidr = Annotated[IPv4Network, BeforeValidator(_cidr)]
Cidrs = Annotated[tuple[Cidr, ...], BeforeValidator(_json_array), AfterValidator(_without_overlap)]
Addresses = Annotated[tuple[IPv4Address, ...], BeforeValidator(_json_array)]
Zones = Annotated[tuple[Required, ...], BeforeValidator(_json_array)]
Url = Annotated[Text, AfterValidator(_url)]
PublicKey = Annotated[Text, AfterValidator(_public_key)]
CaCertificate = Annotated[str, AfterValidator(_ca_certificate)]
# 0 takes the profile's.
Milliseconds = Annotated[int, Field(ge=0, le=60_000)]
# https://systemd.io/USER_NAMES: what is accepted everywhere.
LoginUser = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,30}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")


class RoleSettings(_Model):
    """What the configuration says of one role's instances."""

    count: int
    flavor: str
    image: str
    user: str
    availability_zones: tuple[str, ...]
    server_group_policy: ServerGroupPolicy


class BastionSettings(_Model):
    """A jump host for SSH."""

    host: str
    port: int
    user: str
    host_key: str


class Settings(_Model):
    """The whole configuration, validated. Durations are seconds."""

    LOAD_BALANCERS: ClassVar[Literal[2]] = 2

    network: Required
    subnet: Text
    vip: IPv4Address | None
    floating_network: Text
    cluster_name: str

    admin_cidrs: Annotated[Cidrs, Field(min_length=1)]
    api_allowed_cidrs: Cidrs
    api_servers: Addresses

    load_balancer_flavor: Required
    load_balancer_image: Required
    load_balancer_user: LoginUser
    load_balancer_availability_zones: Zones
    load_balancer_server_group_policy: ServerGroupPolicy

    control_plane_count: Annotated[int, Field(ge=0, le=99)]
    control_plane_flavor: Text
    control_plane_image: Text
    control_plane_user: LoginUser
    control_plane_availability_zones: Zones
    control_plane_server_group_policy: ServerGroupPolicy

    worker_count: Annotated[int, Field(ge=0, le=1000)]
    worker_flavor: Text
    worker_image: Text
    worker_user: LoginUser
    worker_availability_zones: Zones
    worker_server_group_policy: ServerGroupPolicy

    key_pair: Text
    public_key: PublicKey
    ssh_timeout: Annotated[int, Field(ge=10, le=7200)]
    bastion_host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]*$")]
    bastion_port: Annotated[int, Field(ge=1, le=65535)]
    bastion_user: LoginUser
    bastion_host_key: PublicKey

    apt_proxy: Url
    apt_mirror: Url
    haproxy_branch: Annotated[str, Field(pattern=r"^([23]\.\d{1,2})?$")]

    failover_profile: Profile
    advertisement_interval: Annotated[int, Field(ge=0, le=40_950)]
    missed_advertisements: Annotated[int, Field(ge=0, le=100)]
    watchdog_interval: Annotated[int, Field(ge=0, le=4000)]
    watchdog_failures: Annotated[int, Field(ge=0, le=100)]
    api_check_interval: Milliseconds
    api_check_timeout: Milliseconds
    api_connect_timeout: Milliseconds
    api_ca_certificate: CaCertificate

    vrrp_router_id: Annotated[int, Field(ge=1, le=255)]
    vrrp_authentication: bool
    api_client_certificate_set: bool
    login_public_key: str
    """Public half of `sshPrivateKey` in OpenSSH format; empty where secrets cannot be read."""

    @field_validator("vip", mode="before")
    @classmethod
    def _vip(cls, value: object) -> IPv4Address | None:
        if value == "":
            return None
        try:
            return IPv4Address(value)
        except ValueError:
            raise ValueError("is not an IPv4 address; give an unused address of the subnet, or nothing") from None

    @field_validator("cluster_name")
    @classmethod
    def _cluster_name(cls, value: str) -> str:
        # It begins host names: RFC 1123 labels have 63 characters, and "-worker-999" needs room.
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", value):
            raise ValueError(
                "begins host names, so it takes lower-case letters, digits and hyphens, starts with a letter, "
                "does not end with a hyphen, and has at most 40 characters"
            )
        return value

    @field_validator("api_servers")
    @classmethod
    def _others(cls, value: tuple[IPv4Address, ...], info: ValidationInfo) -> tuple[IPv4Address, ...]:
        if len({*value}) < len(value):
            raise ValueError("names an address twice; keep one of them")
        if info.data.get("vip") in value:
            raise ValueError(
                "names the VIP, so the load balancers would connect to themselves; name the servers behind it"
            )
        return value

    @field_validator("control_plane_count")
    @classmethod
    def _odd_control_plane(cls, value: int, info: ValidationInfo) -> int:
        if value == 0:
            if info.data.get("api_servers") == ():
                raise ValueError("is 0 and apiServers is empty, so there is nothing to serve; set one of them")
        elif value % 2 == 0:
            raise ValueError(
                f"is even: etcd's Raft needs a majority, so {value} members survive the loss of {value // 2 - 1}, "
                f"as {value - 1} do, and one more can fail; use {value - 1} or {value + 1}"
            )
        return value

    @field_validator("control_plane_flavor", "control_plane_image", "worker_flavor", "worker_image")
    @classmethod
    def _needed_with_instances(cls, value: str, info: ValidationInfo) -> str:
        count = f"{str(info.field_name).rpartition('_')[0]}_count"
        if not value and (wanted := info.data.get(count, 0)) > 0:
            raise ValueError(f"is empty, but {to_camel(count)} is {wanted}; set it, or set {to_camel(count)} to 0")
        return value

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
            raise ValueError(
                "is empty, but bastionHost is set; take the last two words of `ssh-keyscan -t ed25519 HOST`"
            )
        return value

    @field_validator("advertisement_interval")
    @classmethod
    def _hundredths(cls, value: int) -> int:
        if value % 10:
            raise ValueError(f"is no multiple of 10: VRRPv3 counts hundredths of a second; use {value // 10 * 10 + 10}")
        return value

    @field_validator("watchdog_interval", "api_check_interval", "api_check_timeout", "api_connect_timeout")
    @classmethod
    def _not_in_no_time(cls, value: int) -> int:
        if 0 < value < 20:
            raise ValueError("is shorter than 20 ms, in which a busy host does not answer; use 20 or more, or 0")
        return value

    @model_validator(mode="after")
    def _whole_seconds(self) -> Self:
        if self.vrrp_authentication and self.advertisement_interval % 1000:
            # The key goes first: this is a problem of two.
            raise ValueError(
                f"advertisementInterval = {self.advertisement_interval}: vrrpPassword selects VRRPv2, whose "
                "advertisements come in whole seconds (RFC 3768, 5.3.7); use 1000, or no password"
            )
        return self

    @model_validator(mode="after")
    def _noticed_in_time(self) -> Self:
        timers = self.timers
        # HAProxy spreads its checks by 5 %.
        noticed = timers.reachability_check_interval * 21 // 20 + timers.watchdog_interval
        if noticed >= timers.master_down_interval:
            raise ValueError(
                f"apiCheckInterval = {timers.api_check_interval}, watchdogInterval = {timers.watchdog_interval}: one "
                f"load balancer may notice {noticed} ms before the other that all API servers are gone, and after "
                f"{timers.master_down_interval} ms (advertisementInterval x missedAdvertisements) the VIP would move "
                "for it; check more often, or wait longer"
            )
        return self

    @property
    def timers(self) -> Timers:
        """The profile's timers, with those that are set in their place."""
        timers = PROFILES[self.failover_profile]
        if self.vrrp_authentication:
            timers = timers.in_whole_seconds()
        return replace(timers, **{field.name: own for field in fields(Timers) if (own := getattr(self, field.name))})

    @property
    def load_balancers(self) -> RoleSettings:
        """The load balancers' role."""
        return self._role("load_balancer", self.LOAD_BALANCERS)

    @property
    def control_plane(self) -> RoleSettings:
        """The control plane's role."""
        return self._role("control_plane", self.control_plane_count)

    @property
    def workers(self) -> RoleSettings:
        """The workers' role."""
        return self._role("worker", self.worker_count)

    @property
    def bastion(self) -> BastionSettings | None:
        """The jump host, if one is configured."""
        if not self.bastion_host:
            return None
        return BastionSettings(
            host=self.bastion_host, port=self.bastion_port, user=self.bastion_user, host_key=self.bastion_host_key
        )

    def _role(self, prefix: str, count: int) -> RoleSettings:
        fields = ("flavor", "image", "user", "availability_zones", "server_group_policy")
        return RoleSettings(count=count, **{field: getattr(self, f"{prefix}_{field}") for field in fields})

    def key_mismatch(self, public_key: str) -> list[str]:
        """The problem, if there is one, of an OpenSSH public key that `sshPrivateKey` does not belong to."""
        if self.login_public_key.split()[:2] == public_key.split()[:2]:
            return []
        return ["sshPrivateKey does not belong to the public key that the hosts get; set the private key of that pair"]

    @classmethod
    def parse(
        cls,
        values: Mapping[str, Any],
        *,
        unencrypted: frozenset[str] = frozenset(),
        secrets_are_readable: bool = True,
    ) -> Self:
        """Settings from raw values by their keys in Pulumi.yaml.

        `unencrypted` names the secret keys whose values stand in the stack's file in clear text. Without an engine
        secrets are ciphertext (`secrets_are_readable=False`), and only whether they are set is looked at.

        Raises `ConfigurationError` with every problem that was found.
        """
        problems: list[str] = []
        plain = {key: value for key, value in values.items() if key not in SECRET_KEYS}
        secret = {key: value for key, value in values.items() if key in SECRET_KEYS}
        plain["vrrpAuthentication"] = bool(secret.get("vrrpPassword"))
        plain["apiClientCertificateSet"] = bool(secret.get("apiClientCertificate"))
        plain["loginPublicKey"] = ""
        if secrets_are_readable:
            try:
                secrets = _Secrets.model_validate(secret)
                plain["loginPublicKey"] = _public_half(secrets.ssh_private_key.get_secret_value())
            except ValidationError as error:
                problems += _problems(error)
        settings: Self | None = None
        try:
            settings = cls.model_validate(plain)
        except ValidationError as error:
            problems += _problems(error)
        if settings and settings.public_key and settings.login_public_key:
            problems += settings.key_mismatch(settings.public_key)
        for key in sorted(unencrypted & {key for key, value in secret.items() if value}):
            problems.append(
                f"{key} stands in the stack's file in clear text; set it again with "
                f"`pulumi config set --secret {key}` and change the value, for it has been seen"
            )
        if problems or settings is None:
            raise ConfigurationError(problems)
        return settings


class _Secrets(_Model):
    """The secrets' rules. Instances live only as long as the check."""

    api_client_certificate: SecretStr
    ssh_private_key: SecretStr
    vrrp_password: SecretStr

    @field_validator("api_client_certificate")
    @classmethod
    def _certificate_and_its_key(cls, value: SecretStr) -> SecretStr:
        client_certificate_file(value.get_secret_value())
        return value

    @field_validator("ssh_private_key")
    @classmethod
    def _loadable(cls, value: SecretStr) -> SecretStr:
        _public_half(value.get_secret_value())
        return value

    @field_validator("vrrp_password")
    @classmethod
    def _vrrp_password(cls, value: SecretStr) -> SecretStr:
        password = value.get_secret_value()
        if len(password) > 8:
            raise ValueError(
                f"has {len(password)} characters, and VRRPv2 sends only 8 (RFC 2338, 5.3.6); use at most 8"
            )
        # keepalived.conf knows comments (# !), quotes, blocks, variables ($) and conditions (@ at a line's start).
        if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9@%+=:,./_-]*)?", password):
            raise ValueError("may hold letters, digits and @%+=:,./_- only, and starts with a letter or digit")
        return value


def client_certificate_file(pem: str) -> str:
    """What HAProxy's `crt` wants (certificates, then the key) of a PEM text; empty for an empty one.

    Raises `ValueError` for one that cannot be used.
    """
    if not pem:
        return ""
    certificates = _certificates(pem)
    block = re.search(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----\n?", pem, re.DOTALL)
    if not block:
        raise ValueError("holds no private key in PEM format; give certificate and key, one after the other")
    try:
        key = load_pem_private_key(block.group().encode(), password=None)
    except TypeError:
        raise ValueError("has a private key that is protected by a passphrase; give it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("has a private key that cannot be read") from None
    if key.public_key() != certificates[0].public_key():
        raise ValueError("has a private key that does not belong to its first certificate")
    return _pem(certificates) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _public_half(private_key: str) -> str:
    """The OpenSSH public key of a private one. Raises `ValueError` for one that cannot be used."""
    data = private_key.strip().encode() + b"\n"
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        return load(data, password=None).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    except TypeError:
        raise ValueError("is protected by a passphrase; give a key without one, kept as a secret") from None
    except (ValueError, UnsupportedAlgorithm, AttributeError):
        raise ValueError(
            "is not a private key in OpenSSH or PEM format; use `pulumi config set --secret sshPrivateKey < FILE`"
        ) from None


_REASONS = {
    "extra_forbidden": "is no key of this project; the keys stand in Pulumi.yaml",
    "string_too_short": "is empty; see its description in Pulumi.yaml",
    "too_short": "is empty; see its description in Pulumi.yaml",
}
"""Plainer words than the library's, by the library's error type."""


def _problems(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for item in error.errors(include_url=False):
        if not item["loc"]:  # of several keys together; the text names them
            lines.append(item["msg"].removeprefix("Value error, "))
            continue
        key = str(item["loc"][0])
        reason = _REASONS.get(item["type"], item["msg"].removeprefix("Value error, "))
        if item["type"] == "missing":
            lines.append(f"{key} is not set; see its description in Pulumi.yaml")
        elif key in SECRET_KEYS:
            lines.append(f"{key} (a secret) {reason}")
        else:
            lines.append(f"{key} = {item['input']!r}: {reason}")
    return lines
