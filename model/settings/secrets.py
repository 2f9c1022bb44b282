"""The secrets' rules. They are checked as early as everything else, and are not part of `Settings`."""

import re
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHPrivateKeyTypes,
    load_pem_private_key,
    load_ssh_private_key,
)
from pydantic import SecretStr, field_validator

from model.settings.fields import Model, certificates, pem_of

SECRET_KEYS = frozenset({"apiClientCertificate", "sshPrivateKey", "vrrpPassword"})
"""Configuration keys whose values never appear in an error or in `Settings`."""


class Secrets(Model):
    """The secrets. An instance lives only as long as the check."""

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
        public_half(value.get_secret_value())
        return value

    @field_validator("vrrp_password")
    @classmethod
    def _vrrp_password(cls, value: SecretStr) -> SecretStr:
        password = value.get_secret_value()
        if len(password) > 8:
            raise ValueError(
                f"has {len(password)} characters, and VRRPv2 sends only 8 (RFC 2338, 5.3.6); use 6 to 8 characters"
            )
        if 0 < len(password) < 6:
            raise ValueError("has fewer than 6 characters, which are soon guessed; use 6 to 8, or no password")
        # keepalived.conf has comments (# !), quotes, blocks, variables ($) and conditions (@ at a line's start).
        if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9@%+=:,./_-]*)?", password):
            raise ValueError(
                "has a character with a meaning in keepalived.conf; use letters, digits and @%+=:,./_- only, "
                "with a letter or digit first"
            )
        return value


def client_certificate_file(pem: str) -> str:
    """What HAProxy's `crt` needs (certificates, then the key) from a PEM text; empty for an empty one.

    Raises `ValueError` for one that cannot be used.
    """
    if not pem:
        return ""
    chain = certificates(pem)
    block = re.search(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----\n?", pem, re.DOTALL)
    if not block:
        raise ValueError("has no private key in PEM format; set certificate and key, one after the other")
    try:
        key = load_pem_private_key(block.group().encode(), password=None)
    except TypeError:
        raise ValueError("has a private key with a passphrase; remove the passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("has a private key that cannot be read") from None
    if key.public_key() != chain[0].public_key():
        raise ValueError("has a private key that does not belong to its first certificate")
    return pem_of(chain) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_half(private_key: str) -> str:
    """The OpenSSH public key of a private one. Raises `ValueError` for one that cannot be used."""
    return _converted(private_key, lambda key: key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))


def openssh_private_key(private_key: str) -> str:
    """A private key as the command ssh reads it: it refuses CRLF in its own format, and Ed25519 in PKCS#8.

    Raises `ValueError` for one that cannot be used.
    """
    return _converted(private_key, lambda key: key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def _converted(private_key: str, convert: Callable[[SSHPrivateKeyTypes], bytes]) -> str:
    data = private_key.strip().encode() + b"\n"
    load: Any = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        return convert(load(data, password=None)).decode()
    except TypeError:
        raise ValueError("has a passphrase; use a key without one, kept as a secret") from None
    except (ValueError, UnsupportedAlgorithm, AttributeError):
        raise ValueError(
            "is not a private key in OpenSSH or PEM format; use `pulumi config set --secret sshPrivateKey < FILE`"
        ) from None
