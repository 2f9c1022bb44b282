"""A valid configuration, for tests to break one value at a time."""

from copy import deepcopy
from functools import cache
from typing import Any

from dev.review.recording_cloud import key_pair
from operate.stack.files import project_schema


@cache
def _defaults() -> dict[str, Any]:
    return {key: entry["default"] for key, entry in project_schema().items() if "default" in entry}


def example_values(**changes: Any) -> dict[str, Any]:
    """Raw values as the engine passes them: the schema's defaults, values for keys without one, and `changes`."""
    private, public = key_pair()
    return (
        deepcopy(_defaults())
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
            # Bare hosts: most tests are about the rest.
            "kubernetesVersion": "",
        }
        | changes
    )
