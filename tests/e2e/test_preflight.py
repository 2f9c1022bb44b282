"""`./ha preflight` before the first `up`: a cloud in order, wrong values and credentials, a throw-away instance."""

import os
import signal
import subprocess
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openstack
import pytest
import yaml

from dev.lab.cloud import IMAGE
from dev.lab.settings import LabSettings
from dev.lab_stack import CLOUD, Stack
from operate.hosts.pair import wait_for
from operate.stack.files import ROOT
from tests.e2e.harness import NO_ENV, Ended, clouds_yaml, findings, ha, start

CONFIG: dict[str, object] = {"clusterName": "pre", "controlPlaneCount": 1, "workerCount": 0, "vip": "198.18.1.241"}
THROW_AWAY = "pre-preflight-"
"""What the name of each run's resources begins with."""
# A boot and a load balancer's packages, on a machine that does other things as well.
BOOT_SECONDS = 240
AUTH = ("password", "auth_url")
WITHOUT_NFT_FIB = Path(__file__).with_name("without_nft_fib")


@pytest.fixture(scope="module")
def stack() -> Stack:
    """Its file is written and read; it is never brought up."""
    return Stack("lab-preflight", CONFIG)


def preflight(stack: Stack, *arguments: str, env: Mapping[str, str] = NO_ENV) -> Ended:
    return ha("preflight", *arguments, stack=stack.name, env=env)


def left_of_throw_away() -> list[str]:
    cloud: Any = openstack.connect(cloud=CLOUD)
    everything = [
        *cloud.compute.servers(),
        *cloud.compute.keypairs(),
        *cloud.network.ports(),
        *cloud.network.security_groups(),
    ]
    return [it.name for it in everything if it.name.startswith(THROW_AWAY)]


def test_a_cloud_in_order_has_no_problem(stack: Stack):
    stack.configure({})
    result = preflight(stack)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "VIP 198.18.1.241" in result.stdout
    found = findings(preflight(stack, "--json"))
    assert {finding["result"] for finding in found.values()} <= {"ok", "note", "not checked"}
    # The machine is on the segment: nobody answers ARP for the address.
    assert any("ARP" in name and finding["result"] == "ok" for name, finding in found.items()), found


def test_everything_wrong_is_reported_at_once(stack: Stack):
    stack.configure(
        {
            "loadBalancerFlavor": "lab.none",
            "controlPlaneImage": "debian-1",
            "vip": "198.18.1.1",
            "controlPlaneAvailabilityZones": ["moon"],
            "adminCidrs": ["198.51.100.0/24"],
        }
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


def test_an_address_in_use_cannot_be_the_vip(stack: Stack):
    taken = str(LabSettings.from_environ().router_address)
    stack.configure({"vip": taken})
    found = findings(preflight(stack, "--json"))
    assert found[f"VIP {taken}"]["result"] == "problem"
    # OVN's routers answer only probes with a sender's address, which these do not have (RFC 5227).
    assert found[f"ARP for {taken}"]["result"] == "ok"


def test_small_quotas_and_a_shared_network_are_problems_for_a_plain_user(stack: Stack, tmp_path: Path):
    stack.configure({})
    admin: Any = openstack.connect(cloud="lab-admin")
    # By a run that was killed.
    for left in list(admin.identity.users(name="pre-plain")):
        admin.identity.delete_user(left)
    for left in list(admin.identity.projects(name="pre-plain")):
        admin.identity.delete_project(left)
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
        plain = dict.fromkeys(("username", "password", "project_name"), "pre-plain")
        file = clouds_yaml(tmp_path / "clouds.yaml", **plain)
        result = preflight(stack, "--json", env={"OS_CLIENT_CONFIG_FILE": str(file)})
    finally:
        admin.identity.delete_user(user)
        admin.identity.delete_project(project)
    assert result.returncode == 1, result.stdout + result.stderr
    problems = {name for name, it in findings(result).items() if it["result"] == "problem"}
    assert problems == {"quota: cores", "quota: ports", "network's owner"}


def test_a_missing_stack_is_reported():
    result = ha("preflight", stack="lab-nowhere")
    assert result.returncode == 2
    assert "lab-nowhere" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cloud": "no-such-cloud"}, "clouds.yaml"),
        ({"password": "wrong"}, "Keystone refuses the credentials"),
        ({"token": "revoked"}, "Keystone"),
        ({"auth_url": "http://198.18.0.2:1/v3"}, "reachable"),
    ],
    ids=["no such cloud", "wrong password", "revoked token", "nobody there"],
)
def test_without_a_login_the_rest_is_skipped(stack: Stack, tmp_path: Path, change: dict[str, str], expected: str):
    stack.configure({})
    file = clouds_yaml(tmp_path / "clouds.yaml", **{key: it for key, it in change.items() if key in AUTH})
    if "token" in change:
        connection: Any = openstack.connect(cloud=CLOUD)
        token = connection.session.get_token()
        connection.identity.delete("/auth/tokens", headers={"X-Subject-Token": token})
        clouds = yaml.safe_load(file.read_text())
        auth_url = clouds["clouds"][CLOUD]["auth"]["auth_url"]
        clouds["clouds"][CLOUD] |= {
            "auth_type": "v3token",
            "auth": {"auth_url": auth_url, "token": token, "project_name": CLOUD, "project_domain_name": "Default"},
        }
        file.write_text(yaml.safe_dump(clouds))
    result = preflight(
        stack, "--json", env={"OS_CLIENT_CONFIG_FILE": str(file), "OS_CLOUD": change.get("cloud", CLOUD)}
    )
    assert result.returncode == 1, result.stdout + result.stderr
    found = findings(result)
    token = found["token"]
    assert token["result"] == "problem"
    assert expected in token["found"] + token["to_do"], token
    assert found["Nova"]["result"] == "not checked"


