#!/bin/bash
# extract-root.sh ROOTFS IMAGE FOLDER: extracts a cloud image's root partition to FOLDER/root.raw, a bare file system,
# and adapts it to the lab. An LXC guest mounts its disk as it is, without partitions or a boot loader.
# Runs in its own mount namespace. ROOTFS is the cloud's root file system, which has qemu-img.
set -euo pipefail
rootfs=$1
image=$2
folder=$3
adapt=$(dirname "$(readlink -f "$0")")/../guest/adapt-image.sh

mount --bind "$folder" "$rootfs/mnt"
touch "$folder/image"
mount --bind "$image" "$rootfs/mnt/image"
chroot "$rootfs" qemu-img convert -O raw /mnt/image /mnt/disk.raw

# The largest partition is the root's; an image without partitions is already a file system.
partitions=$(partx --raw --bytes --noheadings --output START,SIZE "$folder/disk.raw" 2>/dev/null || true)
if [ -n "$partitions" ]; then
  read -r start size < <(sort --key=2 --numeric-sort --reverse <<<"$partitions")
  dd if="$folder/disk.raw" of="$folder/root.raw" bs=1M conv=sparse status=none \
    iflag=skip_bytes,count_bytes skip="$((start * 512))" count="$size"
  rm "$folder/disk.raw"
else
  mv "$folder/disk.raw" "$folder/root.raw"
fi
kind=$(blkid --probe --match-tag TYPE --output value "$folder/root.raw" || true)
if [ "$kind" != ext4 ]; then
  echo "the image's largest partition has ${kind:-no known file system}, but the lab can only enlarge ext4:" \
    "use an image with an ext4 root, or LAB_VIRT=qemu" >&2
  exit 1
fi

mkdir "$folder/root"
mount -o loop "$folder/root.raw" "$folder/root"
if [ ! -e "$folder/root/usr/bin/cloud-init" ]; then
  echo "the image has no cloud-init, so an instance would get no address and no key: use an image with cloud-init" >&2
  exit 1
fi
"$adapt" "$folder/root"
umount "$folder/root"
