"""streamOptimized extents: hosted sparse ones with compressed grains, in the layouts that different writers use."""

import struct
import zlib

from hosted import (
    BEYOND, COMPRESSED, DESCRIPTOR, DIRECTORY_AT_END, ENTRIES, MARKERS, NEWLINE_TEST, REDUNDANT, SECTOR, TABLE,
    directory_sectors, header, put_descriptor, put_directory, tables_of, words,
)

DEFLATE = 1
END_OF_STREAM, GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER = 0, 1, 2, 3


def marker(value, kind):
    return struct.pack("<QII496x", value, 0, kind)


class Writer:
    def __init__(self, file, extent, level, tail):
        self.file, self.extent, self.tail = file, extent, tail
        self.levels = level if isinstance(level, list) else [level]
        self.places = {}

    def sector(self):
        return self.file.tell() // SECTOR

    def put(self, data):
        self.file.write(data + bytes(-len(data) % SECTOR))

    def grain(self, number):
        data = self.extent.data(number)
        if self.tail == "padded":
            data = data.ljust(self.extent.grain * SECTOR, BEYOND)
        packed = zlib.compress(data, self.levels[len(self.places) % len(self.levels)])
        self.places[number] = self.sector()
        self.put(struct.pack("<QI", number * self.extent.grain, len(packed)) + packed)

    def table(self, table):
        """A grain table behind its marker; returns its sector."""
        self.put(marker(TABLE, GRAIN_TABLE))
        sector = self.sector()
        self.put(words([self.places.get(table * ENTRIES + i, 0) for i in range(ENTRIES)]))
        return sector


def write(
    path, extent, descriptor=None, *, version=3, level=6, tables="interleaved", directory="end", redundant=False,
    end_marker=True, tail="short",
):
    """
    level       of compression: one, or a list to take turns
    tables      interleaved (each after its grains) or end (all after all grains); only with the directory at the end
    directory   end (with a footer, and tables behind markers) or front (tables there too, no footer)
    redundant   a second directory; only in front
    end_marker  whether the end of the stream is marked; with a footer it always is
    tail        of the last grain: short (it has only the bytes that the disk has) or padded
    """
    flags = NEWLINE_TEST | COMPRESSED | MARKERS | (REDUNDANT if redundant else 0)
    where = (1, DESCRIPTOR) if descriptor else (0, 0)

    def head(rgd, gd, overhead):
        return header(version, flags, extent.length, extent.grain, where, rgd, gd, overhead, DEFLATE)

    with open(path, "wb") as file:
        writer = Writer(file, extent, level, tail)
        if directory == "front":
            at_front(writer, head, redundant)
            if end_marker:
                writer.put(marker(0, END_OF_STREAM))
        else:
            at_end(writer, head, tables)
        if descriptor:
            put_descriptor(file, descriptor)


def stored(extent):
    for number, state in sorted(extent.states.items()):
        if state != "data":
            raise ValueError(f"grain {number}: a streamOptimized extent cannot mark it as {state}")
        yield number


def at_end(writer, head, tables):
    extent, overhead = writer.extent, 128
    writer.file.write(head(0, DIRECTORY_AT_END, overhead))
    writer.file.seek(overhead * SECTOR)
    count = tables_of(extent)
    directory = [0] * count
    numbers = list(stored(extent))
    used = sorted({number // ENTRIES for number in numbers})
    if tables not in ("interleaved", "end"):
        raise ValueError(f"tables {tables}: interleaved or end")
    for table in used:
        for number in numbers:
            if number // ENTRIES == table:
                writer.grain(number)
        if tables == "interleaved":
            directory[table] = writer.table(table)
    if tables == "end":
        for table in used:
            directory[table] = writer.table(table)
    writer.put(marker(directory_sectors(count), GRAIN_DIRECTORY))
    gd = writer.sector()
    writer.put(words(directory))
    writer.put(marker(1, FOOTER))
    writer.put(head(0, gd, overhead))
    writer.put(marker(0, END_OF_STREAM))


def at_front(writer, head, redundant):
    extent, at = writer.extent, 1 + DESCRIPTOR
    count = tables_of(extent)
    copies = []
    for _ in range(2 if redundant else 1):
        first = at + directory_sectors(count)
        copies.append((at, {table: first + table * TABLE for table in range(count)}))
        at = first + count * TABLE
    writer.file.write(head(copies[0][0] if redundant else 0, copies[-1][0], at))
    writer.file.seek(at * SECTOR)
    for number in stored(extent):
        writer.grain(number)
    for sector, table_sectors in copies:
        put_directory(writer.file, sector, count, table_sectors, writer.places)
    writer.file.seek(0, 2)
