"""The parts of the fixtures: each writes files of one kind into a folder of its own name.

A part is called while the volume is mounted in the way that its phase says. What must be done to the unmounted image it
puts into `volume.later`; what the layout must be, it claims, and ntfsinfo proves it in the end.
"""

import os
import stat
import struct
import typing

import content
import reparse
import wim
from content import KIB, MIB, UNIT, mixed, noise, text
from volume import ARCHIVE, HIDDEN, READ_ONLY, SYSTEM, WINDOWS, XATTR

# The phases, in their order, and how the volume is mounted in each; masks are those of Volume.scattered.
PLAIN, STREAMS, WSL, SCATTERED, CRUMBLED = "plain", "streams", "wsl", "scattered", "crumbled"
OPTIONS = {PLAIN: XATTR, STREAMS: WINDOWS, WSL: XATTR + ",special_files=wsl", SCATTERED: WINDOWS, CRUMBLED: WINDOWS}
MASKS = {
    # Lone clusters and pairs. ntfs-3g takes these only when nowhere eight are free that share a byte of the bitmap.
    SCATTERED: (0xFE, 0xEF, 0xBE, 0x7D, 0xEE),
    # Eights: where it compresses, and for xattrs, it takes nothing less.
    CRUMBLED: (0x00, 0xFF),
}
PARTS = {}
ANY = 1 << 31


class Part(typing.NamedTuple):
    phase: str
    write: typing.Callable
    cluster: int  # the largest cluster that it can do with


def part(name, phase=PLAIN, cluster=ANY):
    def put(function):
        PARTS[name] = Part(phase, function, cluster)
        return function
    return put


@part("sizes")
def sizes(volume, top):
    """On both sides of residency, of a cluster, of a compression unit."""
    around_residency = (600, 680, 690, 700, 720, 760)
    for size in (0, 1, 50, 300, *around_residency, 900, 3000, 4095, 4096, 4097, 9000, 20000, 65535, 65536, 65537):
        volume.file(top + b"/%06d" % size, mixed(size, size))
    volume.claim(top + b"/000300", resident=True, size=300)
    volume.claim(top + b"/020000", resident=False, size=20000, initialized=20000)


@part("sparse")
def sparse(volume, top):
    """Holes at the start, in the middle and at the end; a file that is a hole."""
    data = noise("sparse", 3 * 4096)
    volume.file(top + b"/holes-between", [(0, data), (5 * MIB, data[1:]), (12 * MIB - 1, data[:5001])])
    volume.file(top + b"/starts-and-ends-with-holes", [(3 * UNIT + 5, data)], size=10 * UNIT + 1)
    volume.file(top + b"/only-a-hole", [], size=3 * MIB + 3)
    volume.claim(top + b"/holes-between", flags=0x8000, min_holes=2)
    volume.claim(top + b"/only-a-hole", flags=0x8000, runs=0)


@part("compressed", cluster=4 * KIB)
def compressed(volume, top):
    """LZNT1, for clusters of at most 4 KiB. What does not become smaller is stored plain within the same file."""
    volume.attributes(top, 0x800)
    for name, make in ((b"text", text), (b"mixed", mixed), (b"noise", noise)):
        for size in (700, 5000, UNIT - 1, UNIT, UNIT + 1, 3 * UNIT + 777, 5 * UNIT + 4096):
            volume.file(top + b"/%s-%d" % (name, size), make(f"compressed {name}", size))
    volume.file(top + b"/zeros", bytes(4 * UNIT + 100))
    volume.file(top + b"/one-letter", b"a" * (4 * UNIT + 100))
    words = text("holes", 2 * UNIT)
    pieces = [(0, words[:9]), (3 * UNIT + 100, words), (9 * UNIT - 9, words[:4000])]
    volume.file(top + b"/holes", pieces, size=12 * UNIT + 7)
    volume.file(top + b"/mixed-%d" % (MIB + 12345), mixed("compressed large", MIB + 12345))
    volume.claim(top + b"/text-%d" % (3 * UNIT + 777), flags=1, size=3 * UNIT + 777, min_holes=3)
    volume.claim(top + b"/holes", flags=1, min_holes=3)


