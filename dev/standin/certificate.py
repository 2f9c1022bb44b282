"""A self-signed certificate for a stand-in API server, generated on the machine that runs the demo."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

LIFETIME = timedelta(days=365)


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def self_signed(name: str, addresses: Iterable[str], lifetime: timedelta = LIFETIME) -> KeyPair:
    """A certificate for `name` and IP `addresses`. Raises ValueError for an invalid address."""
    key = generate_private_key(SECP256R1())  # a probe's handshakes cost a tenth of RSA's
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"stand-in {name}")])
    alternatives = [x509.DNSName(name), *(x509.IPAddress(ip_address(address)) for address in addresses)]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # instances' clocks may be a little behind
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(key, SHA256())
    )
    return KeyPair(
        certificate=certificate.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
