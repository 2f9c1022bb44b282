"""The lab keeps what it promises: a cloud that bears load and copies in bulk."""

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dev.lab.cloud import connect
from dev.lab.container import Container
from dev.lab.settings import LabSettings
from tests.e2e.instances import Instance

PARALLEL_REQUESTS = 50
BULK_MIB = 200
SERVICES_MEMORY_GIB = 4


@pytest.mark.parametrize(
    ("service", "path", "key"),
    [
        ("identity", "/v3/projects", "projects"),
        ("image", "/v2/images", "images"),
        ("placement", "/resource_providers", "resource_providers"),
        ("compute", "/servers/detail", "servers"),
        ("network", "/v2.0/ports", "ports"),
    ],
)
def test_an_api_answers_fifty_requests_at_once(settings: LabSettings, service: str, path: str, key: str) -> None:
    session: Any = connect(settings, "lab-admin").session
    # Where a service's endpoint already has the version in it, the path here has none.
    url = session.get_endpoint(service_type=service, interface="public").removesuffix("/v3") + path
    together = threading.Barrier(PARALLEL_REQUESTS)

    def ask(_: int) -> Any:
        together.wait(timeout=30)
        return session.get(url, headers={"Accept": "application/json"}, timeout=60, connect_retries=0).json()

    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        answers = list(pool.map(ask, range(PARALLEL_REQUESTS)))
    assert all(key in answer for answer in answers)
    assert len(answers) == PARALLEL_REQUESTS


def test_the_services_stay_within_their_memory(settings: LabSettings) -> None:
    assert 0 < Container(settings).memory() < SERVICES_MEMORY_GIB * 2**30


def test_an_instance_reaches_the_package_mirrors(instances: list[Instance]) -> None:
    updated = instances[0].run("sudo apt-get update --error-on=any", timeout=180)
    assert updated.returncode == 0, updated.stderr.decode()


def test_the_image_leaves_the_program_its_work(instances: list[Instance]) -> None:
    found = instances[0].run("dpkg-query --show --showformat '${Package}\n'").stdout.decode().split()
    assert "cloud-init" in found
    assert not {"keepalived", "haproxy", "firewalld"} & set(found)


def test_no_instance_has_processes_of_another_in_its_units(instances: list[Instance]) -> None:
    """Its systemd cannot signal them and waits for them to end, and a login waits for systemd: two minutes."""
    # Both have a session then. A process that is not in the reader's own namespace is listed as 0.
    list_foreign = (
        "sleep 2; here=$(findmnt --noheadings --output TARGET --types cgroup2)"
        "$(sed -n s/^0:://p /proc/1/cgroup | xargs dirname); "
        "find $here/*.slice -name cgroup.procs | tee /dev/stderr | xargs grep --with-filename ^0"
    )

    def listed(instance: Instance) -> subprocess.CompletedProcess[bytes]:
        return instance.run(list_foreign)

    with ThreadPoolExecutor(len(instances)) as pool:
        for done in pool.map(listed, instances):
            assert b"user@1000.service" in done.stderr
            assert done.stdout == b""


def test_a_bulk_copy_into_an_instance_ends(instances: list[Instance]) -> None:
    arrived = instances[0].run("wc --bytes", timeout=120, stdin=bytes(BULK_MIB * 2**20))
    assert int(arrived.stdout) == BULK_MIB * 2**20


def test_a_bulk_copy_out_of_an_instance_ends(instances: list[Instance]) -> None:
    arrived = instances[0].run(f"head --bytes={BULK_MIB}M /dev/zero", timeout=120)
    assert len(arrived.stdout) == BULK_MIB * 2**20
