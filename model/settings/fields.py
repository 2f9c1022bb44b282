"""Field types: what a value may be, and how it is normalized.

Every value that reaches a file or a command on a host has a type of its own here, restricted to characters without a
meaning for HAProxy, keepalived, APT or a shell, so no template needs to quote. `Text` is for what only the cloud reads.

No reason quotes the text that it refuses: settings.py shows it with the key, unless it may be a secret. And no field
has a bare `pattern`, because its message would be the regular expression.
"""

import json
import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_public_key
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """Base of all settings: immutable, keys in camel case as in Pulumi.yaml, unknown keys refused."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")


def _as_text(value: object) -> str:
    """Text, as Pulumi's engine reads it: it makes text of numbers. Only for whole ones is that what was written."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    example = "no as false" if isinstance(value, bool) else "3.10 as the number 3.1"
    raise ValueError(f"is not text to YAML, which reads {example}; put it in quotes in the stack's file")


def _one_line(value: str) -> str:
    if value != value.strip():
        raise ValueError("starts or ends with white space; remove it")
    if found := re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", value):
        raise ValueError(f"contains {found.group()!r}, and no name has line breaks or control characters; remove it")
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
        raise ValueError("is not an IPv4 network; write it as 198.51.100.0/24") from None
    raise ValueError(f"has bits set right of its prefix; did you mean {fitting}?")


def _without_overlap(cidrs: tuple[IPv4Network, ...]) -> tuple[IPv4Network, ...]:
    for i, wide in enumerate(cidrs):
        for narrow in cidrs[:i]:
            if wide.overlaps(narrow):
                raise ValueError(f"{narrow} and {wide} overlap; keep only the wider one")
    return cidrs


def _url(value: str) -> str:
    if value and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?", value):
        raise ValueError("is not a plain http(s) URL without user or query; write it as http://mirror.example/debian")
    return value.rstrip("/")


def _name_or_ipv4(value: str) -> str:
    if ":" in value:
        raise ValueError("is an IPv6 address, for which APT has no exception from a proxy; use a name of that host")
    return value


def _proxy_url(value: SecretStr) -> SecretStr:
    # What APT, curl and Python's httplib2 all read. Other characters in a user's name or password are written as %40.
    login, host = r"[A-Za-z0-9._~%!*+,=-]+(:[A-Za-z0-9._~%!*+,=-]*)?@", r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])"
    if not re.fullmatch(rf"(https?://({login})?{host}(:[0-9]{{1,5}})?/?)?", value.get_secret_value()):
        raise ValueError(
            "is not the URL of a proxy; write it as http://proxy.example:3128, http://[2001:db8::1]:3128 or "
            "http://USER:PASSWORD@proxy.example:3128, with special characters in USER and PASSWORD as %40"
        )
    return value


_NOT_API_SERVERS = {
    IPv4Network("0.0.0.0/8"): 'means "this network" (RFC 1122, 3.2.1.3), not a host',
    IPv4Network("127.0.0.0/8"): "is loopback, so each load balancer would connect to itself",
    IPv4Network("169.254.0.0/16"): "is link-local, which no router forwards and the cloud itself uses",
    IPv4Network("224.0.0.0/4"): "is a multicast address, which does not accept connections",
    IPv4Network("240.0.0.0/4"): "is reserved (RFC 1112) or the broadcast address, which does not accept connections",
}


def _api_server(value: IPv4Address) -> IPv4Address:
    for network, reason in _NOT_API_SERVERS.items():
        if value in network:
            raise ValueError(f"{reason}; list the address at which the load balancers reach the API server")
    return value


def _cluster_name(value: str) -> str:
    # Host names start with it: an RFC 1123 label has 63 characters, and "-worker-999" needs room.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", value):
        raise ValueError(
            "cannot start a host name; use at most 40 lower-case letters, digits and hyphens, with a letter first "
            "and no hyphen last"
        )
    return value


def _login_user(value: str) -> str:
    # A portable name of POSIX (3.426), in as many characters as useradd accepts, and never an option of ssh.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", value):
        raise ValueError(
            "is not a login name; use at most 32 letters, digits, dots, hyphens and underscores, with no dot or hyphen "
            "first"
        )
    return value


def _host(value: str) -> str:
    # An IPv6 address has no zone here: that is a name on one machine, of any characters.
    if "%" not in value:
        with suppress(ValueError):
            return str(ip_address(value))
    # Names in /etc/hosts and of many local domains have underscores. A first hyphen would make an option of it.
    if not re.fullmatch(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)?", value):
        raise ValueError(
            "is not an address or a name; write an IPv6 address without brackets, and the port belongs in bastionPort"
        )
    return value


def _haproxy_branch(value: str) -> str:
    if not re.fullmatch(r"([23]\.[0-9]{1,2})?", value):
        raise ValueError(
            "is not a branch of HAProxy such as 3.0; put it in quotes in the stack's file, because YAML reads 3.0 as "
            "the number 3, and 3.10 as 3.1"
        )
    return value


def _public_key(value: str) -> str:
    if value:
        try:
            load_ssh_public_key(value.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("is not an OpenSSH public key; use the content of a .pub file") from None
    return value


def certificates(pem: str) -> list[x509.Certificate]:
    """All certificates of a PEM text. Raises `ValueError` for anything else."""
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise ValueError("is not a certificate in PEM format (-----BEGIN CERTIFICATE-----)") from None


def _ca_certificate(value: str) -> str:
    # Encoded again, so that nothing else in the text reaches a file.
    return pem_of(certificates(value)) if value else ""


def pem_of(certificates: list[x509.Certificate]) -> str:
    """The certificates in PEM, and nothing else that was in the text they were read from."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


_Scalar = Annotated[str, BeforeValidator(_as_text)]
# What only the cloud reads: whatever a cloud accepts as a name.
Text = Annotated[_Scalar, AfterValidator(_one_line)]
Required = Annotated[Text, Field(min_length=1)]
Cidr = Annotated[IPv4Network, BeforeValidator(_cidr)]
Cidrs = Annotated[tuple[Cidr, ...], BeforeValidator(_json_array), AfterValidator(_without_overlap)]
ApiServers = Annotated[tuple[Annotated[IPv4Address, AfterValidator(_api_server)], ...], BeforeValidator(_json_array)]
Zones = Annotated[tuple[Required, ...], BeforeValidator(_json_array)]
Url = Annotated[Text, AfterValidator(_url)]
PublicKey = Annotated[_Scalar, AfterValidator(_public_key), AfterValidator(_one_line)]
CaCertificate = Annotated[_Scalar, AfterValidator(_ca_certificate)]
# 0 means the profile's value.
Milliseconds = Annotated[int, Field(ge=0, le=60_000)]
ClusterName = Annotated[_Scalar, AfterValidator(_cluster_name)]
LoginUser = Annotated[_Scalar, AfterValidator(_login_user)]
HostName = Annotated[_Scalar, AfterValidator(_host)]
HostsWithoutProxy = Annotated[
    tuple[Annotated[HostName, Field(min_length=1), AfterValidator(_name_or_ipv4)], ...], BeforeValidator(_json_array)
]
# It may have a password.
ProxyUrl = Annotated[SecretStr, BeforeValidator(_as_text), AfterValidator(_proxy_url)]
HaproxyBranch = Annotated[_Scalar, AfterValidator(_haproxy_branch)]
