"""Changes what ntfs-3g cannot be asked for, in the bytes of an unmounted image.

Only a maker's needs: the volume is known to be whole, so nothing here defends itself.
"""

import struct

LIST, DATA, END = 0x20, 0x80, 0xFFFFFFFF


def words(data, form, offset):
    return struct.unpack_from("<" + form, data, offset)


def runs(attribute):
    """[(first cluster or None, clusters)...] of a non-resident attribute."""
    at, found, lcn = words(attribute, "H", 0x20)[0], [], 0
    while attribute[at]:
        count, step = attribute[at] & 15, attribute[at] >> 4
        length = int.from_bytes(attribute[at + 1:at + 1 + count], "little")
        if step:
            lcn += int.from_bytes(attribute[at + 1 + count:at + 1 + count + step], "little", signed=True)
        found.append((lcn if step else None, length))
        at += 1 + count + step
    return found


class Record:
    """A file record, without its fixups."""

    def __init__(self, number, places, data):
        self.number, self.places, self.data = number, places, bytearray(data)
        if self.data[:4] != b"FILE":
            raise ValueError(f"record {number} is none")
        for sector, end in enumerate(range(510, len(data), 512)):
            self.data[end:end + 2] = self.sequence(sector + 1)

    def sequence(self, index):
        at = words(self.data, "H", 4)[0] + 2 * index
        return self.data[at:at + 2]

    def sealed(self):
        """The bytes to write."""
        data, first = bytearray(self.data), words(self.data, "H", 4)[0]
        for sector, end in enumerate(range(510, len(data), 512)):
            data[first + 2 * sector + 2:first + 2 * sector + 4] = data[end:end + 2]
            data[end:end + 2] = self.sequence(0)
        return bytes(data)

    def attributes(self):
        """(offset, type, name) of each."""
        at = words(self.data, "H", 0x14)[0]
        while words(self.data, "I", at)[0] != END:
            kind, length, _, name_length, name_at = words(self.data, "IIBBH", at)
            name = self.data[at + name_at:at + name_at + 2 * name_length].decode("utf-16-le")
            yield at, kind, name
            at += length

    def find(self, kind, name=""):
        """The offset of an attribute."""
        return next(at for at, *found in self.attributes() if found == [kind, name])

    def attribute(self, at):
        return bytes(self.data[at:at + words(self.data, "I", at + 4)[0]])


class Image:
    """An unmounted NTFS image, open for reading and writing."""

    def __init__(self, path, offset=0):
        self.file, self.offset = open(path, "r+b"), offset
        boot = self.read(0, 512)
        self.sector, clusters = words(boot, "HB", 11)
        self.cluster = self.sector * (clusters if clusters <= 128 else 1 << 256 - clusters)
        size = words(boot, "b", 64)[0]
        self.record_size = 1 << -size if size < 0 else size * self.cluster
        self.mft = [(words(boot, "Q", 48)[0], 16)]  # enough to read record 0 by
        self.mft = self.pieces(0, DATA)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def read(self, offset, size):
        self.file.seek(self.offset + offset)
        return self.file.read(size)

    def write(self, offset, data):
        self.file.seek(self.offset + offset)
        self.file.write(data)

    def places(self, start, size):
        """[(byte on the volume, bytes)...] of a part of the table of records; a record may lie in several runs."""
        found = []
        for lcn, length in self.mft:
            here = min(length * self.cluster - start, size)
            if here > 0:
                found.append((lcn * self.cluster + start, here))
                start, size = start + here, size - here
            start -= length * self.cluster
        return found

    def record(self, number):
        places = self.places(number * self.record_size, self.record_size)
        return Record(number, places, b"".join(self.read(*place) for place in places))

    def store(self, record):
        data = record.sealed()
        for place, size in record.places:
            self.write(place, data[:size])
            data = data[size:]

    def pieces(self, number, kind, name=""):
        """The runs of a non-resident attribute of a file, wherever its records are."""
        base = self.record(number)
        entries = []
        for at, found, _ in base.attributes():
            if found == LIST:
                entries = self.attribute_list(base.attribute(at))
        numbers = [record for found, label, record in entries if (found, label) == (kind, name)] or [number]
        whole = []
        for holder in numbers:
            record = self.record(holder)
            whole += runs(record.attribute(record.find(kind, name)))
            if number == 0 and kind == DATA:
                self.mft = whole  # further pieces of the table are described by records in its first ones
        return whole

    def attribute_list(self, attribute):
        """[(type, name, record)...] in the order of the list."""
        if attribute[8]:
            size = words(attribute, "Q", 0x30)[0]
            parts = [self.read(lcn * self.cluster, length * self.cluster) for lcn, length in runs(attribute)]
            body = b"".join(parts)[:size]
        else:
            size, at = words(attribute, "IH", 0x10)
            body = attribute[at:at + size]
        found, at = [], 0
        while at < len(body):
            kind, length, name_length, name_at = words(body, "IHBB", at)
            name = body[at + name_at:at + name_at + 2 * name_length].decode("utf-16-le")
            found.append((kind, name, words(body, "Q", at + 16)[0] & (1 << 48) - 1))
            at += length
        return found

    def bitmap(self):
        """The volume's bitmap, as it lies on the disk: ntfs-3g writes it in one run."""
        (lcn, _), = self.pieces(6, DATA)
        record = self.record(6)
        size, = words(record.attribute(record.find(DATA)), "Q", 0x30)
        return bytearray(self.read(lcn * self.cluster, size))

    def set_bitmap(self, bits):
        (lcn, _), = self.pieces(6, DATA)
        self.write(lcn * self.cluster, bits)

    def stale(self, number, start, end, data):
        """Puts bytes of 'deleted files' into the clusters of a file from byte start to end."""
        at = 0
        for lcn, length in self.pieces(number, DATA):
            size = length * self.cluster
            first, last = max(start - at, 0), min(end - at, size)
            if lcn is not None and first < last:
                self.write(lcn * self.cluster + first, (data * (1 + (last - first) // len(data)))[:last - first])
            at += size
