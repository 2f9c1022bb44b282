#!/bin/bash
# customize.sh ROOT: what is done once to the guest image's root file system, after its files were put in place.
set -euo pipefail
root=$1

wanted_units=(lab-meminfo systemd-networkd systemd-resolved ssh serial-getty@ttyS0)
unwanted_units=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap fstrim.timer
  man-db.timer systemd-timesyncd systemd-networkd-wait-online)
# Nothing that an instance needs; in an LXC guest they fail or wait.
masked_units=(modprobe@{dm_mod,loop,drm,efi_pstore,configfs,fuse}.service dev-hugepages.mount dev-mqueue.mount
  sys-kernel-{debug,tracing,config}.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount
  systemd-{binfmt,update-utmp,update-utmp-runlevel,pcrphase,pcrphase-sysinit,journal-flush,machine-id-commit}.service
  systemd-network-generator.service getty@tty1.service)

chroot "$root" systemctl --quiet enable "${wanted_units[@]}"
for unit in "${unwanted_units[@]}"; do
  chroot "$root" systemctl --quiet disable "$unit" 2>/dev/null || true # not every one of them is installed
done
chroot "$root" systemctl --quiet mask "${masked_units[@]}"

chroot "$root" update-initramfs -u -k all
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# Every instance makes its own.
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
