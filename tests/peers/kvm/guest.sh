#!/bin/bash
# Builds what the guests of a private libvirt host are made of.
#
#   tests/peers/kvm/guest.sh OUTDIR      OUTDIR is target/peers/kvm
#
# OUTDIR/vmlinuz, initrd.gz    Debian's cloud kernel, and a system of its own in memory: busybox, Debian's guest agent,
#                              and guest.rs, which writes numbered records; guest-init lists the options
# OUTDIR/boot.raw, boot.json   a disk that boots by itself, from its own MBR, into the same system with Debian's usual
#                              kernel, on whatever controller it is: virtio, virtio-scsi, SATA, IDE, lsilogic, vmpvscsi
#                              (all tried), and lsisas1068 if the disk has a wwn. Its second
#                              partition is the data volume; the JSON says where that begins
# OUTDIR/files.raw, files/     a data disk with a FAT32 and an NTFS partition, and the tree that is on both
# OUTDIR/capabilities          what libvirt found out about QEMU, so that no host has to ask again
#
# What is up to date is kept. Nothing is installed; kernels and the agent are downloaded.
# Needs root (for the host that is asked), a C compiler and Rust, and what `install.sh kvm` installs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$(cd "$here/../../.." && pwd)/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
# shellcheck source=tests/peers/apt.sh
. "$here/../apt.sh"
export PATH=$PATH:/usr/sbin:/sbin

# Drivers, each after what it needs by name; what it needs as code is looked up. Those that a kernel has built in are
# passed over, as ext4 in the cloud kernel.
virtio=(virtio_pci virtio_blk virtio_console virtio_net)
scsi=(crct10dif_generic crc-t10dif crc64_rocksoft_generic crc64-rocksoft sd_mod virtio_scsi)
hardware=(vmw_pvscsi ata_piix ahci sym53c8xx mptsas e1000 e1000e vmxnet3)
ext4=(crc32c_generic ext4)
applets=(sh mount umount insmod findfs cat ls sleep usleep sync date kill hostname ifconfig poweroff md5sum sha256sum dd
    rm cp mkdir echo)

