"""A configuration that is in order, for tests to spoil one value at a time."""

from typing import Any

from dev.review.recording_cloud import key_pair
from operate.stack.files import project_schema


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
