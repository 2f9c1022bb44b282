"""The one table of versions. Those of Go modules are pinned in go/*/go.mod, and read from there."""

import re
from pathlib import Path

GO_MODULES = Path(__file__).parent / "go"


def _pinned(folder: str, module: str) -> str:
    """The version of `module` in a folder's go.mod, without its "v"."""
    text = (GO_MODULES / folder / "go.mod").read_text()
    (version,) = re.findall(rf"^(?:require )?\s*{re.escape(module)} v(\S+)", text, re.MULTILINE)
    return version


KUBERNETES = _pinned("kubernetes", "k8s.io/kubernetes")
ETCD = _pinned("etcd", "go.etcd.io/etcd/server/v3")
CRI_TOOLS = _pinned("cri-tools", "sigs.k8s.io/cri-tools")
CNI_PLUGINS = _pinned("cni-plugins", "github.com/containernetworking/plugins")
COREDNS = _pinned("coredns", "github.com/coredns/coredns")
FLANNEL = _pinned("flannel", "github.com/flannel-io/flannel")
# The last release of the CNI plugins that still contained flannel's; its later home is not on Go's module proxy.
FLANNEL_CNI_PLUGIN_SOURCE = _pinned("flannel-cni-plugin", "github.com/containernetworking/plugins")

MINOR = KUBERNETES.rpartition(".")[0]
"""The version without the patch, such as 1.37: pkgs.k8s.io has one repository for each."""

REVISION = "1.1"
"""What pkgs.k8s.io appends to the version of a Debian package."""

# The tags that kubeadm and flannel's manifest ask for. The test of the build compares kubeadm's with its own list.
TAGS = {
    "kube-apiserver": f"v{KUBERNETES}",
    "kube-controller-manager": f"v{KUBERNETES}",
    "kube-scheduler": f"v{KUBERNETES}",
    "kube-proxy": f"v{KUBERNETES}",
    "etcd": f"{ETCD}-0",
    "coredns/coredns": f"v{COREDNS}",
    "pause": "3.10.2",
    "flannel-io/flannel": f"v{FLANNEL}",
    "flannel-io/flannel-cni-plugin": "v1.8.0-flannel1",
}
"""Tag by repository: the part of an image's name after registry.k8s.io or, for flannel's two, ghcr.io."""
