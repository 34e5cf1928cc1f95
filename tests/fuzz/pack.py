"""Packs images into inputs of the fuzz targets; src/input.rs, src/packed.rs and src/disk.rs say what those look like."""

import os
import re
import struct
import zlib

SECTOR = 512
LARGEST = 64 << 10
# Bytes of a segment, and segments of a file.
LONGEST = 63 * SECTOR
MOST = 255
# The bit of a segment's length that says "to be packed", and the longest pattern of a recipe.
PACKED = 1 << 15
PATTERN = 64
# The most data of a file that is looked at.
MOST_DATA = 4 << 20


class TooLarge(Exception):
    pass


def number(value, length):
    return value.to_bytes(length, "little")


def descriptor_of(path):
    """The descriptor of a file, or the one inside it."""
    with open(path, "rb") as file:
        head = file.read(4 << 10)
        offset, size = struct.unpack_from("<QQ", head, 0x1C) if head.startswith(b"KDMV") else (0, 2 << 11)
        file.seek(offset * SECTOR)
        return file.read(size * SECTOR).split(b"\0")[0]


def field(text, key, default):
    found = re.search(rf'^\s*{key}\s*=\s*"?([^"\r\n]*)', text, re.MULTILINE | re.IGNORECASE)
    return found[1].strip() if found else default


def extents(text):
    """(sectors, name) of all extents that have a file."""
    lines = re.findall(r'^\s*(?:RW|RDONLY)\s+(\d+)\s+\w+\s+"([^"]*)"', text, re.MULTILINE)
    return [(int(sectors), name) for sectors, name in lines]


def stored(path):
    """(first byte, bytes) of what a sparse file stores, in whole sectors."""
    total = 0
    with open(path, "rb") as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # no data behind this
                return
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            total += end - start
            if total > MOST_DATA:
                raise TooLarge(f"{path.name} stores more than {MOST_DATA} bytes")
            yield start, os.pread(file.fileno(), end - start, start)


def recipe(data, at):
    """The recipe of the compressed grain at a byte, and the grain's length; None if there is no short one."""
    lba, size = struct.unpack_from("<QI", data, at)
    try:
        plain = zlib.decompress(data[at + 12:at + 12 + size])
    except zlib.error:
        return None
    for length in range(1, PATTERN + 1):
        if plain == (plain[:length] * (len(plain) // length + 1))[:len(plain)]:
            return number(lba, 8) + number(len(plain), 3) + bytes(4) + b"\2" + plain[:length], 12 + size
    return None


def segments(start, data, packed):
    """(sector, length field, bytes) of what is not zeros in data from byte `start` of the file on."""
    at, plain = 0, bytearray()

    def flush():
        first = (start + at - len(plain)) // SECTOR
        for begin in range(0, len(plain), LONGEST):
            piece = bytes(plain[begin:begin + LONGEST].rstrip(b"\0"))
            yield first + begin // SECTOR, len(piece), piece
        plain.clear()

    while at < len(data):
        marked = packed and start + at > 0 and at + 16 <= len(data) and any(data[at + 8:at + 12])
        made = recipe(data, at) if marked else None
        sector = data[at:at + SECTOR]
        if made or not any(sector):
            yield from flush()
        if made:
            yield (start + at) // SECTOR, len(made[0]) | PACKED, made[0]
            at += -(-made[1] // SECTOR) * SECTOR
        else:
            if any(sector):
                plain += sector.ljust(SECTOR, b"\0")
            at += SECTOR
    yield from flush()


def file(name, path, packed=False):
    """A file of an image, its compressed grains by recipe if they are `packed`."""
    parts = [part for start, data in stored(path) for part in segments(start, data, packed)]
    if len(parts) > MOST:
        raise TooLarge(f"{path.name} has {len(parts)} segments")
    head = number(len(name.encode()), 1) + name.encode() + number(path.stat().st_size, 6) + number(len(parts), 1)
    return head + b"".join(number(sector, 4) + number(length, 2) + piece for sector, length, piece in parts)


def text_file(name, text):
    """A file that is not on disk."""
    pieces = [text[at:at + LONGEST] for at in range(0, len(text), LONGEST)]
    head = number(len(name), 1) + name.encode() + number(len(text), 6) + number(len(pieces), 1)
    parts = (number(i * LONGEST // SECTOR, 4) + number(len(piece), 2) + piece for i, piece in enumerate(pieces))
    return head + b"".join(parts)


def disk(top, text):
    """The extents of one disk, for the target of their dialect."""
    with open(top, "rb") as opened:
        embedded = opened.read(4) == b"KDMV"
    parent = int(field(text, "parentCID", "ffffffff"), 16)
    lines = extents(text)
    names = [top.name] if embedded else list(dict.fromkeys(name for _, name in lines))
    flags = embedded | (2 if parent != 0xFFFFFFFF else 0) | min(len(lines) - 1, 3) << 2
    numbers = number(flags, 1) + number(min(sectors for sectors, _ in lines), 7) + number(127, 7) + number(parent, 4)
    packed = field(text, "createType", "") == "streamOptimized"
    return numbers + b"".join(file("", top.with_name(name), packed) for name in names)


def pack(target, top):
    """The input for a target that opens the file `top`; all its other files lie beside it."""
    descriptor = descriptor_of(top)
    text = descriptor.decode("utf-8", "replace")
    if target == "descriptor":
        return descriptor
    if target == "flat":
        names = [top.name] + list(dict.fromkeys(name for _, name in extents(text)))
        return b"".join(file(name, top.with_name(name)) for name in names)
    if target in ("chain", "check"):
        others = [path for path in sorted(top.parent.iterdir()) if path.suffix == ".vmdk" and path != top]
        return b"\0" + b"".join(file(path.name, path, True) for path in [top] + others)
    return disk(top, text)
