#!/bin/bash
# Does this disk boot? Starts it as the only disk of a QEMU machine with SeaBIOS, by emulation (TCG), and waits for the
# guest's report on the serial line. The disk is not written to.
#
#   tests/peers/linux/boot.sh DISK FORMAT      FORMAT as qemu-img names it: raw, vmdk, qcow2
#
# Prints the line `STILLFRAME-BOOT-OK <sha256>` and returns 0, or prints the end of the serial output and returns 1.
# STILLFRAME_BOOT_DEADLINE: seconds to wait, 120 unless set (it takes about 10).
set -euo pipefail
if [ $# -ne 2 ]; then
    echo "usage: $0 DISK FORMAT" >&2
    exit 2
fi
disk=$(realpath "$1")
format=$2
case $format in raw | vmdk | qcow2) ;; *) echo "unknown format: $format" >&2; exit 2 ;; esac
deadline=${STILLFRAME_BOOT_DEADLINE:-120}

work=$(mktemp -d)
machine=
cleanup() {
    if [ -n "$machine" ]; then kill "$machine" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' TERM INT

# A comma ends a value in QEMU's option syntax; two stand for one.
TMPDIR=$work timeout --kill-after=5 "$deadline" qemu-system-x86_64 \
    -nodefaults -no-user-config -machine pc -accel tcg,thread=multi -cpu max -m 256 \
    -display none -monitor none -no-reboot -serial "file:$work/serial" \
    -drive "file=${disk//,/,,},format=$format,if=none,id=disk,snapshot=on" \
    -device virtio-blk-pci,drive=disk,bootindex=0 2>"$work/stderr" &
machine=$!
status=0
wait "$machine" || status=$?
machine=

touch "$work/serial"
if line=$(tr -d '\r' <"$work/serial" | grep -a -o -E 'STILLFRAME-BOOT-OK [0-9a-f]{64}'); then
    echo "$line"
    exit 0
fi
if [ "$status" -eq 124 ]; then echo "no report within $deadline s" >&2; else echo "QEMU ended with $status" >&2; fi
cat "$work/stderr" >&2
tail -n 20 "$work/serial" | tr -d '\r' >&2
exit 1
