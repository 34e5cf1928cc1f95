"""COWD extents: vmfsSparse, the deltas of ESX."""

import struct

from hosted import SECTOR, in_order, padded, words

# Entries of a grain table.
ENTRIES = 4096
TABLE = ENTRIES * 4 // SECTOR
HEADER = 4


def header(extent, tables, free, parent):
    child = struct.pack("<1024sI", parent.encode()[:1023], 0)
    name = struct.pack("<I60s512sI8xI396x", 0, b"", b"", 0, 0)
    fields = (1, 3, extent.length, extent.grain, HEADER, tables, free)
    return struct.pack("<4s7I", b"COWD", *fields) + child + name


def write(path, extent, parent="", *, order="sorted"):
    """Tables are made when their first grain is: they lie between the grains.

    order  of the grains in the file: sorted or shuffled
    """
    tables = -(-extent.length // (extent.grain * ENTRIES))
    directory = [0] * tables
    contents = {}
    at = HEADER + -(-tables * 4 // SECTOR)
    with open(path, "wb") as file:
        for number in in_order(extent.states, order):
            if extent.states[number] != "data":
                raise ValueError(f"grain {number}: a COWD extent cannot mark it as {extent.states[number]}")
            table, entry = divmod(number, ENTRIES)
            if not directory[table]:
                directory[table], contents[table], at = at, [0] * ENTRIES, at + TABLE
            contents[table][entry] = at
            file.seek(at * SECTOR)
            file.write(padded(extent, number))
            at += extent.grain
        for table, entries in contents.items():
            file.seek(directory[table] * SECTOR)
            file.write(words(entries))
        file.seek(0)
        file.write(header(extent, tables, at, parent))
        file.write(words(directory))
        file.truncate(at * SECTOR)