def test_a_throw_away_instance_proves_the_rest_and_is_deleted(stack: Stack):
    stack.configure({})
    result = preflight(stack, "--boot")
    assert result.returncode == 0, result.stdout + result.stderr
    for line in ("address pairs, tried", "VIP, tried", "SSH to debian@", "sudo", "cloud-init", "packages"):
        assert line in result.stdout
    assert left_of_throw_away() == []


@pytest.fixture
def image_without_nft_fib(tmp_path: Path) -> Generator[str]:
    """Debian 12 with programs that stand in for a kernel without nft_fib_inet: guests have this machine's kernel."""
    file = tmp_path / "image"
    admin: Any = openstack.connect(cloud="lab-admin")
    admin.image.download_image(admin.image.find_image(IMAGE), output=str(file), stream=True)
    commands = f"""
        mkdir /usr/local/lib/python3.11/dist-packages/nftables
        write {WITHOUT_NFT_FIB}/nftables.py /usr/local/lib/python3.11/dist-packages/nftables/__init__.py
        write {WITHOUT_NFT_FIB}/nft /usr/local/sbin/nft
        set_inode_field /usr/local/sbin/nft mode 0100755
    """
    subprocess.run(["debugfs", "-w", "-f", "-", file], input=commands, text=True, check=True)
    image = admin.create_image(
        "without-nft-fib",
        filename=str(file),
        disk_format="raw",
        container_format="bare",
        visibility="public",
        wait=True,
    )
    yield image.name
    admin.image.delete_image(image)


@pytest.mark.extended
def test_modules_that_the_kernel_lacks_are_named_with_what_firewalld_says(stack: Stack, image_without_nft_fib: str):
    stack.configure({"loadBalancerImage": image_without_nft_fib})
    firewalld = findings(preflight(stack, "--boot", "--json"))["firewalld"]
    assert firewalld["result"] == "problem"
    assert " lacks nft_fib_inet: ERROR: 'python-nftables' failed: " in firewalld["found"]
    assert "linux-modules-extra" in firewalld["to_do"]
    assert left_of_throw_away() == []


@pytest.mark.extended
def test_two_runs_at_once_do_not_disturb_each_other(stack: Stack):
    stack.configure({})
    with ThreadPoolExecutor() as both:
        runs = [both.submit(preflight, stack, "--boot", "--json") for _ in range(2)]
    for run in runs:
        assert run.result().returncode == 0, run.result().stdout + run.result().stderr
        assert findings(run.result())["packages"]["result"] == "ok"
    assert left_of_throw_away() == []


@pytest.mark.extended
def test_a_throw_away_instance_is_deleted_after_an_interruption_and_by_the_run_after_a_kill(stack: Stack):
    stack.configure({})
    for number in (signal.SIGKILL, signal.SIGINT):  # the second run takes away what the first has left
        run = start(ROOT / "ha", "preflight", "--stack", stack.name, "--boot")
        cloud: Any = openstack.connect(cloud=CLOUD)
        known = {server.id for server in cloud.compute.servers(name=f"^{THROW_AWAY}")}

        def is_there(cloud: Any = cloud, known: set[str] = known) -> bool:
            return bool({server.id for server in cloud.compute.servers(name=f"^{THROW_AWAY}")} - known)

        try:
            # Until the one of the run before is deleted, and that waits until Nova has built it.
            wait_for("the throw-away instance is there", is_there, BOOT_SECONDS)
        finally:
            os.killpg(run.pid, number)
            run.communicate(timeout=120)
        assert bool(left_of_throw_away()) == (number == signal.SIGKILL)
