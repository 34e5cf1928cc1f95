"""Inputs for the targets `partition` and `ntfs`: src/bin/partition.rs and src/bin/ntfs.rs say what they look like.

Volumes are made by ntfs-3g, tables by sfdisk. Of a volume only that is taken which leads to some of its files; what is left out reads
as zeros, so a seed stays short.
"""

import pathlib
import re
import struct
import subprocess
import sys
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "peers" / "guestfs"))

import image
import lean
import ntfs_raw
import pack
import scattered  # noqa: F401  its parts are among those that `image` makes
from content import mixed
from volume import Volume

LIST, FILE_NAME, DATA, INDEX_ALLOCATION = 0x20, 0x30, 0x80, 0xA0
# The journal, the label, the root, security, upper case; and the table of records itself.
SYSTEM = {0, 2, 3, 5, 9, 10}
# Bytes of content that are taken, by the name of the stream; of others nothing.
TAKEN = {"$SDS": 2048, "WofCompressedData": 9000}
COMPRESSED = 9000

# Names of files, by seed.
CHOSEN = {
    "index": r"index|sub|file|0[0-3]\d-n", "names": r"many-names|a name with|secured", "packed": r"packed|text|mixed",
    "streams": r"streams|split|clusters|sparse", "links": r"symlink|junction|interix|dedup|preallocated|encrypted",
    "compact": r"compact-", "all": r"index$|0[0-1]0-n|many-names|a name|packed|text|streams|split|symlink|junction|interix|compact-lzx",
}


def file(size, segments):
    """One file of an input, from (byte, bytes) that begin with sectors."""
    parts = [part for start, data in sorted(segments) for part in pack.segments(start, data, False)]
    if len(parts) > pack.MOST:
        raise pack.TooLarge(f"{len(parts)} segments")
    head = pack.number(0, 1) + pack.number(size, 6) + pack.number(len(parts), 1)
    return head + b"".join(pack.number(sector, 4) + pack.number(length, 2) + piece for sector, length, piece in parts)


