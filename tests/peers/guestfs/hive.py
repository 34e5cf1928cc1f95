"""A registry hive as small as it can be: keys without a tree below, and their values.

Facts from M. Suhanov, "Windows registry file format specification". hivex must be able to read it: make_windows_disk.py
asks it.
"""

import struct

NONE = 0xFFFFFFFF
BASE, BIN_HEAD, PAGE = 4096, 32, 4096
ROOT_KEY, ASCII_KEY, ASCII_VALUE = 0x0C, 0x20, 1
REG_BINARY, REG_DWORD = 3, 4
INLINE = 1 << 31
# 2024-01-01, in units of 100 ns from 1601 on.
TIME = 133485408000000000
# Everybody may read: revision 1, no owner, no group, no list of rights.
SECURITY = struct.pack("<BBH4I", 1, 0, 0x8000, 0, 0, 0, 0)


class Bins:
    """Cells, one after the other. A cell is named by its offset from the end of the base block."""

    def __init__(self):
        self.data = bytearray(BIN_HEAD)

    def cell(self, body):
        at, size = len(self.data), -(-(4 + len(body)) // 8) * 8
        self.data += struct.pack("<i", -size) + body.ljust(size - 4, b"\0")
        return at

    def sealed(self):
        size = -(-(len(self.data) + 8) // PAGE) * PAGE
        free = size - len(self.data)
        self.data += struct.pack("<i", free).ljust(free, b"\0")
        struct.pack_into("<4sIIQQI", self.data, 0, b"hbin", 0, size, 0, TIME, 0)
        return bytes(self.data)


def key(bins, name, parent, security, values=(), flags=ASCII_KEY):
    """A key and its list of values: (name, type, bytes). What is below it is filled in by `adopt`."""
    value_list = NONE
    if values:
        cells = [value(bins, *one) for one in values]
        value_list = bins.cell(struct.pack(f"<{len(cells)}I", *cells))
    names, data = [2 * len(label) for label, _, _ in values], [len(data) for _, _, data in values]
    encoded = name.encode("latin-1")
    head = struct.pack("<2sHQII", b"nk", flags, TIME, 0, parent)
    lists = struct.pack("<8I", 0, 0, NONE, NONE, len(values), value_list, security, NONE)
    longest = max(names, default=0), max(data, default=0)
    return bins.cell(head + lists + struct.pack("<5IHH", 0, 0, *longest, 0, len(encoded), 0) + encoded)


def adopt(bins, parent, children):
    """Gives a key its subkeys: (name, cell), sorted by upper case."""
    hints = b"".join(struct.pack("<I4s", cell, label.encode()[:4]) for label, cell in children)
    subkeys = bins.cell(struct.pack("<2sH", b"lf", len(children)) + hints)
    struct.pack_into("<I", bins.data, parent + 4 + 0x14, len(children))
    struct.pack_into("<I", bins.data, parent + 4 + 0x1C, subkeys)
    struct.pack_into("<I", bins.data, parent + 4 + 0x34, max(2 * len(label) for label, _ in children))


def value(bins, name, kind, data):
    size, place = len(data), 0
    if size <= 4:
        size, place = size | INLINE, int.from_bytes(data, "little")
    else:
        place = bins.cell(data)
    encoded = name.encode("latin-1")
    return bins.cell(struct.pack("<2sHIIIHH", b"vk", len(encoded), size, place, kind, ASCII_VALUE, 0) + encoded)


def hive(keys):
    """The bytes of a hive. `keys`: name to [(value's name, type, bytes)...], all below the root."""
    bins = Bins()
    security = len(bins.data)
    bins.cell(struct.pack("<2sHIIII", b"sk", 0, security, security, len(keys) + 1, len(SECURITY)) + SECURITY)
    root = key(bins, "ROOT", NONE, security, flags=ROOT_KEY | ASCII_KEY)
    names = sorted(keys, key=str.upper)
    adopt(bins, root, [(name, key(bins, name, root, security, keys[name])) for name in names])
    data = bins.sealed()
    return base(root, len(data)) + data


def base(root, size):
    block = bytearray(BASE)
    struct.pack_into("<4sIIQIIIIIII", block, 0, b"regf", 1, 1, TIME, 1, 3, 0, 1, root, size, 1)
    block[48:112] = "\\System32\\Config\\SYSTEM".encode("utf-16-le").ljust(64, b"\0")
    checksum = 0
    for (word,) in struct.iter_unpack("<I", block[:508]):
        checksum ^= word
    struct.pack_into("<I", block, 508, checksum)
    return bytes(block)
