"""Checks that this machine's KVM really runs a guest."""

from pathlib import Path

from dev.lab.errors import LabError
from dev.lab.progress import phase
from dev.lab.shell import run

_PROBE = Path(__file__).parent / "host" / "probe-kvm.sh"


def assert_usable(rootfs: Path, image: Path) -> None:
    """Boots the guest image's kernel under KVM. Raises LabError with its output if it does not boot within 30 s."""
    advice = "Use LAB_VIRT=lxc (native speed) or LAB_VIRT=qemu (own kernel, slow)."
    if not Path("/dev/kvm").exists():
        raise LabError(f"LAB_VIRT=kvm: this machine has no /dev/kvm. {advice}")
    with phase("checking that KVM boots a kernel", expected=5):
        try:
            run(["unshare", "--mount", "--propagation=private", _PROBE, rootfs, image])
        except LabError as error:
            raise LabError(
                f"LAB_VIRT=kvm: this machine has /dev/kvm, but it does not boot a stock kernel. {advice}\n{error}"
            ) from error
