"""A registry hive by hand: a few keys in lists of each form, values of each form, and MountedDevices."""

import struct

NONE = 0xffffffff


class Hive:
    def __init__(self):
        self.bins = bytearray(32)

    def cell(self, record):
        offset, size = len(self.bins), (len(record) + 11) // 8 * 8
        self.bins += struct.pack("<i", -size) + record
        self.bins += bytes(offset + size - len(self.bins))
        return offset

    def offsets(self, cells):
        return self.cell(struct.pack(f"<{len(cells)}I", *cells))

    def value(self, name, data, kind=3):
        if len(data) <= 4:
            size, place = len(data) | 1 << 31, data.ljust(4, b"\0")
        elif len(data) <= 16344:
            size, place = len(data), struct.pack("<I", self.cell(data))
        else:
            pieces = [self.cell(data[at:at + 16344] + bytes(4)) for at in range(0, len(data), 16344)]
            big = struct.pack("<2sHI", b"db", len(pieces), self.offsets(pieces))
            size, place = len(data), struct.pack("<I", self.cell(big))
        return self.cell(struct.pack("<2sHI4sIHH", b"vk", len(name), size, place, kind, 1, 0) + name)

    def list(self, form, cells):
        if form == b"ri":
            cells = [self.list(b"li", cells[:1]), self.list(b"lh", cells[1:])]
        wide = form in (b"lf", b"lh")
        return self.cell(form + struct.pack("<H", len(cells))
                         + b"".join(struct.pack("<I", cell) + b"hint" * wide for cell in cells))

    def key(self, name, form=b"lf", keys=(), values=(), latin_1=True):
        keys, values = list(keys), list(values)
        lists = self.list(form, keys) if keys else NONE, self.offsets(values) if values else NONE
        numbers = (NONE, len(keys), 0, lists[0], NONE, len(values), lists[1], NONE, NONE)
        return self.cell(struct.pack("<2sHQI9I20xHH", b"nk", latin_1 << 5, 0, 0, *numbers, len(name), 0) + name)

    def file(self, root):
        size = -len(self.bins) % 4096
        self.bins += struct.pack("<i", size).ljust(size, b"\0") if size else b""
        struct.pack_into("<4sII", self.bins, 0, b"hbin", 0, len(self.bins))
        header = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, 0, 1, 5, 0, 1, root, len(self.bins), 1).ljust(508, b"\0")
        checksum = 0
        for word in struct.unpack("<127I", header):
            checksum ^= word
        return (header + struct.pack("<I", checksum)).ljust(4096, b"\0") + self.bins


def small():
    """Two partitions with letters, one of them twice, and a device that is none."""
    hive = Hive()
    mbr, gpt = struct.pack("<IQ", 0xdeadbeef, 1 << 20), b"DMIO:ID:" + bytes(range(16))
    names = {b"\\DosDevices\\C:": mbr, b"\\DosDevices\\D:": gpt, b"\\DosDevices\\E:": mbr,
             b"\\DosDevices\\A:": "\\??\\FDC#GENERIC".encode("utf-16-le"),
             b"\\??\\Volume{62517174-f29b-11ec-85e0-806e6f6e6963}": mbr}
    return hive.file(hive.key(b"ROOT", keys=[hive.key(b"MountedDevices", values=[hive.value(*v) for v in names.items()])]))


def full():
    """Lists and data of each form."""
    hive = Hive()
    below = [hive.key(form.decode().encode("utf-16-le"), form, [hive.key(b"a"), hive.key(b"b")], latin_1=False)
             for form in (b"lf", b"lh", b"li", b"ri")]
    values = [hive.value(b"", b"1", 1), hive.value(b"four", b"1234", 4), hive.value(b"eight", bytes(8)),
              hive.value(b"big", bytes(20000))]
    return hive.file(hive.key(b"ROOT", b"li", [*below, hive.key(b"MountedDevices", values=values)]))
