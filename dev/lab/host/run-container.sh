#!/bin/bash
# run-container.sh ROOTFS STATE [NSPAWN OPTION...]: boots ROOTFS with the lab's own layer (STATE/upper) over it.
# Runs in its own mount namespace, so no mount is left on the host, however the container ends.
set -euo pipefail
rootfs=$1
state=$2
shift 2
echo $$ >"$state/nspawn.pid"
mount -t overlay lab -o "lowerdir=$rootfs,upperdir=$state/upper,workdir=$state/work" "$state/root"
exec systemd-nspawn --directory="$state/root" "$@"