class Cut:
    """What leads to some files of a volume."""

    def __init__(self, path):
        self.image, self.size, self.segments, self.left = ntfs_raw.Image(path), path.stat().st_size, {}, {}

    def input(self, names):
        image = self.image
        self.segments[0] = image.read(0, 512)
        records = {number: record for number, record in self.records() if record}
        for number, record in records.items():
            base = int.from_bytes(record.data[0x20:0x26], "little")
            if number in SYSTEM or base in SYSTEM - {5} and record.data[0x20:0x28] != bytes(8) or names(self.names(records.get(base) or record)) \
                    or names(self.names(record)):
                self.record(record)
        upcase, = image.pieces(10, DATA)
        return pack.number(upcase[0] * image.cluster // 512, 4) + file(self.size, self.segments.items())

    def records(self):
        count = sum(length for _, length in self.image.mft) * self.image.cluster // self.image.record_size
        for number in range(count):
            try:
                record = self.image.record(number)
            except (ValueError, IndexError):
                continue
            yield number, record if record.data[0x16] & 1 else None

    def names(self, record):
        found = []
        for at, kind, _ in record.attributes():
            if kind == FILE_NAME:
                value = record.attribute(at)
                value = value[int.from_bytes(value[0x14:0x16], "little"):]
                found.append(value[0x42:0x42 + 2 * value[0x40]].decode("utf-16-le", "replace"))
        return found

    def record(self, record):
        used = int.from_bytes(record.data[0x18:0x1C], "little")
        data = record.sealed()[:used]
        for place, length in record.places:
            self.segments[place], data = data[:length], data[length:]
        for at, kind, name in record.attributes():
            attribute = record.attribute(at)
            if not attribute[8]:
                continue
            compressed = attribute[0xC] & 1 and kind == DATA
            most = 16384 if kind in (LIST, INDEX_ALLOCATION) else TAKEN.get(name, COMPRESSED if compressed else 0)
            if record.number == 2:
                most = 512  # a restart page
            if record.number == 10:
                most = 0
            base = int.from_bytes(record.data[0x20:0x26], "little") or record.number
            left = self.left.setdefault((base, kind, name), [most])
            for lcn, length in ntfs_raw.runs(attribute):
                taken = min(length * self.image.cluster, left[0])
                if lcn is not None and taken:
                    self.segments[lcn * self.image.cluster] = self.image.read(lcn * self.image.cluster, taken).rstrip(b"\0")
                    left[0] -= taken


def ntfs(seeds, folder):
    path = folder / "lean.img"
    lean.make(path)
    for name, pattern in CHOSEN.items():
        chosen = re.compile(pattern)
        put(seeds, f"lean-{name}", Cut(path).input(lambda names: any(chosen.match(one) for one in names)))
    for name, geometry in (
        ("cluster-512", {"cluster": 512}), ("cluster-64k", {"cluster": 64 << 10}), ("sector-4096", {"sector": 4096}),
    ):
        path = folder / f"{name}.img"
        volume = Volume(path, 16 << 20, name, **geometry)
        with volume.filling():
            few(volume, 20)
        volume.finish()
        put(seeds, name, Cut(path).input(lambda names: any(re.match(r"folder|00\d|file", one) for one in names)))
    path = folder / "split-table.img"
    image.make(path, {"label": "split", "size": 64 << 20}, ["split-folder"])
    put(seeds, "split-table", Cut(path).input(lambda names: any(re.match(r"split-folder|00000[01]|001599", one) for one in names)))


def few(volume, files):
    volume.file(b"file", mixed("few", 20_000))
    volume.folder(b"folder")
    for number in range(files):
        volume.file(b"folder/%03d" % number + b"-name" * 8, b"%d" % number)


def put(seeds, name, data):
    try:
        seeds.add(name, "ntfs", data)
    except pack.TooLarge as error:
        seeds.left_out.append(f"ntfs/{name}: {error}")


TABLES = {
    "mbr": "label: dos\n,4M,7,*\n,4M,83\n",
    "logical": "label: dos\n,4M,7\n,,E\n,2M,83\n,2M,7\n,2M,82\n",
    "gpt": "label: gpt\n,4M,U\nsize=4M, type=L, name=\"a name\"\n",
    "gpt-16-entries": "label: gpt\ntable-length: 16\n,4M,U\n",
}


def partition(seeds, folder):
    disks = {"gpt-4096": gpt(4096)}
    for name, script in TABLES.items():
        path = folder / f"{name}.disk"
        with open(path, "wb") as opened:
            opened.truncate(24 << 20)
        subprocess.run(["sfdisk", "--quiet", path], input=script.encode(), check=True, stdout=subprocess.DEVNULL)
        disks[name] = path.read_bytes()
    for name, data in disks.items():
        for flags in (0, 3):
            pieces = [(at, data[at:at + (1 << 20)]) for at in range(0, len(data), 1 << 20)]
            seeds.add(f"{name}-{flags}", "partition", pack.number(flags, 1) + file(len(data), pieces))
    boot = bytearray(512)
    boot[3:11], boot[510:] = b"NTFS    ", b"\x55\xaa"
    seeds.add("no-table", "partition", b"\0" + file(1 << 20, [(0, bytes(boot))]))


def gpt(sector, sectors=1024):
    """A table of one partition and 32 entries, both copies."""
    disk = bytearray(sector * sectors)
    disk[446 + 4], disk[446 + 8], disk[510:512] = 0xEE, 1, b"\x55\xaa"
    disk[446 + 12:446 + 16] = (sectors - 1).to_bytes(4, "little")
    entries = struct.pack("<16s16s3Q", bytes(range(16)), bytes(16), 64, 127, 0).ljust(32 * 128, b"\0")
    for here, other, array in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - 2)):
        fields = (here, other, 8, sectors - 8, bytes(16), array, 32, 128, zlib.crc32(entries))
        header = struct.pack("<8s4I4Q16sQ3I", b"EFI PART", 1 << 16, 92, 0, 0, *fields)
        header = header[:16] + zlib.crc32(header).to_bytes(4, "little") + header[20:]
        disk[here * sector:here * sector + 92] = header
        disk[array * sector:array * sector + len(entries)] = entries
    return bytes(disk)
