"""What a site without Internet provides: an APT repository and a registry, with Kubernetes' packages and images."""

from pathlib import Path

from dev.lab import build
from dev.lab.apt import HostApt
from dev.lab.kubernetes import images, programs, repository
from dev.lab.settings import LabSettings
from dev.lab.shell import run

_HERE = Path(__file__).parent
_IMAGE_PACKAGES = _HERE / "image-packages"
# Half of what every host would pull is Perl and time zones, which iptables and nft do not use.
_SLIM = '--customize-hook=rm -rf "$1"/usr/share/perl* "$1"/usr/lib/*/perl* "$1"/usr/share/zoneinfo'
_SOURCES = ("versions.py", "registry.py", "images.py", "repository.py", "mirror.py")


def ensure(settings: LabSettings, apt: HostApt) -> Path:
    """The folder with apt/, the root of a package server, and registry/, a registry's storage; both are only read.

    Builds what is missing: 11 minutes on two cores, and it continues where an interrupted build stopped.
    """
    built = programs.ensure(settings)
    debian = _ensure_debian(settings, apt)
    key = settings.cache / "kubernetes-signing-key.asc"
    repository.ensure_key(key)
    parts = (*(folder.name for folder in built.values()), debian.name, key.read_text())
    files = [*(_HERE / name for name in _SOURCES), *(path for path in repository.TREES.rglob("*") if path.is_file())]
    name = f"kubernetes-{build.digest(files, extra=parts)}"

    def make(target: Path, _log: Path) -> None:
        # Debian's name of the architecture is also Go's on those that the project supports: amd64 and arm64.
        architecture = run(["dpkg", "--print-architecture"]).strip()
        repository.write(target / "apt", built, key, architecture)
        images.write(target / "registry", built, debian, architecture)
        run(["chmod", "-R", "a+rX", target])  # the servers do not run as root

    return build.cached(settings.cache, name, make, title="Kubernetes' packages and images, once", expected=60)


def _ensure_debian(settings: LabSettings, apt: HostApt) -> Path:
    name = f"image-base-{build.digest([_IMAGE_PACKAGES], extra=[_SLIM])}"

    def make(target: Path, log: Path) -> None:
        build.bootstrap(target, _IMAGE_PACKAGES, apt, (_SLIM,), log)

    return build.cached(settings.cache, name, make, title="building the images' Debian layer, once", expected=25)
