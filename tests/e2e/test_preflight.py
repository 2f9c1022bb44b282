"""`./ha preflight` before the first `up`: a cloud in order, wrong values and credentials, a throw-away instance."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openstack
import pytest
import yaml

from dev.lab.progress import console
from dev.lab_stack import CLOUD, Stack, StackError, environment
from operate.hosts.pair import wait_for
from operate.stack.files import ROOT

CONFIG: dict[str, object] = {"clusterName": "pre", "controlPlaneCount": 1, "workerCount": 0, "vip": "198.18.1.241"}
THROW_AWAY = "pre-preflight"
# A boot and a load balancer's packages, on a machine that does other things as well.
BOOT_SECONDS = 240


@pytest.fixture(scope="module")
def stack() -> Generator[Stack]:
    stack = Stack("lab-preflight", CONFIG)
    yield stack
    stack.destroy()


def configure(stack: Stack, **config: object) -> None:
    """Write the stack's file; whether a preview of it succeeds is no matter here."""
    with suppress(StackError):
        stack.preview(config)


def preflight(stack: Stack, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "ha", "preflight", "--stack", stack.name, *arguments],
        env=os.environ | environment() | env,
        capture_output=True,
        text=True,
        timeout=BOOT_SECONDS,
        check=False,
    )


def findings(result: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    """By what was looked at."""
    groups = json.loads(result.stdout)["groups"]
    return {finding["looked_at"]: finding for group in groups for finding in group["findings"]}


def left_of_throw_away() -> list[str]:
    cloud: Any = openstack.connect(cloud=CLOUD)
    everything = [
        *cloud.compute.servers(),
        *cloud.compute.keypairs(),
        *cloud.network.ports(),
        *cloud.network.security_groups(),
    ]
    return [it.name for it in everything if it.name == THROW_AWAY]


def test_a_cloud_in_order_has_no_problem(stack: Stack):
    configure(stack)
    began = time.monotonic()
    result = preflight(stack)
    console.print(result.stdout, f"{time.monotonic() - began:.1f} s")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "VIP 198.18.1.241" in result.stdout
    found = findings(preflight(stack, "--json"))
    assert {finding["result"] for finding in found.values()} <= {"ok", "note", "not checked"}
    # The machine stands on the segment: nobody answers ARP for the address.
    assert any("ARP" in name and finding["result"] == "ok" for name, finding in found.items()), found


def test_all_that_is_wrong_is_told_at_once(stack: Stack):
    configure(
        stack,
        loadBalancerFlavor="lab.none",
        controlPlaneImage="debian-1",
        vip="198.18.1.1",
        controlPlaneAvailabilityZones=["moon"],
        adminCidrs=["198.51.100.0/24"],
    )
    result = preflight(stack, "--json")
    assert result.returncode == 1, result.stdout + result.stderr
    problems = {name: it for name, it in findings(result).items() if it["result"] == "problem"}
    assert problems.keys() == {
        "flavor lab.none",
        "image debian-1",
        "zone moon",
        "VIP 198.18.1.1",
        "ARP for 198.18.1.1",
        "SSH from this machine",
    }
    assert all(finding["to_do"] for finding in problems.values())
    # What depends on the flavor says so; what does not was looked at.
    assert "flavor" in findings(result)["Nova's quota"]["found"]
    assert findings(result)["quota: ports"]["result"] == "ok"


def test_an_address_of_somebody_else_is_no_vip(stack: Stack):
    cloud: Any = openstack.connect(cloud=CLOUD)
    taken = next(port for port in cloud.network.ports(device_owner="network:dhcp")).fixed_ips[0]["ip_address"]
    configure(stack, vip=taken)
    found = findings(preflight(stack, "--json"))
    assert found[f"VIP {taken}"]["result"] == "problem"
    assert found[f"ARP for {taken}"]["result"] == "problem"  # it answers, too


def test_a_plain_user_with_little_quota_on_a_network_of_another_project(stack: Stack, tmp_path: Path):
    configure(stack)
    admin: Any = openstack.connect(cloud="lab-admin")
    project = admin.identity.create_project(name="pre-plain", domain_id="default")
    user = admin.identity.create_user(
        name="pre-plain",
        password="pre-plain",  # noqa: S106
        default_project_id=project.id,
        domain_id="default",
    )
    try:
        role = admin.identity.find_role("member")
        admin.identity.assign_project_role_to_user(project, user, role)
        admin.set_compute_quotas(project.id, cores=2)
        admin.set_network_quotas(project.id, ports=2)
        clouds = yaml.safe_load(Path(environment()["OS_CLIENT_CONFIG_FILE"]).read_text())
        clouds["clouds"][CLOUD]["auth"] |= dict.fromkeys(("username", "password", "project_name"), "pre-plain")
        file = tmp_path / "clouds.yaml"
        file.write_text(yaml.safe_dump(clouds))
        result = preflight(stack, "--json", OS_CLIENT_CONFIG_FILE=str(file))
    finally:
        admin.identity.delete_user(user)
        admin.identity.delete_project(project)
    assert result.returncode == 1, result.stdout + result.stderr
    problems = {name for name, it in findings(result).items() if it["result"] == "problem"}
    assert problems == {"quota: cores", "quota: ports", "network's owner"}


def test_a_stack_that_is_not_there():
    result = subprocess.run(
        [ROOT / "ha", "preflight", "--stack", "lab-nowhere"],
        env=os.environ | environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "lab-nowhere" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cloud": "no-such-cloud"}, "clouds.yaml"),
        ({"password": "wrong"}, "Keystone refuses the credentials"),
        ({"token": "revoked"}, "Keystone"),
        ({"auth_url": "http://198.18.0.2:1/v3"}, "reachable"),
    ],
    ids=["no such cloud", "wrong password", "revoked token", "nobody there"],
)
def test_without_a_way_in_the_rest_is_not_looked_at(stack: Stack, tmp_path: Path, change: dict[str, str], told: str):
    configure(stack)
    clouds = yaml.safe_load(Path(environment()["OS_CLIENT_CONFIG_FILE"]).read_text())
    entry = clouds["clouds"][CLOUD]
    if "token" in change:
        connection: Any = openstack.connect(cloud=CLOUD)
        token = connection.session.get_token()
        connection.identity.delete("/auth/tokens", headers={"X-Subject-Token": token})
        entry["auth"] = {"auth_url": entry["auth"]["auth_url"], "token": token, "project_name": CLOUD}
        entry["auth"]["project_domain_name"] = "Default"
        entry["auth_type"] = "v3token"
    elif "cloud" not in change:
        entry["auth"] |= change
    file = tmp_path / "clouds.yaml"
    file.write_text(yaml.safe_dump(clouds))
    result = preflight(stack, "--json", OS_CLIENT_CONFIG_FILE=str(file), OS_CLOUD=change.get("cloud", CLOUD))
    assert result.returncode == 1, result.stdout + result.stderr
    found = findings(result)
    token = found["token"]
    assert token["result"] == "problem"
    assert told in token["found"] + token["to_do"], token
    assert found["Nova"]["result"] == "not checked"


