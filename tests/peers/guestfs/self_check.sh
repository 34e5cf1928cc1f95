#!/bin/bash
# Makes every fixture and compares what ntfs-3g reads with the truth; ntfsinfo has proved the layouts before.
#
#   tests/peers/guestfs/self_check.sh [NAME...]     a minute or two for all but the big one
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
image=$work/image tree=$work/tree
mkdir "$tree"
leave() {
    if mountpoint -q "$tree"; then umount "$tree"; fi
    rm -rf "$work"
}
trap leave EXIT

check() {
    "$here/make_ntfs.py" "$1" "$image" || return 1
    ntfs-3g -o ro,streams_interface=xattr "$image" "$tree" || return 1
    local status=0
    "$here/compare_trees.py" "$tree" --foreign --xattrs --truth "$image.truth.json" >"$work/log" || status=1
    umount "$tree"
    rm -f "$image"
    if [ "$status" -ne 0 ]; then cat "$work/log"; fi
    return "$status"
}

if [ $# -eq 0 ]; then mapfile -t names < <("$here/make_ntfs.py" list); else names=("$@"); fi
failed=0
for name in "${names[@]}"; do
    if check "$name"; then echo "$name: equal"; else echo "$name: NOT EQUAL" && failed=1; fi
done
exit "$failed"
