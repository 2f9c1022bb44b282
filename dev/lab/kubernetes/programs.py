"""Builds Kubernetes' programs from Go modules. Go's own cache makes a build that was cut off continue."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dev.lab import build
from dev.lab.kubernetes import versions
from dev.lab.settings import LabSettings
from dev.lab.shell import run

_GO = Path(__file__).parents[3] / "toolchain" / "go"


@dataclass(frozen=True, kw_only=True)
class Module:
    """A folder in go/, whose go.mod lists the programs as tools."""

    folder: str
    version: str
    seconds: float
    """How long the build takes on two cores."""
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    """The Go variables that the program's own build sets to its version."""
    cgo: bool = False


def _kubernetes_variables() -> dict[str, str]:
    major, minor, _ = versions.KUBERNETES.split(".")
    values = {"gitVersion": f"v{versions.KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return {f"{package}.{name}": value for package in packages for name, value in values.items()}


_CNI_VERSION = "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion"

MODULES = (
    Module(folder="kubernetes", version=versions.KUBERNETES, seconds=460, variables=_kubernetes_variables()),
    Module(folder="etcd", version=versions.ETCD, seconds=20),
    Module(
        folder="cri-tools",
        version=versions.CRI_TOOLS,
        seconds=20,
        variables={"sigs.k8s.io/cri-tools/pkg/version.Version": versions.CRI_TOOLS},
    ),
    Module(
        folder="cni-plugins",
        version=versions.CNI_PLUGINS,
        seconds=20,
        variables={_CNI_VERSION: f"v{versions.CNI_PLUGINS}"},
    ),
    Module(
        folder="flannel-cni-plugin",
        version=versions.FLANNEL_CNI_PLUGIN_SOURCE,
        seconds=5,
        variables={_CNI_VERSION: f"v{versions.FLANNEL_CNI_PLUGIN_SOURCE}"},
    ),
    Module(folder="coredns", version=versions.COREDNS, seconds=110),
    Module(
        folder="flannel",
        version=versions.FLANNEL,
        seconds=20,
        variables={"github.com/flannel-io/flannel/pkg/version.Version": f"v{versions.FLANNEL}"},
        cgo=True,  # its UDP backend is in C
    ),
)


def ensure(settings: LabSettings) -> dict[str, Path]:
    """The folder with the programs of each module, and with `pause`, by name; builds those that are missing."""
    go = run([_GO, "env", "GOVERSION", "GOARCH"])
    built = {module.folder: _ensure_module(module, settings, go) for module in MODULES}
    return {**built, "pause": _ensure_pause(settings, go)}


def _ensure_module(module: Module, settings: LabSettings, go: str) -> Path:
    source = versions.GO_MODULES / module.folder
    flags = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in module.variables.items())])
    # As in toolchain/build: with less garbage collection (GOGC) and without debug information, which -s -w would strip,
    # the compiler takes a fifth less CPU time.
    command = ["build", "-C", source, "-trimpath", "-buildvcs=false", "-mod=readonly", "-gcflags=all=-dwarf=false"]
    if module.cgo:
        command += ["-tags", "netgo,osusergo"]
        flags += " -linkmode external -extldflags -static"
    command += ["-ldflags", flags]
    name = f"go-{module.folder}-{build.digest(source.iterdir(), extra=(go, *map(str, command[3:])))}"

    def make(target: Path, log: Path) -> None:
        environment = {**os.environ, "CGO_ENABLED": str(int(module.cgo)), "GOGC": "400"}
        run([_GO, *command, "-o", target, "tool"], log=log, env=environment)

    title = f"building {module.folder} {module.version} from Go modules, once"
    return build.cached(settings.cache, name, make, title=title, expected=module.seconds)


def _ensure_pause(settings: LabSettings, go: str) -> Path:
    # The program that keeps a pod's namespaces open: the only one in C. It comes with Kubernetes' Go module.
    source = versions.GO_MODULES / "kubernetes"
    version = versions.TAGS["pause"]

    def make(target: Path, log: Path) -> None:
        module = run([_GO, "list", "-C", source, "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"]).strip()
        options = ("-Os", "-Wall", "-Werror", "-static", "-s", f"-DVERSION=v{version}")
        run(["gcc", *options, "-o", target / "pause", f"{module}/build/pause/linux/pause.c"], log=log)

    name = f"go-pause-{build.digest([source / 'go.mod'], extra=(go, version))}"
    return build.cached(settings.cache, name, make, title=f"building pause {version}, once", expected=1)
