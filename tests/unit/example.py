"""A configuration that is in order, for tests to spoil one value at a time."""

from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tools.stack_file import project_schema


@cache
def key_pair() -> tuple[str, str]:
    """A private key in OpenSSH format and its public half."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def example_values(**changes: Any) -> dict[str, Any]:
    """Raw values as the engine hands them over: the schema's defaults, what has none, and `changes`."""
    defaults = {key: entry["default"] for key, entry in project_schema().items() if "default" in entry}
    private, public = key_pair()
    return (
        defaults
        | {
            "network": "provider",
            "subnet": "provider-v4",
            "adminCidrs": '["198.51.100.0/28"]',
            "apiAllowedCidrs": '["198.51.100.0/24"]',
            "loadBalancerFlavor": "small",
            "loadBalancerImage": "debian-12",
            "controlPlaneFlavor": "medium",
            "controlPlaneImage": "debian-12",
            "workerFlavor": "large",
            "workerImage": "debian-12",
            "publicKey": public,
            "sshPrivateKey": private,
        }
        | changes
    )
