"""Hosted sparse extents, magic KDMV: monolithicSparse, twoGbMaxExtentSparse, and hosted deltas."""

import random
import struct

SECTOR = 512
# Entries of a grain table; a table has four sectors.
ENTRIES = 512
TABLE = ENTRIES * 4 // SECTOR

NEWLINE_TEST, REDUNDANT, ZEROED, COMPRESSED, MARKERS = 1 << 0, 1 << 1, 1 << 2, 1 << 16, 1 << 17
DIRECTORY_AT_END = 0xFFFFFFFFFFFFFFFF
ZEROED_GRAIN = 1
# Sectors for an embedded descriptor: readers look at no more.
DESCRIPTOR = 20
# Fills what a last grain has beyond the end of the disk: nobody may see it.
BEYOND = b"\xee"


def header(version, flags, capacity, grain, descriptor, rgd, gd, overhead, algorithm=0, unclean=False):
    """`descriptor` is (offset, size)."""
    return struct.pack(
        "<4sIIQQQQIQQQB4sH433x", b"KDMV", version, flags, capacity, grain, *descriptor, ENTRIES, rgd, gd, overhead,
        unclean, b"\n \r\n", algorithm,
    )


def tables_of(extent):
    return -(-extent.length // (extent.grain * ENTRIES))


def directory_sectors(tables):
    return -(-tables * 4 // SECTOR)


def words(values):
    return struct.pack(f"<{len(values)}I", *values)


def padded(extent, number):
    return extent.data(number).ljust(extent.grain * SECTOR, BEYOND)


def in_order(numbers, order):
    numbers = sorted(numbers)
    if order == "shuffled":
        random.Random(len(numbers)).shuffle(numbers)
    elif order != "sorted":
        raise ValueError(f"order {order}: sorted or shuffled")
    return numbers


def put_descriptor(file, descriptor):
    if len(descriptor) > DESCRIPTOR * SECTOR:
        raise ValueError(f"a descriptor of {len(descriptor)} bytes is too long to be embedded")
    file.seek(SECTOR)
    file.write(descriptor)


def write(
    path, extent, descriptor=None, *, version=None, redundant=True, order="sorted", tail="padded", tables="all",
    damage=None, begin=0, unclean=False,
):
    """
    order    of the grains in the file: sorted or shuffled
    tail     of the last grain: padded, or cut (the file ends with the disk)
    tables   all, or used (none where no grain is)
    damage   directory: the entries of the first one lie beyond the file; the redundant one is whole
    begin    no grain lies before this sector, so that sector numbers become large
    unclean  the mark of a disk whose machine runs
    """
    zeroed = "zero" in extent.states.values()
    count = tables_of(extent)
    present = [i for i in range(count) if tables == "all" or any(n // ENTRIES == i for n in extent.states)]
    at = 1 + (DESCRIPTOR if descriptor else 0)
    copies = []  # of the directory: (sector, {table: sector})
    for _ in range(2 if redundant else 1):
        first = at + directory_sectors(count)
        copies.append((at, {table: first + i * TABLE for i, table in enumerate(present)}))
        at = first + len(present) * TABLE
    overhead = -(-at // extent.grain) * extent.grain
    places = placed(extent, max(overhead, begin), order, tail)

    with open(path, "wb") as file:
        flags = NEWLINE_TEST | (REDUNDANT if redundant else 0) | (ZEROED if zeroed else 0)
        where = (1, DESCRIPTOR) if descriptor else (0, 0)
        version = version or (2 if zeroed else 1)
        rgd, gd = copies[0][0] if redundant else 0, copies[-1][0]
        file.write(header(version, flags, extent.length, extent.grain, where, rgd, gd, overhead, unclean=unclean))
        if descriptor:
            put_descriptor(file, descriptor)
        for sector, table_sectors in copies:
            put_directory(file, sector, count, table_sectors, places)
        if damage == "directory":
            file.seek(gd * SECTOR)
            file.write(words([0x7FFFFF00 + i for i in range(count)]))
        file.truncate(overhead * SECTOR)
        for number, place in places.items():
            if place != ZEROED_GRAIN:
                file.seek(place * SECTOR)
                file.write(extent.data(number) if tail == "cut" else padded(extent, number))


def placed(extent, first, order, tail):
    """Grain to what its entry says; those that are stored in the order in which they lie in the file."""
    numbers = in_order((n for n, state in extent.states.items() if state == "data"), order)
    last = (extent.length - 1) // extent.grain
    if tail == "cut" and last in numbers:
        numbers.remove(last)
        numbers.append(last)
    places = {number: first + i * extent.grain for i, number in enumerate(numbers)}
    return places | {number: ZEROED_GRAIN for number, state in extent.states.items() if state == "zero"}


def put_directory(file, sector, count, table_sectors, places):
    file.seek(sector * SECTOR)
    file.write(words([table_sectors.get(table, 0) for table in range(count)]))
    for table, place in table_sectors.items():
        file.seek(place * SECTOR)
        file.write(words([places.get(table * ENTRIES + i, 0) for i in range(ENTRIES)]))
