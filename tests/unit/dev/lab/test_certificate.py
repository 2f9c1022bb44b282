import ssl
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509

from dev.lab.certificate import RegistryCertificate
from dev.lab.settings import LabSettings


def settings(state: Path) -> LabSettings:
    return replace(LabSettings.from_environ({"HOME": "/home/somebody"}), state=state)


def test_the_certificate_is_issued_once_and_readable_only_by_its_owner(tmp_path: Path) -> None:
    issued = RegistryCertificate.load(settings(tmp_path))
    assert RegistryCertificate.load(settings(tmp_path)) == issued
    (saved,) = tmp_path.iterdir()
    assert saved.stat().st_mode & 0o777 == 0o600


def test_a_client_that_trusts_the_authority_accepts_the_registry_at_its_address(tmp_path: Path) -> None:
    lab = settings(tmp_path)
    issued = RegistryCertificate.load(lab)
    (tmp_path / "server.pem").write_text(issued.certificate + issued.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server.pem")
    client = ssl.create_default_context(cadata=issued.authority)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server.wrap_bio(to_server, to_client, server_side=True)
    other = client.wrap_bio(to_client, to_server, server_hostname=str(lab.api_address))
    for _ in range(3):
        for end in (other, one):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    names = x509.load_pem_x509_certificate(issued.certificate.encode()).extensions
    addresses = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert addresses.get_values_for_type(x509.IPAddress) == [ip_address(str(lab.api_address))]
    assert other.cipher() is not None
