"""Whether this machine's KVM really runs a guest."""

from pathlib import Path

from dev.lab.errors import LabError
from dev.lab.progress import phase
from dev.lab.shell import run

_PROBE = Path(__file__).parent / "host" / "probe-kvm.sh"


def assert_usable(rootfs: Path, image: Path) -> None:
    """Boots the guest image's kernel under KVM; raises LabError with what was seen if it does not come up in 30 s."""
    advice = "Use LAB_VIRT=lxc (native speed) or LAB_VIRT=qemu (a kernel of its own, slow)."
    if not Path("/dev/kvm").exists():
        raise LabError(f"LAB_VIRT=kvm: this machine has no /dev/kvm. {advice}")
    with phase("trying whether KVM boots a kernel", expected=5):
        try:
            run(["unshare", "--mount", "--propagation=private", _PROBE, rootfs, image])
        except LabError as error:
            raise LabError(f"LAB_VIRT=kvm: /dev/kvm is there, but boots no stock kernel. {advice}\n{error}") from error