main() {
    [ $# -eq 1 ] || { sed -n '4p' "$0" | sed 's/^# *//' >&2; exit 2; }
    mkdir -p "$1"
    out=$(cd "$1" && pwd)
    work=$(mktemp -d "$out/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    stamped initrd.gz make_guest guest.sh guest.rs guest-init guest-shutdown
    stamped boot.raw make_boot guest.sh guest.rs guest-init guest-shutdown
    stamped files.raw make_files guest.sh
    capabilities
}

# stamped PRODUCT COMMAND FILES...: runs the command unless its product is there and was made from these very files.
stamped() {
    local product=$1 command=$2 stamp
    shift 2
    stamp=$(cd "$here" && cat "$@" | sha256sum)
    if [ -e "$out/$product" ] && [ "$(cat "$out/$product.stamp" 2>/dev/null)" = "$stamp" ]; then
        echo "up to date: $out/$product"
        return 0
    fi
    rm -rf "$out/$product" "$out/$product.stamp"
    $command
    echo "$stamp" >"$out/$product.stamp"
    echo "built: $out/$product"
}

# kernel METAPACKAGE FOLDER...: prints the package it stands for, wherever that lies already, else downloads it into the
# first folder; then unpacks of it what a guest can need into $work/METAPACKAGE.
kernel() {
    local package=$1 folder deb=
    shift
    for folder in "$@"; do
        deb=$(compgen -G "$folder/linux-image-[0-9]*-${package#linux-image-}_*.deb" | grep -E -- "-[0-9]+-${package#linux-image-}_" |
            sort -V | tail -1) || true
        if [ -n "$deb" ]; then break; fi
    done
    if [ -z "$deb" ]; then
        folder=$(apt_stands_for "$package")
        [ -n "$folder" ] || { echo "no package stands for $package" >&2; exit 1; }
        apt_download "$1" "$folder"
        deb=$(echo "$1/${folder}"_*.deb)
    fi
    mkdir -p "$work/$package"
    # Not every kernel has each of them as a module, and tar minds.
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/$package" --wildcards './boot/vmlinuz-*' \
        './lib/modules/*/kernel/'{lib,crypto,block,drivers/{virtio,scsi,ata}}'/*.ko' \
        '*/mptbase.ko' '*/mptscsih.ko' '*/net_failover.ko' '*/failover.ko' '*/ptp.ko' '*/pps_core.ko' '*/jbd2.ko' '*/mbcache.ko' \
        $(printf '*/%s.ko ' "${ext4[@]}" "${virtio[@]}" "${hardware[@]}") 2>/dev/null || true
    [ -n "$(find "$work/$package" -name virtio_console.ko)" ] || { echo "$deb holds no virtio_console.ko" >&2; exit 1; }
}

# add_module KERNEL NAME: copies it to $tree and appends it to $order, after all that it needs.
add_module() {
    local file name
    file=$(find "$1/lib/modules" -name "$2.ko" -print -quit)
    case " ${order[*]} " in *" $2 "*) return 0 ;; esac
    if [ -z "$file" ]; then return 0; fi
    for name in $(modinfo -F depends "$file" | tr ',' ' '); do
        if [ -z "$(find "$1/lib/modules" -name "$name.ko" -print -quit)" ]; then
            name=$(find "$1/lib/modules" -name "${name//_/[-_]}.ko" -printf '%f' -quit)
            [ -n "$name" ] || { echo "$2 needs a module that was not unpacked" >&2; exit 1; }
        fi
        add_module "$1" "${name%.ko}"
    done
    cp "$file" "$tree/lib/"
    order+=("$2")
}

# tree KERNEL MODULES...: the guest's own system, with the drivers of that kernel, as OUT.
tree() {
    local tree=$work/tree kernel=$work/$1 name order
    shift
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,sbin,lib,proc,sys,dev,run,tmp,data,etc/qemu,usr/sbin}
    cp /bin/busybox "$tree/bin/"
    for name in "${applets[@]}"; do ln -s busybox "$tree/bin/$name"; done
    order=()
    for name in "$@"; do add_module "$kernel" "$name"; done
    echo "${order[*]}" >"$tree/lib/order"
    if [ ! -e "$work/guest" ]; then
        rustc --edition 2024 -O -C target-feature=+crt-static -C panic=abort -C strip=symbols -o "$work/guest" "$here/guest.rs"
    fi
    cp "$work/guest" "$tree/bin/"
    ln -s /bin/guest "$tree/etc/qemu/fsfreeze-hook"
    install -m 755 "$here/guest-init" "$tree/init"
    install -m 755 "$here/guest-shutdown" "$tree/sbin/shutdown"
    printf '%s\n' 'ID=stillframe-guest' 'NAME="stillframe guest"' 'VERSION_ID="1"' >"$tree/etc/os-release"
    add_agent "$tree"
}

pack() { (cd "$work/tree" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet | gzip -n) >"$1"; }

make_guest() {
    kernel linux-image-cloud-amd64 "$target/peers/linux/debs"
    tree linux-image-cloud-amd64 "${virtio[@]}" "${scsi[@]}" vmw_pvscsi ata_piix
    cp "$work"/linux-image-cloud-amd64/boot/vmlinuz-* "$out/vmlinuz"
    pack "$out/initrd.gz"
}

boot_mib=40 data_mib=56
data_uuid=5f1cf4a3-0002-4000-8000-7374696c6c66

make_boot() {
    local fat=$work/fat.img data=$work/data.img disk=$work/boot.raw
    kernel linux-image-amd64 "$out/debs" "$target/peers/guestfs/packages"
    tree linux-image-amd64 "${ext4[@]}" "${virtio[@]}" "${scsi[@]}" "${hardware[@]}"
    pack "$work/initrd.gz"
    cp "$work"/linux-image-amd64/boot/vmlinuz-* "$work/vmlinuz"
    truncate -s "${boot_mib}M" "$fat"
    mkfs.vfat -F 16 -n SFGUEST -i 5f1cb008 -h 2048 "$fat" >/dev/null
    printf '%s\n' 'SERIAL 0 115200' 'DEFAULT linux' 'PROMPT 0' 'LABEL linux' '  LINUX vmlinuz' '  INITRD initrd.gz' \
        "  APPEND console=ttyS0 panic=-1 quiet rdinit=/init name=restored data=UUID=$data_uuid" >"$work/syslinux.cfg"
    mcopy -i "$fat" "$work/vmlinuz" "$work/initrd.gz" "$work/syslinux.cfg" ::/
    syslinux --install "$fat"
    truncate -s "${data_mib}M" "$data"
    mkfs.ext4 -q -F -U "$data_uuid" -E hash_seed="$data_uuid",lazy_itable_init=0 "$data"
    truncate -s $((1 + boot_mib + data_mib))M "$disk"
    sfdisk -q "$disk" <<TABLE
label: dos
label-id: 0x5f1c0002
start=2048, size=$((boot_mib * 2048)), type=e, bootable
start=$(((1 + boot_mib) * 2048)), size=$((data_mib * 2048)), type=83
TABLE
    dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" conv=notrunc status=none
    dd if="$fat" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
    dd if="$data" of="$disk" bs=1M seek=$((1 + boot_mib)) conv=notrunc,sparse status=none
    echo "{\"capacity\": $(stat -c %s "$disk"), \"data_offset\": $(((1 + boot_mib) * 1048576)), \"data_uuid\": \"$data_uuid\"}" \
        >"$out/boot.json"
    mv "$disk" "$out/boot.raw"
}

