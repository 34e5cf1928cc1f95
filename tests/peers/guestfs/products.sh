#!/bin/bash
# Does what backup products take from a read-only tree come back equal? tar, rsync, restic and borg save and restore it.
#
#   tests/peers/guestfs/products.sh TREE [PRODUCT...]
#
# Works in a temporary folder below $TMPDIR, on an XFS image of its own where root can mount one: other file systems
# take no streams of 60 KiB as extended attributes. Where the tree refuses to give a file, the product has to say that
# it failed. rsync leaves out a file for which the tree lists an extended attribute that it cannot give: so it finds a
# difference in ntfs-3g's own trees if they have streams above 64 KiB.
# Exits with 1 if anything differs; what is known to differ is counted by compare_trees.py.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C.UTF-8

if [ $# -lt 1 ] || [ ! -d "$1" ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
tree=$(cd "$1" && pwd)
shift
products=("$@")
if [ $# -eq 0 ]; then products=(tar rsync restic borg); fi

work=$(mktemp -d)
leave() {
    cd /
    if mountpoint -q "$work"; then umount "$work"; fi
    rm -rf "$work" "$work.xfs"
}
trap leave EXIT

truncate -s 16G "$work.xfs"
if ! mkfs.xfs -q "$work.xfs" || ! mount -o loop "$work.xfs" "$work"; then
    echo "no XFS image can be mounted here: long streams will be lost" >&2
fi
restored=$work/restored
log=$work/log
export RESTIC_PASSWORD=fixture RESTIC_REPOSITORY=$work/restic RESTIC_CACHE_DIR=$work/restic-cache
export BORG_REPO=$work/borg BORG_BASE_DIR=$work/borg-base BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes

# What each product says when it left a file out, and goes on.
declare -A incomplete=([tar]=2 [rsync]=23 [restic]=3 [borg]=1)

save_tar() { tar --sparse --xattrs --xattrs-include='user.*' -C "$tree" -cf "$work/tar" .; }
load_tar() { tar --xattrs --xattrs-include='user.*' -C "$restored" -xf "$work/tar"; }
# Without the window rsync takes times within one second for equal, and leaves the new one.
save_rsync() { rsync -aHXS --modify-window=-1 "$tree/" "$restored/"; }
load_rsync() { :; }
save_restic() { restic -q init && cd "$tree" && restic -q backup .; }
load_restic() { restic -q restore latest -t "$restored"; }
save_borg() { borg init -e none && cd "$tree" && borg create --files-cache disabled --noflags ::all .; }
load_borg() { cd "$restored" && borg extract --sparse ::all; }

# The tree refuses something if reading all of it fails.
refuses=no
if ! tar -C "$tree" -cf - . 2>"$log" | cat >/dev/null; then refuses=yes; fi

# product NAME: saves and restores in subshells of their own, compares.
product() {
    local name=$1 status=0
    mkdir "$restored"
    ("save_$name") >"$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ] && { [ "$refuses" = no ] || [ "$status" -ne "${incomplete[$name]}" ]; }; then
        echo "$name failed with $status:" && tail -n 20 "$log"
        return 1
    fi
    if [ "$status" -eq 0 ] && [ "$refuses" = yes ]; then
        echo "$name did not say that files could not be read"
        return 1
    fi
    if ! ("load_$name") >"$log" 2>&1; then
        echo "$name could not restore:" && tail -n 20 "$log"
        return 1
    fi
    "$here/compare_trees.py" "$tree" "$restored" --xattrs --restored || return 1
    rm -rf "$restored" "$work/$name"
}

failed=0
for name in "${products[@]}"; do
    if ! command -v "$name" >/dev/null; then
        echo "skipped: $name is not installed"
        if [ "${CI:-}" = true ]; then failed=1; fi
        continue
    fi
    echo "== $name"
    if ! product "$name"; then
        failed=1
        rm -rf "$restored"
    fi
done
exit "$failed"
