#!/bin/bash
# A guest by hand, on a host of host.sh: to try something at once. Tests use `acceptance::kvm` instead.
#
#   tests/peers/kvm/try.sh DIR NAME [OPTIONS ON THE KERNEL'S COMMAND LINE]
#
# Defines and starts a guest with vda (qcow2, ext4), vdb (raw ring) and vdc (qcow2 ring) in DIR/NAME, waits for its
# agent, and says how long that took. Serial output: DIR/NAME/serial. End: virsh destroy, or stop the host.
set -euo pipefail

[ $# -ge 2 ] || { sed -n '4p' "$0" | sed 's/^# *//' >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers=${STILLFRAME_PEERS:-${CARGO_TARGET_DIR:-$here/../../../target}/peers}
dir=$(cd "$1" && pwd) name=$2
shift 2
export LIBVIRT_DEFAULT_URI PATH=$PATH:/usr/sbin:/sbin
LIBVIRT_DEFAULT_URI=$(cat "$dir/uri")
mkdir "$dir/$name"
cd "$dir/$name"
cp "$peers"/kvm/{vmlinuz,initrd.gz} .
truncate -s 256M vda.raw && mkfs.ext4 -q -F vda.raw && qemu-img convert -O qcow2 vda.raw vda.qcow2 && rm vda.raw
# The head of a ring of 4095 blocks.
truncate -s 64M vdb.raw && printf 'STILLFRAME-RING\n\377\017\0\0\0\0\0\0' | dd of=vdb.raw conv=notrunc status=none
qemu-img convert -f raw -O qcow2 vdb.raw vdc.qcow2
disk() { echo "<disk type='file' device='disk'><driver name='qemu' type='$2'/><source file='$PWD/$1.$2'/><target dev='$1' bus='virtio'/></disk>"; }
cat >domain.xml <<XML
<domain type='qemu'>
  <name>$name</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>$PWD/vmlinuz</kernel><initrd>$PWD/initrd.gz</initrd>
    <cmdline>console=ttyS0 panic=-1 quiet rdinit=/init name=$name $*</cmdline></os>
  <features><acpi/></features><cpu mode='maximum'/>
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    $(disk vda qcow2)$(disk vdb raw)$(disk vdc qcow2)
    <controller type='usb' model='none'/><memballoon model='none'/>
    <serial type='file'><source path='$PWD/serial' append='on'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='unix'><target type='virtio' name='stillframe.control'/></channel>
  </devices>
</domain>
XML
virsh -q define domain.xml
start=${EPOCHREALTIME/[.,]/}
virsh -q start "$name"
until virsh -q qemu-agent-command "$name" '{"execute":"guest-ping"}' >/dev/null 2>&1; do
    if [ $((${EPOCHREALTIME/[.,]/} - start)) -gt 60000000 ]; then cat serial; echo "no agent within 60 s" >&2; exit 1; fi
    sleep 0.1
done
echo "agent answered after $(((${EPOCHREALTIME/[.,]/} - start) / 1000)) ms"