@part("streams")
def streams(volume, top):
    """Streams beside the content, on a folder too; their names in any script and with a dot."""
    volume.file(top + b"/file", b"the content")
    for name, size in (("empty", 0), ("resident", 100), ("large", 60000), ("with.dot", 5), ("größe-尺寸-🖴", 700)):
        volume.stream(top + b"/file", name, mixed(name, size))
    volume.folder(top + b"/folder")
    volume.stream(top + b"/folder", "of a folder", noise("of a folder", 9000))
    volume.file(top + b"/empty-file")
    volume.stream(top + b"/empty-file", "Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n")
    volume.claim(top + b"/file", stream="large", resident=False, size=60000)
    volume.claim(top + b"/file", stream="empty", size=0)


@part("names")
def names(volume, top):
    for number, name in enumerate((
        "ä ö ü ß €.txt", "🖴 disk 𝄞.txt", "日本語のファイル名", "עברית", "x" * 255, "字" * 84, "𝄞" * 63, ".hidden", "a\tb",
        "100%", "ends with a dot.", "ends with a space ", "com1", "back\\slash", "a:b*c?d\"e<f>g|h", "$Extend", "$MFT",
        "Case", "case", "CASE", "\u00e9 composed", "e\u0301 decomposed", "ÿ", "Ÿ",
    )):
        volume.file(top + b"/" + name.encode(), b"name %d: " % number + name.encode())
    lone = (b"high \xed\xa0\x81 alone", b"low \xed\xb0\x80 alone", b"\xed\xbf\xbf\xed\xa0\x80 reversed")
    for number, name in enumerate(lone):
        volume.file(top + b"/" + name, b"surrogate %d" % number)
    volume.file(top + b"/a long name with a short one.text", b"8.3")
    volume.set(top + b"/a long name with a short one.text", "system.ntfs_dos_name", b"ALONGN~1.TEX")
    volume.files[top + b"/a long name with a short one.text"]["short_name"] = "ALONGN~1.TEX"


@part("deep")
def deep(volume, top):
    """120 levels."""
    path = top
    for level in range(120):
        path += b"/d%03d" % level
        volume.folder(path)
    volume.file(path + b"/bottom", b"deep down")


@part("hard-links")
def hard_links(volume, top):
    """200 long names fill several records: the file has an attribute list."""
    volume.file(top + b"/first", noise("hard links", 30000))
    for number in range(200):
        volume.link(top + b"/first", top + b"/%060d" % number)
    volume.folder(top + b"/elsewhere")
    volume.link(top + b"/first", top + b"/elsewhere/first")
    volume.claim(top + b"/first", list=True, names=202, size=30000)


@part("metadata")
def metadata(volume, top):
    """Times with odd parts, attributes, security."""
    for name, times in (
        (b"odd", (132223104001234567, 132223104011234568, 132223104021234569)),
        (b"before-1970", (94354848000000001, 94354848000000003, 116444735999999999)),
        (b"year-1601", (1, 2, 3)),
        (b"year-2500", (283_696_992_000_000_007, 283_696_992_000_000_005, 283_696_992_000_000_003)),
    ):
        volume.file(top + b"/" + name, name)
        volume.times(top + b"/" + name, *times)
    volume.folder(top + b"/folder")
    values = {b"read-only": READ_ONLY, b"hidden": HIDDEN, b"system": SYSTEM, b"all": 0x3127, b"archive": ARCHIVE}
    for name, value in values.items():
        volume.file(top + b"/" + name, name)
        volume.attributes(top + b"/" + name, value)
    volume.file(top + b"/secured", b"for some only")
    volume.security(top + b"/secured", descriptor())
    volume.security(top + b"/folder", descriptor())
    volume.times(top + b"/folder", 132223104001234567, 132223104011234568, 132223104021234569)


def sid(authority, *parts):
    return struct.pack(">BBHI", 1, len(parts), 0, authority) + struct.pack(f"<{len(parts)}I", *parts)


def descriptor():
    """Self-relative ([MS-DTYP] 2.4.6): owner, group, and a list that denies one and allows two."""
    owner, group = sid(5, 21, 1111, 2222, 3333, 1001), sid(5, 21, 1111, 2222, 3333, 513)
    entries = b""
    for kind, mask, who in ((1, 0x10000, sid(1, 0)), (0, 0x1F01FF, sid(5, 32, 544)), (0, 0x1200A9, owner)):
        entries += struct.pack("<BBHI", kind, 0, 8 + len(who), mask) + who
    acl = struct.pack("<BBHHH", 2, 0, 8 + len(entries), 3, 0) + entries
    places = (20, 20 + len(owner), 0, 20 + len(owner) + len(group))
    return struct.pack("<BBH4I", 1, 0, 0x8004, *places) + owner + group + acl


