import subprocess
from pathlib import Path

import pytest

from dev.lab.kubernetes import repository, versions

VERSIONS = {package.name: f"{package.version}-{versions.REVISION}" for package in repository.PACKAGES}


class Apt:
    """APT with folders of its own and this one source."""

    def __init__(self, root: Path, url: str, key: Path) -> None:
        for name in ("lists/partial", "archives/partial", "status.d"):
            (root / name).mkdir(parents=True)
        (root / "status").touch()
        (root / "sources.list").write_text(f"deb [signed-by={key}] {url}/{repository.PATH}/ /\n")
        settings = {
            "Dir::Etc::SourceList": root / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": root,
            "Dir::State::Lists": root / "lists",
            "Dir::State::Status": root / "status",
            "Dir::Cache": root,
            "Acquire::http::Proxy": "DIRECT",
            "APT::Sandbox::User": "root",
        }
        self._options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        self.root = root

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs apt-get; a warning counts as an error."""
        options = [*self._options, "-o", "APT::Update::Error-Mode=any"]
        return subprocess.run(
            ["apt-get", *options, *command], capture_output=True, text=True, cwd=self.root, check=False
        )


@pytest.fixture(scope="module")
def apt(tmp_path_factory: pytest.TempPathFactory, built: Path, package_server: str) -> Apt:
    apt = Apt(tmp_path_factory.mktemp("apt"), package_server, repository.key_in(built / "apt"))
    updated = apt.run("update")
    assert updated.returncode == 0, updated.stdout + updated.stderr
    return apt


def contents(package: Path) -> set[str]:
    listed = subprocess.run(["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True).stdout
    assert all(line.split()[1] == "root/root" for line in listed.splitlines())
    return {line.split()[5].removeprefix(".") for line in listed.splitlines()}


@pytest.fixture(scope="module")
def downloaded(apt: Apt) -> dict[str, Path]:
    """The packages, downloaded by name and version as a host installs them."""
    result = apt.run("download", *(f"{name}={version}" for name, version in VERSIONS.items()))
    assert result.returncode == 0, result.stderr
    return {name: next(apt.root.glob(f"{name}_{version}_*.deb")) for name, version in VERSIONS.items()}


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("kubeadm", {"/usr/bin/kubeadm", "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"}),
        ("kubelet", {"/usr/bin/kubelet", "/usr/lib/systemd/system/kubelet.service", "/etc/default/kubelet"}),
        ("kubectl", {"/usr/bin/kubectl"}),
        ("cri-tools", {"/usr/bin/crictl"}),
        ("kubernetes-cni", {f"/opt/cni/bin/{name}" for name in ("bridge", "host-local", "loopback", "portmap")}),
    ],
)
def test_a_package_has_its_files_where_pkgs_k8s_io_s_has_them(
    downloaded: dict[str, Path], name: str, paths: set[str]
) -> None:
    assert paths <= contents(downloaded[name])


def test_the_programs_run_and_report_the_version(unpacked: Path) -> None:
    def output(*command: str) -> str:
        program, *arguments = command
        return subprocess.run([unpacked / program, *arguments], capture_output=True, text=True, check=True).stdout

    version = f"v{versions.KUBERNETES}"
    assert output("usr/bin/kubeadm", "version", "-o", "short") == f"{version}\n"
    assert output("usr/bin/kubelet", "--version") == f"Kubernetes {version}\n"
    assert f"Client Version: {version}\n" in output("usr/bin/kubectl", "version", "--client")
    assert output("usr/bin/crictl", "--version") == f"crictl version {versions.CRI_TOOLS}\n"


def test_a_host_that_trusts_another_key_refuses_the_repository(tmp_path: Path, package_server: str) -> None:
    apt = Apt(tmp_path, package_server, Path("/usr/share/keyrings/debian-archive-keyring.gpg"))
    updated = apt.run("update")
    assert updated.returncode != 0
    assert "NO_PUBKEY" in updated.stdout + updated.stderr
