"""The cluster's keys and certificates, as kubeadm expects them."""

import json
import subprocess
import sys
from base64 import b64decode
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from model.kubernetes import AUTHORITIES
from program.certificates import BOOTSTRAP_GROUP, authorities, client


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return authorities()


def subject(certificate: x509.Certificate) -> dict[str, str]:
    return {
        name: str(certificate.subject.get_attributes_for_oid(oid)[0].value)
        for name, oid in (("O", NameOID.ORGANIZATION_NAME), ("CN", NameOID.COMMON_NAME))
        if certificate.subject.get_attributes_for_oid(oid)
    }


def test_there_is_everything_that_the_model_names(found: dict[str, str]):
    assert set(found) == set(AUTHORITIES)


def test_two_clusters_share_nothing(found: dict[str, str]):
    other = authorities()
    assert not [name for name in found if other[name] == found[name]]


@pytest.mark.parametrize(
    ("name", "common_name"), [("ca", "kubernetes"), ("etcd-ca", "etcd-ca"), ("front-proxy-ca", "front-proxy-ca")]
)
def test_the_authorities_sign_for_ten_years_and_have_kubeadm_s_names(
    found: dict[str, str], name: str, common_name: str
):
    certificate = x509.load_pem_x509_certificate(found[name].encode())
    assert subject(certificate) == {"CN": common_name}
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    key = load_pem_private_key(found[f"{name}-key"].encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == certificate.public_key()
    assert timedelta(days=3649) < certificate.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=3650)


def test_service_accounts_have_an_rsa_key_and_its_public_half(found: dict[str, str]):
    key = load_pem_private_key(found["service-account-key"].encode(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert load_pem_public_key(found["service-account-public-key"].encode()) == key.public_key()


def test_secrets_are_encrypted_with_32_bytes(found: dict[str, str]):
    assert len(b64decode(found["encryption-key"], validate=True)) == 32


def verified(ca: str, certificate: str) -> x509.Certificate:
    parsed = x509.load_pem_x509_certificate(certificate.encode())
    parsed.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
    usage = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    return parsed


def test_a_host_joins_as_a_bootstrapper_at_any_time(found: dict[str, str]):
    certificate = verified(found["ca"], found["bootstrap-certificate"])
    assert subject(certificate) == {"O": BOOTSTRAP_GROUP, "CN": "system:bootstrap:host"}
    assert certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=3640)


def test_a_client_s_certificate_is_valid_for_a_year(found: dict[str, str]):
    made = client("kubernetes-admin", "kubeadm:cluster-admins", found["ca"], found["ca-key"])
    certificate = verified(found["ca"], made["certificate"])
    assert subject(certificate) == {"O": "kubeadm:cluster-admins", "CN": "kubernetes-admin"}
    assert timedelta(days=364) < certificate.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=365)
    assert load_pem_private_key(made["key"].encode(), None).public_key() == certificate.public_key()


def test_a_verifier_that_checks_extensions_accepts_a_client(found: dict[str, str]):
    """RFC 5280, as Go and Python's own verifier read it."""
    made = client("kubernetes-admin", "kubeadm:cluster-admins", found["ca"], found["ca-key"])
    ca = x509.load_pem_x509_certificate(found["ca"].encode())
    certificate = x509.load_pem_x509_certificate(made["certificate"].encode())
    assert certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == (
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    )
    assert PolicyBuilder().store(Store([ca]))


def test_the_engine_runs_it_as_a_program(found: dict[str, str]):
    def program(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "program.certificates", *arguments],
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
        )

    assert set(json.loads(program("authorities").stdout)) == set(AUTHORITIES)
    made = json.loads(program("client", "me", "us", stdin=json.dumps(found)).stdout)
    assert subject(verified(found["ca"], made["certificate"])) == {"O": "us", "CN": "me"}
    assert program("nonsense").returncode == 1
