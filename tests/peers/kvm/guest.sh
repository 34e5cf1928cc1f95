#!/bin/bash
# Builds what the guests of a private libvirt host are made of.
#
#   tests/peers/kvm/guest.sh OUTDIR      OUTDIR is target/peers/kvm
#
# OUTDIR/vmlinuz, initrd.gz    Debian's cloud kernel, and a system of its own in memory: busybox, Debian's guest agent,
#                              and guest.rs, which writes numbered records; guest-init lists the options
# OUTDIR/capabilities          what libvirt found out about QEMU, so that no host has to ask again
#
# What is up to date is kept. Nothing is mounted and nothing is installed; the kernel and the agent are downloaded.
# Needs root (for the host that is asked), a C compiler and Rust, and what `install.sh kvm` installs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$(cd "$here/../../.." && pwd)/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
# shellcheck source=tests/peers/apt.sh
. "$here/../apt.sh"
export PATH=$PATH:/usr/sbin:/sbin

# In the order of insertion; ext4 and NVMe are built into Debian's cloud kernel.
modules=(virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk virtio_console
    failover net_failover virtio_net
    scsi_common scsi_mod sd_mod virtio_scsi vmw_pvscsi libata ata_piix)
applets=(sh mount umount insmod findfs cat ls sleep usleep sync date kill hostname ifconfig poweroff md5sum sha256sum dd
    rm cp mkdir echo)

main() {
    [ $# -eq 1 ] || { sed -n '4p' "$0" | sed 's/^# *//' >&2; exit 2; }
    mkdir -p "$1"
    out=$(cd "$1" && pwd)
    work=$(mktemp -d "$out/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    stamped initrd.gz make_guest guest.sh guest.rs guest-init guest-shutdown
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

# The kernel that the boot fixture has too, wherever its package lies already.
unpack_packages() {
    local debs=$target/peers/linux/debs kernel
    kernel=$(compgen -G "$debs/linux-image-*-cloud-amd64_*.deb" | sed 's|.*/||; s|_.*||' | sort -V | tail -1) ||
        kernel=$(apt_stands_for linux-image-cloud-amd64)
    [ -n "$kernel" ] || { echo "no package stands for linux-image-cloud-amd64" >&2; exit 1; }
    apt_download "$debs" "$kernel"
    apt_download "$out/debs" qemu-guest-agent
    dpkg-deb -x "$debs/${kernel}"_*.deb "$work/kernel"
    dpkg-deb -x "$out"/debs/qemu-guest-agent_*.deb "$work/agent"
}

make_guest() {
    local tree=$work/tree name file
    unpack_packages
    mkdir -p "$tree"/{bin,sbin,lib,proc,sys,dev,run,tmp,data,etc/qemu,usr/sbin}
    cp /bin/busybox "$tree/bin/"
    for name in "${applets[@]}"; do ln -s busybox "$tree/bin/$name"; done
    for name in "${modules[@]}"; do
        file=$(find "$work/kernel/lib/modules" -name "$name.ko" -print -quit)
        [ -n "$file" ] || { echo "the kernel package holds no $name.ko" >&2; exit 1; }
        cp "$file" "$tree/lib/"
    done
    echo "${modules[*]}" >"$tree/lib/order"
    rustc --edition 2024 -O -C target-feature=+crt-static -C panic=abort -C strip=symbols -o "$tree/bin/guest" "$here/guest.rs"
    ln -s /bin/guest "$tree/etc/qemu/fsfreeze-hook"
    install -m 755 "$here/guest-init" "$tree/init"
    install -m 755 "$here/guest-shutdown" "$tree/sbin/shutdown"
    printf '%s\n' 'ID=stillframe-guest' 'NAME="stillframe guest"' 'VERSION_ID="1"' >"$tree/etc/os-release"
    add_agent "$tree"
    cp "$work"/kernel/boot/vmlinuz-* "$out/vmlinuz"
    (cd "$tree" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet | gzip -n) >"$out/initrd.gz"
}

# The agent, and the libraries of this machine that it needs, which are of the same Debian.
add_agent() {
    local tree=$1 agent=$work/agent/usr/sbin/qemu-ga library
    cp "$agent" "$tree/usr/sbin/"
    if ldd "$agent" | grep 'not found' >&2; then echo "the guest agent's libraries are not installed" >&2; exit 1; fi
    for library in $(ldd "$agent" | grep -o '/[^ ]*'); do
        mkdir -p "$tree$(dirname "$library")"
        cp -L "$library" "$tree$library"
    done
}

# Asks once; libvirt itself notices when the answers are of another QEMU, another kernel, another libvirt.
capabilities() {
    local host
    host=$(mktemp -d)
    chmod 711 "$host"
    "$here/host.sh" start "$host" --owner $$
    virsh -q -c "$(cat "$host/uri")" domcapabilities --virttype qemu --machine q35 >/dev/null
    "$here/host.sh" stop "$host"
    rm -rf "$out/capabilities"
    mv "$host/cache" "$out/capabilities"
    rm -rf "$host"
    echo "built: $out/capabilities"
}

main "$@"
