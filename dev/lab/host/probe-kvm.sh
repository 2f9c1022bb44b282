#!/bin/bash
# probe-kvm.sh ROOTFS IMAGE: boots the guest image's kernel under KVM, with the cloud's QEMU, as far as the initramfs.
# Opening /dev/kvm proves nothing: on a nested or restricted machine that works, but the guest hangs or crashes.
# Runs in its own mount namespace. Prints the guest's output; fails if the guest does not reach the initramfs.
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
