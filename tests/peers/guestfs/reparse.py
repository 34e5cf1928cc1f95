"""Reparse points as they lie on a volume: tag, length of the data, two reserved bytes, data ([MS-FSCC] 2.1.2)."""

import struct
import uuid

SYMLINK, JUNCTION, WOF, DEDUP = 0xA000000C, 0xA0000003, 0x80000017, 0x80000013
LX_SYMLINK, AF_UNIX, APPEXEC = 0xA000001D, 0x80000023, 0x8000001B
CLOUD, CLOUD_3, ONEDRIVE, HSM = 0x9000001A, 0x9000301A, 0x80000021, 0xC0000004
WCI = 0x80000018
# Tags without the bit of Microsoft carry the GUID of who made them.
FOREIGN = 0x00001234

# WOF's provider of single files, and its numbers of compression formats.
XPRESS_4K, LZX_32K, XPRESS_8K, XPRESS_16K = range(4)


def point(tag, data):
    return struct.pack("<IHH", tag, len(data), 0) + data


def names(substitute, display, between):
    """The two names of a link; `between` stands before them: the flags of a symbolic link."""
    first, second = substitute.encode("utf-16-le"), display.encode("utf-16-le")
    ends = struct.pack("<4H", 0, len(first), len(first) + 2, len(second))
    return ends + between + first + b"\0\0" + second + b"\0\0"


def symlink(substitute, display, relative):
    return point(SYMLINK, names(substitute, display, struct.pack("<I", int(relative))))


def junction(substitute, display):
    return point(JUNCTION, names(substitute, display, b""))


def volume_mount_point(guid):
    return junction("\\??\\Volume{%s}\\" % uuid.UUID(guid), "")


def wof(form):
    """Version 1 of WOF, provider 2 (files), version 1 of that provider, format."""
    return point(WOF, struct.pack("<4I", 1, 2, 1, form))


def wof_in_wim():
    """Version 1 of WOF, provider 1: the content lies in an image file somewhere else."""
    return point(WOF, struct.pack("<4I", 1, 1, 1, 0) + bytes(20))


def lx_symlink(target):
    return point(LX_SYMLINK, struct.pack("<I", 2) + target.encode())


def foreign(guid, data):
    return struct.pack("<IHH", FOREIGN, len(data), 0) + uuid.UUID(guid).bytes_le + data


def fact(point):
    """A whole reparse point as the truth has it."""
    return {"tag": f"{int.from_bytes(point[:4], 'little'):#010x}", "data": point.hex()}
