"""Which serving certificates of kubelets are approved: real requests, and a stand-in of kubectl."""

import importlib.util
import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from model.rendering import KUBERNETES_TEMPLATES


def _load() -> Any:
    path = KUBERNETES_TEMPLATES / "usr/local/lib/ha-api/kubelet_certificates.py"
    spec = importlib.util.spec_from_file_location("kubelet_certificates", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


certificates = _load()


def node(name: str, address: str) -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]
    return {"metadata": {"name": name}, "status": {"addresses": addresses}}


NODES = {name: node(name, address) for name, address in (("k8s-cp-0", "198.51.100.21"), ("k8s-cp-1", "198.51.100.22"))}


def request(
    *names: x509.GeneralName,
    user: str = "system:node:k8s-cp-0",
    subject: str = "system:node:k8s-cp-0",
    organization: str = "system:nodes",
    extension: x509.ExtensionType | None = None,
    **spec: Any,
) -> dict[str, Any]:
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
        x509.NameAttribute(NameOID.COMMON_NAME, subject),
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if extension:
        builder = builder.add_extension(extension, critical=False)
    pem = builder.sign(ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.PEM)
    return {
        "metadata": {"name": "csr-1"},
        "spec": {
            "signerName": "kubernetes.io/kubelet-serving",
            "username": user,
            "groups": ["system:nodes", "system:authenticated"],
            "usages": ["digital signature", "server auth"],
            "request": b64encode(pem).decode(),
        }
        | spec,
    }


API = {("DNS", "kubernetes"), ("IP Address", "198.51.100.100"), ("IP Address", "10.96.0.1")}
DNS, IP = x509.DNSName("k8s-cp-0"), x509.IPAddress(ip_address("198.51.100.21"))


def test_a_node_s_own_names_are_approved():
    assert certificates.problem(request(DNS, IP), NODES, API) is None
    # On the host itself, whose API server's certificate has the host's name and address.
    assert certificates.problem(request(DNS, IP), NODES, API | OF_THE_HOST) is None


OF_THE_HOST = {("DNS", "k8s-cp-0"), ("IP Address", "198.51.100.21")}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (request(DNS, x509.IPAddress(ip_address("198.51.100.22"))), "k8s-cp-0 does not have 198.51.100.22"),
        (request(x509.DNSName("kubernetes.default"), IP), "does not have kubernetes.default"),
        (request(DNS, x509.DNSName("a, IP Address:198.51.100.21")), "does not have a"),
        (request(DNS, x509.RFC822Name("a@example.com")), "does not have a@example.com"),
        (request(DNS, x509.UniformResourceIdentifier("https://example.com")), "does not have https"),
        (request(), "not a request for a kubelet's"),
        (request(DNS, IP, extension=x509.BasicConstraints(ca=True, path_length=None)), "not a request for a kubelet's"),
        (request(DNS, IP, subject="system:node:k8s-cp-1"), "its subject is"),
        (request(DNS, IP, organization="system:masters"), "its subject is"),
        (request(DNS, IP, user="system:serviceaccount:default:me"), "is not a node"),
        (request(DNS, IP, user="system:node:stranger", subject="system:node:stranger"), "is not a node"),
        (request(DNS, IP, groups=["system:authenticated"]), "is not a node"),
        (request(DNS, IP, usages=["digital signature", "server auth", "client auth"]), "its usages"),
        (request(DNS, IP, usages=["digital signature"]), "its usages"),
        (request(DNS, IP, request=b64encode(b"nonsense").decode()), "not a request for a kubelet's"),
    ],
)  # fmt: skip
def test_anything_else_is_left_for_a_person(asked: dict[str, Any], reason: str):
    assert reason in str(certificates.problem(asked, NODES, API))


def test_an_address_that_two_nodes_claim_is_no_one_s():
    """A node that was taken over can write another's address into its own Node object, but not remove it there."""
    claiming = NODES | {"k8s-cp-1": node("k8s-cp-1", "198.51.100.21")}
    assert "another node has 198.51.100.21, too" in str(certificates.problem(request(DNS, IP), claiming, API))


@pytest.mark.parametrize(
    ("name", "kind", "value", "reason"),
    [
        (x509.IPAddress(ip_address("198.51.100.100")), "InternalIP", "198.51.100.100", "the API has 198.51.100.100"),
        (x509.DNSName("kubernetes"), "InternalDNS", "kubernetes", "k8s-cp-0 does not have kubernetes"),
        (x509.DNSName("api.example.com"), "Hostname", "api.example.com", "k8s-cp-0 does not have api.example.com"),
    ],
)
def test_a_node_that_claims_the_api_s_address_or_another_name_gets_no_certificate(
    name: x509.GeneralName, kind: str, value: str, reason: str
):
    """The API servers' certificates are signed by the same CA, so it could pose as one of them."""
    claiming = node("k8s-cp-0", "198.51.100.21")
    claiming["status"]["addresses"].append({"type": kind, "address": value})
    assert reason in str(certificates.problem(request(DNS, IP, name), NODES | {"k8s-cp-0": claiming}, API))


def test_the_api_s_names_are_those_of_its_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    names = x509.SubjectAlternativeName([x509.DNSName("kubernetes"), x509.IPAddress(ip_address("198.51.100.100"))])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    file = tmp_path / "apiserver.crt"
    file.write_bytes(builder.add_extension(names, critical=False).sign(key, SHA256()).public_bytes(Encoding.PEM))
    monkeypatch.setattr(certificates, "API_SERVER", str(file))
    assert certificates.of_the_api() == {("DNS", "kubernetes"), ("IP Address", "198.51.100.100")}


def test_only_pending_requests_of_kubelets_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    approved = request(DNS, IP) | {"status": {"conditions": [{"type": "Approved"}]}}
    other = request(DNS, IP, signerName="kubernetes.io/kube-apiserver-client-kubelet")
    bad = request(DNS, IP, user="me") | {"metadata": {"name": "csr-bad"}}
    items = [approved, other, request(DNS, IP) | {"metadata": {"name": "csr-good"}}, bad]
    asked: list[tuple[str, ...]] = []

    def kubectl(*arguments: str) -> str:
        asked.append(arguments)
        return json.dumps({"items": items if arguments[1] == "certificatesigningrequests" else [*NODES.values()]})

    monkeypatch.setattr(certificates, "kubectl", kubectl)
    monkeypatch.setattr(certificates, "of_the_api", lambda: API)
    certificates.main()
    assert [it for it in asked if it[0] != "get"] == [("certificate", "approve", "csr-good")]
    printed = capsys.readouterr()
    assert "csr-bad is not approved: me is not a node" in printed.err
    assert "csr-good is approved, for system:node:k8s-cp-0" in printed.out


def test_without_a_request_the_nodes_are_not_read(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(certificates, "kubectl", lambda *it: asked.append(it) or '{"items": []}')  # pyright: ignore
    certificates.main()
    assert len(asked) == 1
