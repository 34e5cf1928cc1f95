#!/usr/bin/env python3
"""Reads a whole disk with a foreign reader into a sparse raw file.

    read.py READER TOP OUT.raw [START:LENGTH...]

READER is dissect or libvmdk (their venv's python runs this) or qemu. With byte ranges only those are read, and lie one
after the other in OUT.raw.
"""

import json
import os
import pathlib
import subprocess
import sys

SECTOR = 512
PIECE = 1 << 20


def dissect(top):
    from dissect.hypervisor.disk.vmdk import VMDK

    disk = VMDK(pathlib.Path(top))
    # Not disk.read: it reads ahead to the next 8 KiB, and fails at the end of a disk that is no multiple of that.
    return disk.size, lambda start, length: disk.read_sectors(start // SECTOR, length // SECTOR)


def libvmdk(top):
    handle = opened_with_parents(pathlib.Path(top))
    return handle.get_media_size(), lambda start, length: handle.read_buffer_at_offset(length, start)


def opened_with_parents(path):
    import pyvmdk

    handle = pyvmdk.handle()
    handle.open(str(path))
    handle.open_extent_data_files()
    parent = handle.get_parent_filename()
    if parent:
        # Hints may be paths of the machine that the disk came from: only the name counts here.
        handle.set_parent(opened_with_parents(path.parent / parent.rpartition("/")[2]))
    return handle


def copy(size, read, ranges, out):
    at = 0
    for start, length in ranges or [(0, size)]:
        end = start + length
        while start < end:
            data = read(start, min(PIECE, end - start))
            if not data:
                raise EOFError(f"no data at byte {start} of {end}")
            if data.count(0) != len(data):
                out.seek(at)
                out.write(data)
            start, at = start + len(data), at + len(data)
    out.truncate(at)


def qemu(top, ranges, path):
    with open(path, "wb") as out:
        for start, length in ranges:
            part = f"{path}.part"
            disk = {"driver": "vmdk", "file": {"driver": "file", "filename": top}}
            source = "json:" + json.dumps({"driver": "raw", "offset": start, "size": length, "file": disk})
            subprocess.run(["qemu-img", "convert", "-O", "raw", source, part], check=True)
            with open(part, "rb") as file:
                while data := file.read(PIECE):
                    out.write(data)
            os.unlink(part)


def main(reader, top, path, *ranges):
    ranges = [tuple(map(int, text.split(":"))) for text in ranges]
    if reader == "qemu":
        if ranges:
            qemu(top, ranges, path)
        else:
            subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", top, path], check=True)
        return
    size, read = {"dissect": dissect, "libvmdk": libvmdk}[reader](top)
    with open(path, "wb") as out:
        copy(size, read, ranges, out)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
