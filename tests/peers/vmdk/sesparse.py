"""seSparse extents: the deltas of ESXi on VMFS 6, and of every disk beyond 2 TiB."""

import struct

from hosted import SECTOR, in_order, padded

GRAIN = 8
# Sectors of a grain table, and its entries of eight bytes.
TABLE = 64
ENTRIES = TABLE * SECTOR // 8
JOURNAL = 2048
DIRECTORY = 4096

PRESENT = 0x1000000000000000
UNMAPPED, ZERO, ALLOCATED = 0x1 << 60, 0x2 << 60, 0x3 << 60


def allocated(number):
    """The entry of a grain: the low twelve bits of its number stand above the others."""
    return ALLOCATED | (number & 0xFFF) << 48 | number >> 12


def up(value, step):
    return -(-value // step) * step


def layout(capacity, tables, grains):
    """Name to (offset, size), in the order of the header."""
    parts = {"volatile": (1, 1), "journal header": (2, 2), "journal": (JOURNAL, JOURNAL)}
    at = DIRECTORY
    all_grains = -(-capacity // GRAIN)
    sizes = {
        "directory": -(-tables * 8 // SECTOR),
        "tables": tables * TABLE,
        "free bitmap": -(-all_grains // (8 * SECTOR)),
        "backmap": -(-all_grains * 8 // SECTOR),
        "grains": grains * GRAIN,
    }
    for name, size in sizes.items():
        parts[name] = (at, size)
        at = up(at + size, JOURNAL)
    return parts


def write(path, extent, *, order="sorted", directory="sorted", empty_tables=(), scatter=1):
    """
    order         of the grains in the file: sorted or shuffled
    directory     the order of the tables
    empty_tables  directory entries whose table is there, with no grain in it
    scatter       distance of the grains in the file, so that grain numbers become large
    """
    if extent.grain != GRAIN:
        raise ValueError(f"a grain of {extent.grain} sectors: seSparse has {GRAIN}")
    count = -(-extent.length // (GRAIN * ENTRIES))
    numbers = in_order((n for n, state in extent.states.items() if state == "data"), order)
    places = {number: i * scatter for i, number in enumerate(numbers)}
    used = in_order({n // ENTRIES for n in extent.states} | set(empty_tables), directory)
    parts = layout(extent.length, count, max(places.values(), default=0) + 1)
    with open(path, "wb") as file:
        fields = [field for part in parts.values() for field in part]
        fixed = (0xCAFEBABE, 0x200000001, extent.length, GRAIN, TABLE, 0, 0, 0, 0, 0)
        file.write(struct.pack("<26Q304x", *fixed, *fields))
        file.write(struct.pack("<4Q480x", 0xCAFECAFE, len(used), 1, 0))
        tables = {}
        for index, table in enumerate(used):
            file.seek(parts["directory"][0] * SECTOR + table * 8)
            file.write(struct.pack("<Q", PRESENT | index))
            tables[table] = bytearray(TABLE * SECTOR)
        for number, state in extent.states.items():
            entry = {"unmapped": UNMAPPED, "zero": ZERO}.get(state) or allocated(places[number])
            struct.pack_into("<Q", tables[number // ENTRIES], number % ENTRIES * 8, entry)
        for index, table in enumerate(used):
            file.seek((parts["tables"][0] + index * TABLE) * SECTOR)
            file.write(tables[table])
        for number in numbers:
            file.seek((parts["grains"][0] + places[number] * GRAIN) * SECTOR)
            file.write(padded(extent, number))
        file.truncate((parts["grains"][0] + parts["grains"][1]) * SECTOR)
