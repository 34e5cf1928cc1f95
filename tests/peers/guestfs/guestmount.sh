#!/bin/bash
# Mounts a volume of a disk image read-only by guestmount, for benchmarks; after `tests/peers/install.sh guestfs`.
#
#   tests/peers/guestfs/guestmount.sh IMAGE DIR [DEVICE]    DEVICE: /dev/sda (the default) is the whole image,
#                                                           /dev/sda1 a partition
# `guestunmount DIR` ends it. The first start builds libguestfs' appliance, below target/peers/guestfs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 2 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
target=${CARGO_TARGET_DIR:-$here/../../../target}
own=$(cd "${STILLFRAME_PEERS:-$target/peers}/guestfs" && pwd)
modules=("$own"/kernel/lib/modules/*)
export LIBGUESTFS_BACKEND=direct LIBGUESTFS_CACHEDIR=$own LIBGUESTFS_MEMSIZE=1024
# Emulation works everywhere; set it to nothing where KVM does.
export LIBGUESTFS_BACKEND_SETTINGS=${LIBGUESTFS_BACKEND_SETTINGS-force_tcg}
export SUPERMIN_MODULES=${modules[0]}
export SUPERMIN_KERNEL=$own/kernel/boot/vmlinuz-${SUPERMIN_MODULES##*/}
# Without this folder supermin gives up, though it needs nothing in it.
if [ ! -e /lib/modules ]; then
    mkdir /lib/modules
    trap 'rmdir /lib/modules' EXIT
fi
guestmount --ro --format=raw -a "$1" -m "${3:-/dev/sda}" "$2"
