"""The container images: which programs are in them, and where, as in those of registry.k8s.io and ghcr.io."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.lab.kubernetes import registry
from dev.lab.kubernetes.versions import FLANNEL_CNI_PLUGIN_SOURCE, TAGS


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image: its programs, by their paths in it, as "module/program" (see programs.py)."""

    repository: str
    programs: Mapping[str, str]
    entrypoint: str
    on_debian: bool = False
    """Whether the programs need others (iptables, nft, cp), which are then below them in a layer of Debian's."""
    user: str = ""

    @property
    def source_version(self) -> str:
        """What the label in the image says; flannel's CNI plugin is older than its tag."""
        tag = TAGS[self.repository]
        return FLANNEL_CNI_PLUGIN_SOURCE if self.repository == "flannel-io/flannel-cni-plugin" else tag


def _kubernetes(name: str, *, on_debian: bool = False) -> Image:
    path = f"/usr/local/bin/{name}"
    return Image(repository=name, programs={path: f"kubernetes/{name}"}, entrypoint=path, on_debian=on_debian)


IMAGES = (
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kube-proxy", on_debian=True),
    Image(
        repository="etcd",
        programs={
            "/usr/local/bin/etcd": "etcd/server",
            "/usr/local/bin/etcdctl": "etcd/etcdctl",
            "/usr/local/bin/etcdutl": "etcd/etcdutl",
        },
        entrypoint="/usr/local/bin/etcd",
    ),
    Image(repository="coredns/coredns", programs={"/coredns": "coredns/coredns"}, entrypoint="/coredns"),
    Image(repository="pause", programs={"/pause": "pause/pause"}, entrypoint="/pause", user="65535:65535"),
    Image(
        repository="flannel-io/flannel",
        programs={"/opt/bin/flanneld": "flannel/flannel"},
        entrypoint="/opt/bin/flanneld",
        on_debian=True,
    ),
    Image(
        repository="flannel-io/flannel-cni-plugin",
        programs={"/flannel": "flannel-cni-plugin/flannel"},
        entrypoint="/flannel",
        on_debian=True,
    ),
)


def write(root: Path, programs: Mapping[str, Path], debian: Path, architecture: str) -> None:
    """Writes all images into the registry's storage in `root`.

    `programs` are the folders of the built modules, `debian` a root file system, `architecture` is Go's name of it.
    """
    storage = registry.Storage(root)
    below = registry.layer({"/": debian})
    for image in IMAGES:
        own = registry.layer({path: _built(programs, program) for path, program in image.programs.items()})
        storage.add(
            image.repository,
            TAGS[image.repository],
            [below, own] if image.on_debian else [own],
            architecture=architecture,
            entrypoint=[image.entrypoint],
            user=image.user,
            labels={
                "org.opencontainers.image.title": f"{image.repository}, built by the lab",
                "org.opencontainers.image.version": image.source_version,
            },
        )


def _built(programs: Mapping[str, Path], program: str) -> Path:
    module, _, name = program.partition("/")
    return programs[module] / name
