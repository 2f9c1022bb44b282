"""Debian packages under the names of pkgs.k8s.io, in a signed APT repository of the same layout."""

import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.lab.files import write_private
from dev.lab.kubernetes import versions
from dev.lab.shell import run

TREES = Path(__file__).parent / "debian"
"""A folder for each package: its own files besides the programs, and DEBIAN/ with what dpkg-deb expects there."""

PATH = f"core:/stable:/v{versions.MINOR}/deb"
"""Where the repository is below the server's root, as at pkgs.k8s.io."""

_KEY = "Release.key"

_OWNER = "Kubernetes packages of the lab <lab@localhost>"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package: its upstream version, and the folder of its programs by module (see programs.py)."""

    name: str
    version: str
    module: str
    programs: tuple[str, ...]
    """The names of its programs; empty means all of the module."""
    folder: str = "usr/bin"


PACKAGES = (
    *(
        Package(name=name, version=versions.KUBERNETES, module="kubernetes", programs=(name,))
        for name in ("kubeadm", "kubectl", "kubelet")
    ),
    Package(name="cri-tools", version=versions.CRI_TOOLS, module="cri-tools", programs=("crictl",)),
    Package(
        name="kubernetes-cni", version=versions.CNI_PLUGINS, module="cni-plugins", programs=(), folder="opt/cni/bin"
    ),
)


def write(root: Path, programs: Mapping[str, Path], key: Path, architecture: str) -> None:
    """Builds all packages and the repository's signed indexes in `root`/PATH.

    `programs` are the folders of the built modules, `key` is the private signing key, `architecture` is Debian's name.
    """
    repository = root / PATH
    pool = repository / architecture
    pool.mkdir(parents=True)
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder) / package.name
            _assemble(package, tree, programs[package.module], architecture)
            # zstd: hosts unpack it in a fifth of the time that xz takes.
            run(["dpkg-deb", "--root-owner-group", "-Zzstd", "--build", tree, pool])
    _index(repository, architecture)
    _sign(repository, key)


def key_in(root: Path) -> Path:
    """The public key, ASCII-armoured, in a repository that `write` has built."""
    return root / PATH / _KEY


def _assemble(package: Package, tree: Path, programs: Path, architecture: str) -> None:
    shutil.copytree(TREES / package.name, tree)
    # Modes in a clone are its user's.
    for path in (tree, *tree.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    target = tree / package.folder
    target.mkdir(parents=True, exist_ok=True)
    for name in package.programs or sorted(path.name for path in programs.iterdir()):
        shutil.copyfile(programs / name, target / name)
        (target / name).chmod(0o755)
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    fields = {
        "Version": f"{package.version}-{versions.REVISION}",
        "Architecture": architecture,
        "Installed-Size": str(size // 1024),
    }
    control = tree / "DEBIAN/control"
    control.write_text("".join(f"{name}: {value}\n" for name, value in fields.items()) + control.read_text())


def _index(repository: Path, architecture: str) -> None:
    ftparchive = ["env", "-C", repository, "apt-ftparchive"]
    packages = run([*ftparchive, "packages", "."])
    (repository / "Packages").write_text(packages.replace("Filename: ./", "Filename: "))
    run(["gzip", "--keep", "--no-name", repository / "Packages"])
    about = {"Origin": "lab", "Label": "Kubernetes, built by the lab", "Architectures": architecture}
    options = [part for name, value in about.items() for part in ("-o", f"APT::FTPArchive::Release::{name}={value}")]
    (repository / "Release").write_text(run([*ftparchive, *options, "release", "."]))


# ---- signatures ------------------------------------------------------------------------------------------------------


def ensure_key(path: Path) -> None:
    """Generates a private signing key in the file `path` (mode 600) if it is missing.

    It has no passphrase, and outlives the repositories that it signs: hosts that trust it accept a rebuilt one.
    """
    if path.exists():
        return
    with _gpg() as gpg:
        run([*gpg, "--quick-generate-key", _OWNER, "ed25519", "sign", "never"])
        write_private(path, run([*gpg, "--armor", "--export-secret-keys"]))


def _sign(repository: Path, key: Path) -> None:
    release = repository / "Release"
    with _gpg() as gpg:
        run([*gpg, "--import", key])
        run([*gpg, "--armor", "--detach-sign", "--output", repository / "Release.gpg", release])
        run([*gpg, "--clearsign", "--output", repository / "InRelease", release])
        run([*gpg, "--armor", "--export", "--output", repository / _KEY])


@contextmanager
def _gpg() -> Generator[list[str]]:
    """The gpg command with an empty keyring of its own; its agent ends with it."""
    with tempfile.TemporaryDirectory() as home:
        try:
            yield ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)
