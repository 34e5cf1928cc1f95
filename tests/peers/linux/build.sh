#!/bin/bash
# Builds a small real Linux system on a virtual disk that boots by itself, from its own MBR.
#
#   tests/peers/linux/build.sh OUTDIR [--log-file FILE]
#
# OUTDIR/disk.raw    the disk, 384 MiB, sparse (about 60 MiB of data)
#   MBR              syslinux's boot code, two partitions
#   partition 1      FAT16, active: syslinux, kernel and initrd
#   partition 2      ext4: a Debian userland from its own packages, each file named in /etc/stillframe/SHA256SUMS,
#                    and FILE as /var/lib/guest.log, contiguous, so that a simulated guest can write it in place
# OUTDIR/disk.json   what a test must know about it
# OUTDIR/vmlinuz, OUTDIR/initrd.gz
#
# When it boots it checks every file against the list and says on the serial line
#   STILLFRAME-BOOT-OK <sha256 of the list>
# Nothing is mounted here and no loop device is used. Needs: cpio, busybox-static, dosfstools, mtools, syslinux,
# syslinux-common, e2fsprogs, fdisk; it downloads (and does not install) Debian's packages for the guest.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$(cd "$here/../../.." && pwd)/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
# shellcheck source=tests/peers/apt.sh
. "$here/../apt.sh"

# The userland: what coreutils and a shell need to run, and some real files besides.
userland=(base-files base-passwd libc6 libc-bin dash coreutils libacl1 libattr1 libgmp10 libselinux1 libpcre2-8-0
    sed grep gzip tar netbase mawk)
# In the order of insertion; ext4 is built into Debian's cloud kernel.
modules=(virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk)

disk_mib=384
boot_start_mib=1 boot_mib=32
root_start_mib=33 root_mib=350
root_uuid=5f1cf4a3-0001-4000-8000-7374696c6c66

usage() { echo "usage: $0 OUTDIR [--log-file FILE]" >&2; exit 2; }

