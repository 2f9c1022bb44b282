"""What is said of an instance whose host does not answer."""

import pytest

from operate.hosts.instance import advice


@pytest.mark.parametrize(
    ("status", "fault", "expected"),
    [
        ("SHUTOFF", None, "its instance is SHUTOFF: `openstack server start its-id`"),
        ("ERROR", "No valid host was found", "ERROR (No valid host was found): `./ha rebuild k8s-lb-1`"),
        ("ACTIVE", None, "`openstack console log show its-id`; then `./ha rebuild k8s-lb-1`"),
        ("PAUSED", None, "its instance is PAUSED: `openstack server show its-id`"),
    ],
)
def test_each_instance_status_has_a_remedy(status: str, fault: str | None, expected: str):
    assert expected in advice("k8s-lb-1", "its-id", status, fault)
