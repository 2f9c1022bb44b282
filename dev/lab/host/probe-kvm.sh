#!/bin/bash
# probe-kvm.sh ROOTFS IMAGE: boots the guest image's kernel under KVM, with the cloud's QEMU, as far as the initramfs.
# A /dev/kvm proves nothing: in a nested or restricted machine it opens, and the guest hangs or crashes.
# Runs in a mount namespace of its own. Prints what the guest printed; fails if it did not get that far.
set -euo pipefail
rootfs=$1
image=$2
mount --bind /dev "$rootfs/dev"
mount --bind "$image" "$rootfs/mnt"
output=$(timeout 30 chroot "$rootfs" /usr/bin/qemu-system-x86_64.real -nodefaults -display none -serial stdio \
  -machine accel=kvm -cpu host -m 256 -no-reboot -kernel /mnt/vmlinuz -initrd /mnt/initrd.img \
  -append "console=ttyS0 panic=-1 rdinit=/bin/true" </dev/null 2>&1 || true)
printf '%s\n' "$output"
grep -q "Run /bin/true as init process" <<<"$output"
