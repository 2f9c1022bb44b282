"""Keys and certificates of a cluster, created on the machine that runs `pulumi up` and kept in the stack's state.

A program of its own, which components/certificates.py has the engine run once, so that a key is created once and not
in each run: `python -m program.certificates authorities`, or `client NAME ORGANIZATION < authorities`. It prints JSON.
"""

import json
import secrets
import sys
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFETIME = timedelta(days=3650)
"""As kubeadm's (cmd/kubeadm/app/constants, CertificateAuthorityValidityPeriod)."""
CLIENT_LIFETIME = timedelta(days=365)
"""As kubeadm's (CertificateValidityPeriod)."""
CLOCK_SKEW = timedelta(minutes=5)
"""A host's clock may be this much behind."""
BOOTSTRAP_GROUP = "system:bootstrappers:kubeadm:default-node-token"
"""The group that `kubeadm init` lets ask for a node's certificate, and read what `kubeadm join` needs."""


def authorities() -> dict[str, str]:
    """Everything that a cluster keeps for its whole life, in PEM unless said otherwise; the keys' names in kebab case.

    The certificate authorities have the names that kubeadm gives them.
    """
    found: dict[str, str] = {}
    for name, common_name in (("ca", "kubernetes"), ("etcd-ca", "etcd-ca"), ("front-proxy-ca", "front-proxy-ca")):
        found[f"{name}-key"], found[name] = _authority(common_name)
    # RSA: the only algorithm that everything that verifies service-account tokens has to know (OpenID Connect, RS256).
    service_account = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    found["service-account-key"] = _key_pem(service_account)
    found["service-account-public-key"] = (
        service_account.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    )
    # Base64, as in EncryptionConfiguration.
    found["encryption-key"] = b64encode(secrets.token_bytes(32)).decode()
    # It is on a host only while it joins, and a host may join at any time.
    joining = client("system:bootstrap:host", BOOTSTRAP_GROUP, found["ca"], found["ca-key"], AUTHORITY_LIFETIME)
    return found | {"bootstrap-certificate": joining["certificate"], "bootstrap-key": joining["key"]}


def client(name: str, organization: str, ca: str, ca_key: str, lifetime: timedelta = CLIENT_LIFETIME) -> dict[str, str]:
    """A client's `certificate` and `key` in PEM. To Kubernetes, the organization is a group."""
    authority = x509.load_pem_x509_certificate(ca.encode())
    issuer_key = load_pem_private_key(ca_key.encode(), password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)  # noqa: S101 - _authority made it
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(min(now + lifetime, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, SHA256())
    )
    return {"certificate": certificate.public_bytes(Encoding.PEM).decode(), "key": _key_pem(key)}


def _authority(common_name: str) -> tuple[str, str]:
    """The key and the self-signed certificate of a certificate authority, with kubeadm's extensions."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False)
        .sign(key, SHA256())
    )
    return _key_pem(key), certificate.public_bytes(Encoding.PEM).decode()


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=authority,
        key_cert_sign=authority,
        crl_sign=False,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: CertificateIssuerPrivateKeyTypes) -> str:
    # PKCS#8, which kubeadm and etcd read for every kind of key.
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def main(arguments: list[str]) -> dict[str, str]:
    """What the command line asks for."""
    match arguments:
        case ["authorities"]:
            return authorities()
        case ["client", name, organization]:
            issuer: dict[str, Any] = json.load(sys.stdin)
            return client(name, organization, issuer["ca"], issuer["ca-key"])
        case _:
            sys.exit("usage: python -m program.certificates authorities | client NAME ORGANIZATION")


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))  # noqa: T201 - its answer