# The files that a mount of a running guest's disk must show: small and big ones, long and foreign names, deep folders.
make_tree() {
    local tree=$1 number
    mkdir -p "$tree/Документы/deep/er/and deeper" "$tree/empty"
    for number in $(seq 1 60); do
        printf 'file %s\n' "$number" >"$tree/Документы/a file with a long name, number $number.txt"
    done
    printf 'Grüße\n' >"$tree/Документы/deep/er/and deeper/größe.txt"
    : >"$tree/nothing.bin"
    # Noise that follows from the line's number: nothing here depends on the day.
    seq 1 400000 | gzip -n >"$tree/noise.gz"
    seq 1 1500000 >"$tree/numbers.txt"
}

make_files() {
    local fat=$work/fat32.img ntfs=$work/ntfs.img disk=$work/files.raw tree=$work/files
    make_tree "$tree"
    truncate -s 48M "$fat"
    mkfs.vfat -F 32 -s 1 -n SFFAT -i 5f1cb009 -h 2048 "$fat" >/dev/null
    LC_ALL=C.UTF-8 mcopy -s -i "$fat" "$tree"/* ::/
    truncate -s 48M "$ntfs"
    mkntfs -q -F -Q -s 512 -p 100352 -H 0 -S 0 -L SFNTFS "$ntfs" >/dev/null 2>&1
    mkdir "$work/mnt"
    ntfs-3g "$ntfs" "$work/mnt"
    cp -r "$tree"/. "$work/mnt/" || { umount "$work/mnt"; exit 1; }
    umount "$work/mnt"
    truncate -s 98M "$disk"
    sfdisk -q "$disk" <<TABLE
label: dos
label-id: 0x5f1c0003
start=2048, size=98304, type=c
start=100352, size=98304, type=7
TABLE
    dd if="$fat" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
    dd if="$ntfs" of="$disk" bs=1M seek=49 conv=notrunc,sparse status=none
    rm -rf "$out/files"
    mv "$tree" "$out/files"
    mv "$disk" "$out/files.raw"
}

# The agent, and the libraries of this machine that it needs, which are of the same Debian.
add_agent() {
    local tree=$1 agent=$work/agent/usr/sbin/qemu-ga library
    apt_download "$out/debs" qemu-guest-agent
    dpkg-deb -x "$out"/debs/qemu-guest-agent_*.deb "$work/agent"
    cp "$agent" "$tree/usr/sbin/"
    if ldd "$agent" | grep 'not found' >&2; then echo "the guest agent's libraries are not installed" >&2; exit 1; fi
    for library in $(ldd "$agent" | grep -o '/[^ ]*'); do
        mkdir -p "$tree$(dirname "$library")"
        cp -L "$library" "$tree$library"
    done
}

versions() { dpkg-query -W -f '${Package} ${Version}\n' qemu-system-x86 libvirt-daemon-driver-qemu; }

# Asks once; libvirt itself notices when the answers are of another QEMU, another kernel, another libvirt.
capabilities() {
    local host
    if [ -e "$out/capabilities.stamp" ] && [ "$(cat "$out/capabilities.stamp")" = "$(versions)" ]; then return 0; fi
    host=$(mktemp -d)
    chmod 711 "$host"
    "$here/host.sh" start "$host" --owner $$
    virsh -q -c "$(cat "$host/uri")" domcapabilities --virttype qemu --machine q35 >/dev/null
    "$here/host.sh" stop "$host"
    rm -rf "$out/capabilities"
    mv "$host/cache" "$out/capabilities"
    rm -rf "$host"
    versions >"$out/capabilities.stamp"
    echo "built: $out/capabilities"
}

main "$@"
