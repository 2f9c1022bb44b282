"""Field types: what a value may be, and how it is normalized.

Every value that reaches a file or a command on a host is restricted to characters without a meaning for HAProxy,
keepalived, APT or a shell, so no template needs to quote.
"""

import json
import re
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_public_key
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """Base of all settings: immutable, keys in camel case as in Pulumi.yaml, unknown keys refused."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")


def _plain_text(value: str) -> str:
    """Refuse anything that could become a second line of a file or a second word of a command."""
    if value != value.strip():
        raise ValueError("starts or ends with white space; remove it")
    if found := re.search(r"[\x00-\x1f\x7f\"'`$\\;&|<>{}()]", value):
        raise ValueError(f"contains {found.group()!r}, which has a special meaning in a file or a shell; remove it")
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
                raise ValueError(f"{narrow} and {wide} overlap; keep only the wider one")
    return cidrs


def _url(value: str) -> str:
    if value and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?", value):
        raise ValueError("is not a plain http(s) URL without user or query; write it as http://mirror.example/debian")
    return value.rstrip("/")


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


Text = Annotated[str, AfterValidator(_plain_text)]
Required = Annotated[Text, Field(min_length=1)]
Cidr = Annotated[IPv4Network, BeforeValidator(_cidr)]
Cidrs = Annotated[tuple[Cidr, ...], BeforeValidator(_json_array), AfterValidator(_without_overlap)]
Addresses = Annotated[tuple[IPv4Address, ...], BeforeValidator(_json_array)]
Zones = Annotated[tuple[Required, ...], BeforeValidator(_json_array)]
Url = Annotated[Text, AfterValidator(_url)]
PublicKey = Annotated[Text, AfterValidator(_public_key)]
CaCertificate = Annotated[str, AfterValidator(_ca_certificate)]
# 0 means the profile's value.
Milliseconds = Annotated[int, Field(ge=0, le=60_000)]
# https://systemd.io/USER_NAMES: accepted everywhere.
LoginUser = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,30}$")]
