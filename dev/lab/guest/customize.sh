#!/bin/bash
# customize.sh ROOT: what is done once to the Debian image's root file system, after its packages are installed.
set -euo pipefail
root=$1
here=$(dirname "$(readlink -f "$0")")

wanted_units=(systemd-networkd systemd-resolved ssh serial-getty@ttyS0)
unwanted_units=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap fstrim.timer
  man-db.timer systemd-timesyncd systemd-networkd-wait-online)

# Owners and modes in a clone are its user's; in the image the files are root's.
tar --directory="$here/rootfs" --owner=root:0 --group=root:0 --mode=u=rwX,go=rX --create . |
  tar --directory="$root" --extract --no-overwrite-dir
"$here/adapt-image.sh" "$root"

chroot "$root" systemctl --quiet enable "${wanted_units[@]}"
for unit in "${unwanted_units[@]}"; do
  chroot "$root" systemctl --quiet disable "$unit" 2>/dev/null || true # not every one of them is installed
done

chroot "$root" update-initramfs -u -k all
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# Every instance makes its own.
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