main() {
    local log=
    [ $# -ge 1 ] || usage
    mkdir -p "$1"
    out=$(cd "$1" && pwd)
    shift
    while [ $# -gt 0 ]; do
        case $1 in
        --log-file) [ $# -ge 2 ] || usage; log=$2; shift 2 ;;
        *) usage ;;
        esac
    done
    local stamp
    stamp=$(cat "$here/build.sh" "$here/initrd-init" "$here/guest-init" ${log:+"$log"} | sha256sum)
    if [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && [ -s "$out/disk.raw" ] && [ -s "$out/disk.json" ]; then
        echo "up to date: $out/disk.raw"
        return 0
    fi
    rm -f "$out/stamp" "$out/disk.json" "$out/disk.raw"
    work=$(mktemp -d "$out/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    fetch
    make_initrd
    make_root "$log"
    make_boot
    assemble
    describe
    rm -rf "$work"
    echo "$stamp" >"$out/stamp"
    echo "built: $out/disk.raw"
}

fetch() {
    local kernel package
    kernel=$(compgen -G "$out/debs/linux-image-*.deb" | sed 's|.*/||; s|_.*||' | sort -V | tail -1) ||
        kernel=$(apt_stands_for linux-image-cloud-amd64)
    [ -n "$kernel" ] || { echo "no package stands for linux-image-cloud-amd64" >&2; exit 1; }
    apt_download "$out/debs" "$kernel" "${userland[@]}"
    mkdir "$work/kernel" "$work/root"
    dpkg-deb -x "$out/debs/${kernel}"_*.deb "$work/kernel"
    for package in "${userland[@]}"; do dpkg-deb -x "$out/debs/${package}"_*.deb "$work/root"; done
    cp "$work"/kernel/boot/vmlinuz-* "$out/vmlinuz"
}

make_initrd() {
    local module file applet tree=$work/initrd
    mkdir -p "$tree"/{bin,lib,proc,sys,dev,mnt}
    cp /bin/busybox "$tree/bin/"
    for applet in sh mount umount insmod findfs sleep switch_root cat poweroff; do
        ln -s busybox "$tree/bin/$applet"
    done
    for module in "${modules[@]}"; do
        file=$(find "$work/kernel/lib/modules" -name "$module.ko" -print -quit)
        [ -n "$file" ] || { echo "the kernel package holds no $module.ko" >&2; exit 1; }
        cp "$file" "$tree/lib/"
    done
    echo "${modules[*]}" >"$tree/lib/order"
    install -m 755 "$here/initrd-init" "$tree/init"
    (cd "$tree" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet | gzip -9n) >"$out/initrd.gz"
}

# make_root LOG-FILE: the ext4 volume, filled by mke2fs itself.
make_root() {
    local log=$1 root=$work/root
    rm -rf "$root/usr/share/locale"
    mkdir -p "$root"/{dev,proc,sys,run,tmp,sbin,etc/stillframe,var/lib}
    ln -sf dash "$root/bin/sh"
    install -m 755 /bin/busybox "$root/bin/busybox"
    install -m 755 "$here/guest-init" "$root/sbin/init"
    echo stillframe-linux >"$root/etc/hostname"
    (
        cd "$root"
        find . -type f ! -path ./etc/stillframe/SHA256SUMS ! -path ./var/lib/guest.log -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum >etc/stillframe/SHA256SUMS
    )
    if [ -n "$log" ]; then cp "$log" "$root/var/lib/guest.log"; fi
    truncate -s "${root_mib}M" "$work/root.img"
    mke2fs -q -F -t ext4 -b 4096 -m 0 -L stillframe -U "$root_uuid" -E "hash_seed=$root_uuid,root_owner=0:0" \
        -d "$root" "$work/root.img"
    e2fsck -fn "$work/root.img" >/dev/null 2>&1
    if [ -n "$log" ]; then locate_log "$log"; fi
}

# Sets log_offset and log_bytes, after a check that the file lies in one piece and holds what it should.
locate_log() {
    local blocks first count
    log_bytes=$(stat -c %s "$1")
    blocks=$(debugfs -R "blocks /var/lib/guest.log" "$work/root.img" 2>/dev/null | tr -s ' ' '\n' | sed '/^$/d')
    first=$(head -1 <<<"$blocks")
    count=$(wc -l <<<"$blocks")
    if [ $((count * 4096)) -ne "$log_bytes" ] || [ "$blocks" != "$(seq "$first" $((first + count - 1)))" ]; then
        echo "guest.log is not in one piece: $count blocks of 4096 bytes for $log_bytes bytes, from block $first" >&2
        exit 1
    fi
    if ! dd if="$work/root.img" bs=4096 skip="$first" count="$count" status=none | cmp -s - "$1"; then
        echo "guest.log is not at block $first of the volume" >&2
        exit 1
    fi
    log_offset=$((root_start_mib * 1048576 + first * 4096))
}

make_boot() {
    local fat=$work/boot.img
    truncate -s "${boot_mib}M" "$fat"
    mkfs.vfat -F 16 -n SFBOOT -i 5f1cb007 -h $((boot_start_mib * 2048)) "$fat" >/dev/null
    cat >"$work/syslinux.cfg" <<CFG
SERIAL 0 115200
DEFAULT linux
PROMPT 0
LABEL linux
  LINUX vmlinuz
  INITRD initrd.gz
  APPEND console=ttyS0 panic=-1 quiet root=UUID=$root_uuid
CFG
    mcopy -i "$fat" "$out/vmlinuz" "$out/initrd.gz" "$work/syslinux.cfg" ::/
    syslinux --install "$fat"
}

assemble() {
    local disk=$work/disk.raw
    truncate -s "${disk_mib}M" "$disk"
    sfdisk -q "$disk" <<TABLE
label: dos
label-id: 0x5f1c0001
start=$((boot_start_mib * 2048)), size=$((boot_mib * 2048)), type=e, bootable
start=$((root_start_mib * 2048)), size=$((root_mib * 2048)), type=83
TABLE
    dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" conv=notrunc status=none
    dd if="$work/boot.img" of="$disk" bs=1M seek="$boot_start_mib" conv=notrunc,sparse status=none
    dd if="$work/root.img" of="$disk" bs=1M seek="$root_start_mib" conv=notrunc,sparse status=none
    mv "$disk" "$out/disk.raw"
}

describe() {
    local list=$work/root/etc/stillframe/SHA256SUMS
    cat >"$out/disk.json" <<JSON
{
  "disk": "disk.raw",
  "capacity": $((disk_mib * 1048576)),
  "root_offset": $((root_start_mib * 1048576)),
  "root_uuid": "$root_uuid",
  "boot_line": "STILLFRAME-BOOT-OK $(sha256sum <"$list" | cut -d' ' -f1)",
  "files": $(wc -l <"$list"),
  "log_path": "/var/lib/guest.log",
  "log_offset": ${log_offset:-null},
  "log_bytes": ${log_bytes:-0}
}
JSON
}

main "$@"
