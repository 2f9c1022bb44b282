"""The registry's TLS certificate, and the authority that signed it: hosts trust it as they would trust a site's own."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dev.lab.files import write_private
from dev.lab.settings import LabSettings

_VALID = timedelta(days=3650)  # longer than any lab
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class RegistryCertificate:
    """The authority's certificate, the server's, and the server's private key, all in PEM."""

    authority: str
    certificate: str
    key: str

    @classmethod
    def load(cls, settings: LabSettings) -> "RegistryCertificate":
        """Reads what an earlier run has saved in the state folder, or creates and saves it (mode 600).

        The authority's private key is not kept.
        """
        path = settings.state / "registry-certificate.json"
        if not path.exists():
            write_private(path, json.dumps(asdict(_issue(settings)), indent=2) + "\n")
        return cls(**json.loads(path.read_text()))


def _issue(settings: LabSettings) -> RegistryCertificate:
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _name("authority of the lab's registry")
    now = datetime.now(UTC)

    def unsigned(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + _VALID)
        )

    authority = (
        unsigned(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        unsigned(_name("the lab's registry"), key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(settings.api_address)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return RegistryCertificate(
        authority=authority.public_bytes(pem).decode(),
        certificate=certificate.public_bytes(pem).decode(),
        key=private.decode(),
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
