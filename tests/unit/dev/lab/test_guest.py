"""The scripts in the guest images that stand before a real program: what they pass on to it."""

import os
import subprocess
from pathlib import Path

import pytest

from operate.stack.files import ROOT

SCRIPTS = ROOT / "dev/lab/guest/any-image/usr/local/sbin"
IGNORE = "--ignore-preflight-errors=SystemVerification"


class Guest:
    """A folder with the programs that a script calls, which print what they are called with."""

    def __init__(self, folder: Path, virtualization: str, file_system: str) -> None:
        self.folder = folder
        self.program("systemd-detect-virt", f"echo {virtualization}")
        self.program("stat", f"echo {file_system}")

    def program(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, script: str, *arguments: str) -> str:
        text = (
            (SCRIPTS / script).read_text().replace("/usr/bin/", f"{self.folder}/").replace("/run/", f"{self.folder}/")
        )
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        command = ["bash", "-c", text, script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


@pytest.fixture
def lxc(tmp_path: Path) -> Guest:
    return Guest(tmp_path, "lxc-libvirt", "tmpfs")


@pytest.fixture
def emulated(tmp_path: Path) -> Guest:
    return Guest(tmp_path, "none", "cgroup2fs")


@pytest.mark.parametrize(
    "arguments",
    [
        ("init", "--config", "file"),
        ("join", "--config", "file"),
        ("init", "phase", "preflight", "--config", "file"),
    ],
)
def test_kubeadm_ignores_the_system_verification_in_an_lxc_guest(lxc: Guest, arguments: tuple[str, ...]) -> None:
    lxc.program("kubeadm", 'echo "$@"')
    assert lxc.run("kubeadm", *arguments).split() == [*arguments, IGNORE]


@pytest.mark.parametrize("arguments", [("init", "phase", "certs", "all"), ("version",), ("reset", "--force"), ()])
def test_kubeadm_s_other_commands_do_not_get_an_option_they_do_not_know(lxc: Guest, arguments: tuple[str, ...]) -> None:
    lxc.program("kubeadm", 'echo "$@"')
    assert lxc.run("kubeadm", *arguments).split() == [*arguments]


def test_an_emulated_guest_is_verified_and_has_the_usual_driver(emulated: Guest) -> None:
    emulated.program("kubeadm", 'echo "$@"')
    emulated.program("kubelet", 'echo "$@"')
    assert emulated.run("kubeadm", "init").split() == ["init"]
    assert emulated.run("lab-kubelet", "--config=file").split() == ["--config=file"]


def test_the_kubelet_manages_cgroups_of_version_1_itself(lxc: Guest) -> None:
    lxc.program("kubelet", 'echo "$@"')
    assert lxc.run("lab-kubelet", "--config=file").split() == [
        "--config=file", "--fail-cgroupv1=false", "--cgroup-driver=cgroupfs",
    ]  # fmt: skip


@pytest.mark.parametrize(("guest", "systemd"), [("lxc", "false"), ("emulated", "true")])
def test_containerd_keeps_its_settings_but_for_two(request: pytest.FixtureRequest, guest: str, systemd: str) -> None:
    machine: Guest = request.getfixturevalue(guest)
    (machine.folder / "lab-containerd").mkdir()
    dump = 'imports = ["/etc/containerd/config.toml"]\\nsandbox_image = "pause"\\n'
    dump += "restrict_oom_score_adj = false\\nSystemdCgroup = true\\n"
    machine.program("containerd", f"""[ "$1" = config ] && printf '{dump}' || cat "$2" """)
    expected = f'sandbox_image = "pause"\nrestrict_oom_score_adj = true\nSystemdCgroup = {systemd}\n'
    assert machine.run("lab-containerd") == expected