@part("preallocated", cluster=64 * KIB)
def preallocated(volume, top):
    """Longer than what was ever written: the rest reads as zeros, and holds what others deleted.

    With clusters of 2 MiB ntfsfallocate dies of a segmentation fault.
    """
    written, size = noise("preallocated", 100_001), 512 * KIB
    for name, data in ((b"empty", b""), (b"begun", written)):
        path = top + b"/" + name
        volume.file(path, data, size=None)
        digest = content.Digest()
        digest.add(0, data)
        volume.files[path].update(size=size, sha256=digest.end(size))
        volume.later.append(("allocate", path, size))
        volume.later.append(("stale", volume.number(path), len(data), size))
        volume.claim(path, initialized=len(data), size=size, resident=False)


@part("encrypted")
def encrypted(volume, top):
    """What is said to be encrypted. The bytes are those of the file: a reader that gives them has not looked."""
    path = top + b"/efs"
    volume.file(path, noise("efs", 20000))
    volume.files[path].update(refuse="encrypted")
    volume.later.append(("encrypt", volume.number(path)))
    volume.claim(path, flags=0x4000)


@part("links")
def links(volume, top):
    """Symbolic links, junctions and mount points; Interix links, which are no reparse points."""
    volume.file(top + b"/target.txt", b"the target")
    volume.folder(top + b"/folder")
    volume.file(top + b"/folder/inside.txt", b"inside")
    windows = top.decode().replace("/", "\\")
    guid = "11223344-5566-7788-99aa-bbccddeeff00"
    for name, data, target, folder in (
        (b"relative", reparse.symlink("target.txt", "target.txt", True), {"relative": "target.txt"}, False),
        (b"relative-up", reparse.symlink("..\\%s\\folder" % windows, "..\\%s\\folder" % windows, True),
         {"relative": f"../{top.decode()}/folder"}, True),
        (b"dangling", reparse.symlink("no\\such", "no\\such", True), {"relative": "no/such"}, False),
        (b"absolute", reparse.symlink("\\??\\C:\\%s\\target.txt" % windows, "C:\\%s\\target.txt" % windows, False),
         {"letter": "C", "path": f"{top.decode()}/target.txt"}, False),
        (b"rooted", reparse.symlink("\\%s\\target.txt" % windows, "\\%s\\target.txt" % windows, True),
         {"root": f"{top.decode()}/target.txt"}, False),
        (b"network", reparse.symlink("\\??\\UNC\\server\\share\\file", "\\\\server\\share\\file", False),
         {"outside": "\\\\server\\share\\file"}, False),
        (b"junction", reparse.junction("\\??\\C:\\%s\\folder" % windows, "C:\\%s\\folder" % windows),
         {"letter": "C", "path": f"{top.decode()}/folder"}, True),
        (b"junction-without-display", reparse.junction("\\??\\D:\\", ""), {"letter": "D", "path": ""}, True),
        (b"mount-point", reparse.volume_mount_point(guid), {"volume": guid, "path": ""}, True),
    ):
        path = top + b"/" + name
        volume.folder(path) if folder else volume.file(path)
        volume.reparse(path, data, kind="link", target=target)
    interix(volume, top + b"/interix", "folder/inside.txt")


def interix(volume, path, target):
    """ntfs-3g's own symbolic link: a system file with eight letters and the target in UTF-16."""
    import os
    os.symlink(target.encode(), volume.at(path))
    body = b"IntxLNK\1" + target.encode("utf-16-le")
    digest = content.Digest()
    digest.add(0, body)
    volume.note(path, kind="interix", size=len(body), sha256=digest.end(len(body)), target={"relative": target})


