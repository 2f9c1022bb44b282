#!/bin/bash
# adapt-image.sh ROOT: what any image with systemd and cloud-init needs to run as an instance of the lab.
set -euo pipefail
root=$1
tree=$(dirname "$(readlink -f "$0")")/any-image

# Nothing that an instance needs; in an LXC guest they fail or wait.
masked_units=(modprobe@{dm_mod,loop,drm,efi_pstore,configfs,fuse}.service dev-hugepages.mount dev-mqueue.mount
  sys-kernel-{debug,tracing,config}.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount
  systemd-{binfmt,update-utmp,update-utmp-runlevel,pcrphase,pcrphase-sysinit,journal-flush,machine-id-commit}.service
  systemd-network-generator.service getty@tty1.service)

# Owners and modes in a clone are its user's; in the image the files are root's.
tar --directory="$tree" --owner=root:0 --group=root:0 --mode=u=rwX,go=rX --create . |
  tar --directory="$root" --extract --no-overwrite-dir
systemctl --quiet --root="$root" enable lab-meminfo.service lab-kernel-settings.service
systemctl --quiet --root="$root" mask "${masked_units[@]}"