def test_a_throw_away_instance_proves_the_rest_and_is_gone_afterwards(stack: Stack):
    configure(stack)
    began = time.monotonic()
    result = preflight(stack, "--boot")
    console.print(result.stdout, f"{time.monotonic() - began:.1f} s")
    assert result.returncode == 0, result.stdout + result.stderr
    for line in ("address pairs, tried", "VIP, tried", "SSH to debian@", "sudo", "cloud-init", "packages"):
        assert line in result.stdout
    assert left_of_throw_away() == []


def test_a_throw_away_instance_is_gone_also_after_an_interruption_and_after_a_kill(stack: Stack):
    configure(stack)
    for number in (signal.SIGKILL, signal.SIGINT):  # the second run takes away what the first has left
        # In a session of its own, for the wrapper and Python both get what a terminal sends.
        run = subprocess.Popen(
            [ROOT / "ha", "preflight", "--stack", stack.name, "--boot"],
            env=os.environ | environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        cloud: Any = openstack.connect(cloud=CLOUD)
        known = {server.id for server in cloud.compute.servers(name=f"^{THROW_AWAY}$")}

        def is_there(cloud: Any = cloud, known: set[str] = known) -> bool:
            return bool({server.id for server in cloud.compute.servers(name=f"^{THROW_AWAY}$")} - known)

        try:
            # Until the one of the run before is deleted, and that waits until Nova has built it.
            wait_for("the throw-away instance is there", is_there, BOOT_SECONDS)
        finally:
            os.killpg(run.pid, number)
            run.wait(timeout=120)
        assert bool(left_of_throw_away()) == (number == signal.SIGKILL)
