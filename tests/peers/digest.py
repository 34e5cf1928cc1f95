#!/usr/bin/env python3
"""The digest of a raw disk image, written from its definition alone (proxy/src/export/digest.rs) and sharing no code with ours.

    digest.py FILE
"""
import struct
import sys

from blake3 import blake3

BLOCK = 1 << 20


def digest(path):
    with open(path, "rb") as disk:
        capacity = disk.seek(0, 2)
        disk.seek(0)
        whole = blake3(derive_key_context="stillframe 2026-11 disk digest v1")
        whole.update(struct.pack("<Q", capacity))
        index = 0
        while block := disk.read(BLOCK):
            if block.count(0) != len(block):
                whole.update(struct.pack("<Q", index) + blake3(block).digest())
            index += 1
    return "blake3-blocks:" + whole.hexdigest()


if __name__ == "__main__":
    print(digest(sys.argv[1]))
