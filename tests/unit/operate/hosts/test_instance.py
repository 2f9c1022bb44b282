"""What is said of an instance whose host does not answer."""

import pytest

from operate.hosts.instance import advice


@pytest.mark.parametrize(
    ("status", "fault", "expected"),
    [
        ("SHUTOFF", None, "its instance is SHUTOFF: `openstack server start k8s-lb-1`"),
        ("ERROR", "No valid host was found", "ERROR (No valid host was found): `./ha rebuild k8s-lb-1`"),
        ("ACTIVE", None, "`openstack console log show k8s-lb-1`; then `./ha rebuild k8s-lb-1`"),
        ("PAUSED", None, "its instance is PAUSED: `openstack server show k8s-lb-1`"),
    ],
)
def test_each_instance_status_has_a_remedy(status: str, fault: str | None, expected: str):
    assert expected in advice("k8s-lb-1", status, fault)