@part("refused")
def refused(volume, top):
    """Reparse points whose content is elsewhere: to give the bytes that are here would be to lie."""
    guid = "8a7b6c5d-1234-4321-9abc-0123456789ab"
    for name, data, reason in (
        (b"dedup", reparse.point(reparse.DEDUP, bytes(range(120))), "dedup"),
        (b"cloud", reparse.point(reparse.CLOUD, b"FeRp" + bytes(60)), "cloud"),
        (b"cloud-3", reparse.point(reparse.CLOUD_3, b"FeRp" + bytes(60)), "cloud"),
        (b"onedrive", reparse.point(reparse.ONEDRIVE, bytes(16)), "cloud"),
        (b"hsm", reparse.point(reparse.HSM, bytes(32)), "tag"),
        (b"container", reparse.point(reparse.WCI, bytes(40)), "tag"),
        (b"wof-in-wim", reparse.wof_in_wim(), "wof"),
        (b"wof-unknown-format", reparse.wof(77), "wof"),
        (b"unknown", reparse.foreign(guid, b"who knows"), "tag"),
    ):
        volume.file(top + b"/" + name, [], size=50_000)
        volume.reparse(top + b"/" + name, data, refuse=reason)
    volume.folder(top + b"/unknown-folder")
    volume.file(top + b"/unknown-folder/file", b"in an odd folder")
    volume.reparse(top + b"/unknown-folder", reparse.foreign(guid, b"a folder"))
    volume.file(top + b"/app-alias")
    volume.reparse(top + b"/app-alias", reparse.point(reparse.APPEXEC, struct.pack("<I", 3) + bytes(40)), refuse="tag")


@part("wsl", WSL)
def wsl(volume, top):
    """What Linux makes on such a volume below Windows: ntfs-3g writes these as WSL does."""
    volume.file(top + b"/target.txt", b"the target")
    for name, make, facts in (
        (b"link", lambda at: os.symlink(b"target.txt", at), {"kind": "link", "target": {"relative": "target.txt"}}),
        (b"link-\xc3\xa4", lambda at: os.symlink("ä/😀".encode(), at), {"kind": "link", "target": {"relative": "ä/😀"}}),
        (b"absolute", lambda at: os.symlink(b"/mnt/c/x", at), {"kind": "link", "target": {"outside": "/mnt/c/x"}}),
        (b"fifo", os.mkfifo, {"kind": "fifo"}),
        (b"socket", lambda at: os.mknod(at, stat.S_IFSOCK | 0o644), {"kind": "socket"}),
        (b"device", lambda at: os.mknod(at, stat.S_IFCHR | 0o644, os.makedev(5, 1)), {"kind": "device"}),
    ):
        make(volume.at(top + b"/" + name))
        point = os.getxattr(volume.at(top + b"/" + name), "system.ntfs_reparse_data", follow_symlinks=False)
        volume.note(top + b"/" + name, reparse=reparse.fact(point), **facts)


WOF_FORMS = (
    ("xpress4k", reparse.XPRESS_4K, "XPRESS", 4096), ("xpress8k", reparse.XPRESS_8K, "XPRESS", 8192),
    ("xpress16k", reparse.XPRESS_16K, "XPRESS", 16384), ("lzx32k", reparse.LZX_32K, "LZX", 32768),
)


@part("wof", STREAMS)
def wof(volume, top):
    """CompactOS: the content is in a stream of its own, compressed; the file is a hole. Plain ones lie beside."""
    plain = {"text": text("wof", 300_000), "mixed": mixed("wof", 500_001), "small": text("wof", 3000),
             "chunk": text("wof", 32768), "chunk-and-1": text("wof", 32769), "zeros": bytes(200_000),
             "binary": binary(250_000)}
    for name, data in plain.items():
        volume.file(top + f"/{name}.plain".encode(), data)
    for label, form, method, chunk in WOF_FORMS:
        for (name, data), packed in zip(plain.items(), wim.compress(list(plain.values()), method, chunk)):
            if packed is None:
                raise RuntimeError(f"wimlib found {name} too hard for {label}")
            compact(volume, top + f"/{name}.{label}".encode(), data, packed, form)
    volume.claim(top + b"/mixed.lzx32k", stream="WofCompressedData", resident=False)
    volume.claim(top + b"/mixed.lzx32k", runs=0, size=500_001, flags=0x8000)


def binary(size):
    """Bytes like those of a program: calls (E8) with near targets, which LZX rewrites."""
    out = bytearray()
    while len(out) < size:
        at = len(out)
        out += b"\x55\x89\xe5\xe8" + struct.pack("<i", at % 5000 - at // 2)
        out += bytes([at // 7 % 251]) * (at % 9) + b"\xc3\x90"
    return bytes(out[:size])


def compact(volume, path, data, packed, form):
    entry = volume.file(path, [], size=len(data))
    digest = content.Digest()
    digest.add(0, data)
    entry.update(sha256=digest.end(len(data)), wof=form)
    volume.stream(path, "WofCompressedData", packed)
    volume.reparse(path, reparse.wof(form))
