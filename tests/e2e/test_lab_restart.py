"""Instances of the lab survive when it is stopped or killed, and started again. Nothing else can run meanwhile."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dev.lab import host_network
from dev.lab.cloud import Cloud
from dev.lab.container import Container
from dev.lab.settings import LabSettings
from tests.e2e.instances import Instance

pytestmark = pytest.mark.extended


def test_an_instance_survives_a_stop_and_a_start_of_the_lab(settings: LabSettings, instances: list[Instance]) -> None:
    survivor = instances[0]
    assert survivor.run("echo precious | sudo tee /root/kept && sync").returncode == 0
    _forget_a_disk()
    _lab("down")
    assert Container(settings).pid() is None
    assert not [link for link in host_network.LINKS if (Path("/sys/class/net") / link).exists()]
    for leftovers in (["iptables-save"], ["losetup", "--list"], ["mount"], ["ps", "-eo", "args"]):
        shown = subprocess.run(leftovers, capture_output=True, text=True, check=True).stdout
        assert "openstack-ha-api-lab" not in shown
        assert str(settings.state) not in shown
        assert "/var/lib/nova/instances" not in shown
    _lab("up")
    survivor.wait_for_ssh()
    assert survivor.run("sudo cat /root/kept").stdout == b"precious\n"
    assert Cloud(settings).can_boot_instances()


def test_an_instance_survives_a_kill_of_the_lab(settings: LabSettings, instances: list[Instance]) -> None:
    pid = Container(settings).pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    _lab("up")
    instances[0].wait_for_ssh()
    assert instances[0].run("sudo cat /root/kept").stdout == b"precious\n"


def _forget_a_disk() -> None:
    """A loop device of an instance that is gone, as Nova leaves one now and then; the kernel shows no more of it."""
    disk = Path("/var/lib/nova/instances/gone_del/disk")
    disk.parent.mkdir(parents=True)
    disk.write_bytes(bytes(2**20))
    subprocess.run(["losetup", "--find", disk], check=True)
    disk.unlink()
    os.removedirs(disk.parent)


def _lab(command: str) -> None:
    subprocess.run([sys.executable, "-m", "dev.lab", command], check=True, timeout=400)
