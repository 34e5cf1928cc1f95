#!/bin/bash
# Installs the real peers that the tests meet, below target/peers. Debian 12 on amd64, as root, no systemd.
#
#   tests/peers/install.sh            all that the tests need
#   tests/peers/install.sh kvm        only libvirt, its development files, and all that its guests need
#   tests/peers/install.sh guestfs    what only a benchmark needs; see there
#
# What is there already is kept, so a second run takes a moment. Nothing is started.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}
mkdir -p "$target/peers"
target=$(cd "$target" && pwd)
peers=$target/peers
# shellcheck source=tests/peers/apt.sh
. "$here/apt.sh"

# Slots of 4 KiB in the log that a simulated guest writes inside the boot fixture: 4 MiB, ten seconds of writing.
guest_log_slots=1024

# Programs that judge our images and make fixtures, one line per need.
judges=(
    libvmdk-utils                       # VMDKs: vmdkinfo
    ntfs-3g dosfstools mtools e2fsprogs # file systems: ntfsinfo, ntfscat, fsck.fat, mdir, e2fsck, debugfs
    wimtools attr                       # what NTFS compresses: wimlib-imagex; setfattr, which has ntfs-3g compress
    sleuthkit                           # a third reader of FAT and exFAT: fls, icat, istat
    fdisk gdisk                         # partition tables: sfdisk, sgdisk
    exfatprogs xfsprogs btrfs-progs     # volumes to be recognised
    exfat-fuse fuse3                    # file systems that are mounted
    nbdkit libnbd-bin                   # NBD: a server beside qemu-nbd, and nbdinfo and nbdcopy, which read any
    python3-hivex                       # registry hives
)
# What the boot fixture is put together with.
fixture=(cpio busybox-static syslinux syslinux-common kmod)
# The foreign client's and the foreign server's tools.
vsphere=(python3-venv golang-go golang-github-vmware-govmomi-dev)
# Backup products that the integration modules serve, and that read what is mounted.
products=(restic borgbackup rsync)
# qemu-img judges every VMDK; the machine boots what was restored.
qemu=(qemu-utils qemu-system-x86 seabios)

# A libvirt host of our own with running guests, and what the program's libvirt adapter is built with.
hypervisor=(
    libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients # the daemons and virsh
    libvirt-dev pkg-config gcc libc6-dev                             # the cargo feature `libvirt`
    qemu-system-x86 qemu-utils qemu-block-extra seabios ipxe-qemu    # machines, qemu-nbd, disks on iSCSI
    nbdkit libnbd-bin gnutls-bin                                     # other NBD servers and clients
    virtnbdbackup                                                    # the backup product beside which ours is measured
    ovmf swtpm swtpm-tools                                           # machines with UEFI and a TPM
)

# libFuzzer, which tests/fuzz is built with, is C++.
fuzz() {
    apt_stable g++
}

packages() {
    apt_stable "${judges[@]}" "${fixture[@]}" "${vsphere[@]}" "${products[@]}"
    apt_backports "${qemu[@]}"
}

kvm() {
    apt_backports "${hypervisor[@]}"
    apt_stable "${fixture[@]}" ntfs-3g dosfstools mtools e2fsprogs fdisk
    "$here/kvm/guest.sh" "$peers/kvm"
}

govmomi() {
    "$here/govmomi/build.sh" "$peers/govmomi-sim"
}

# venv NAME MODULES: what NAME/requirements.txt asks for, in NAME-venv; the modules show that it is there.
venv() {
    local venv=$peers/$1-venv needs=$here/$1/requirements.txt
    if cmp -s "$needs" "$venv/requirements.txt" && "$venv/bin/python" -c "import $2" 2>/dev/null; then
        return 0
    fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$venv"
        /usr/bin/python3 -m venv "$venv"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$needs"
    cp "$needs" "$venv/requirements.txt"
}

pyvmomi() {
    venv pyvmomi pyVmomi
}

vmdk() {
    venv vmdk dissect.hypervisor.disk.vmdk,pyvmdk
}

# Samples that other readers are tested with; nothing of them is ours to give away.
dissect() {
    "$here/dissect.sh" "$peers"
}

linux() {
    local log=$peers/guest.log
    (cd "$top" && cargo run --quiet --locked -p lab --example guestlog -- "$guest_log_slots") >"$log.new"
    mv "$log.new" "$log"
    "$here/linux/build.sh" "$peers/linux" --log-file "$log"
}

# guestmount, to be measured beside us and for nothing else, so only when asked for: 89 packages, and a kernel of its own.
guestfs() {
    local image
    apt_stable guestmount
    image=$(apt_stands_for linux-image-cloud-amd64)
    apt_download "$peers/guestfs/packages" "$image"
    rm -rf "$peers/guestfs/kernel"
    dpkg-deb -x "$peers/guestfs/packages/${image}"_*.deb "$peers/guestfs/kernel"
    depmod -b "$peers/guestfs/kernel" "${image#linux-image-}"
}

if [ "$(dpkg --print-architecture 2>/dev/null)" != amd64 ]; then
    echo "The peers are Debian packages for amd64, and this is another machine: see tests/peers/README.md" >&2
    exit 1
fi
export PATH=$PATH:/usr/sbin:/sbin
if [ $# -eq 0 ]; then set -- packages fuzz govmomi pyvmomi vmdk dissect linux kvm; fi
for part in "$@"; do
    echo "peers: $part"
    $part
done
