"""Differences that are known, and why they are right."""

import stat

from truth import FOLDER, REFUSALS

NANOS = 10**9
YEAR_1902, YEAR_2446 = -68 * 365 * 86400 * NANOS, 476 * 365 * 86400 * NANOS


def gettable(side, names):
    return sorted({name for name in names if isinstance(side.xattr(name), bytes)})


def reason(pair, what, a, b):
    """Why the two may differ, or None."""
    for rule in RULES:
        if text := rule(pair, what, a, b):
            return text
    return None


def of_side_b(rule):
    """Rules for what ntfs-3g shows: without it there is nothing to excuse."""
    def asked(pair, what, a, b):
        told = pair.a and pair.b and not what.endswith("by the truth")
        return rule(pair, what, a, b) if told else None
    return asked


@of_side_b
def unfollowed(pair, what, _a, _b):
    if what.startswith("xattr") or pair.b.type != stat.S_IFLNK:
        return None
    if pair.b.target().startswith(b"unsupported reparse"):
        return "ntfs-3g shows a reparse point that it cannot follow as a link that says so"


@of_side_b
def before_1970(_pair, what, a, b):
    if what in ("mtime", "atime") and a < 0 and a <= b < a + NANOS + 100:
        return "ntfs-3g rounds times before 1970 to a second"


@of_side_b
def split_streams(pair, what, a, b):
    if what == "streams" and isinstance(b, list) and a == gettable(pair.b, b):
        return "ntfs-3g lists a stream once for each of its pieces, also one that is too long for an extended attribute"


@of_side_b
def short_names(pair, what, a, b):
    if what == "links" and abs(a - b) == 1 and (pair.b if b > a else pair.a).xattr(b"system.ntfs_dos_name"):
        return "ntfs-3g counts the short name of a long one as a link"


@of_side_b
def link_text(pair, what, _a, _b):
    if what != "target":
        return None
    ends = pair.a.leads_to(), pair.b.leads_to()
    if ends[0] is not None and ends[0] == ends[1]:
        return "a link is written in another way, and leads to the same file"
    if ends[1] is None:
        return "a link that leads nowhere for ntfs-3g is text for people on the other side, or leads to another volume"


@of_side_b
def mount_point(pair, what, _a, _b):
    if pair.b.type == stat.S_IFLNK and pair.a.type == stat.S_IFDIR and pair.b.leads_to() is None:
        return "a volume mounted on a folder is a link without an end for ntfs-3g"


@of_side_b
def special(pair, what, _a, _b):
    types = stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK
    if pair.b.type in types and pair.a.type == stat.S_IFREG and what == "type":
        return "a socket, pipe or device of WSL is a file without content on the other side"


@of_side_b
def interix(pair, what, _a, _b):
    if pair.b.type != stat.S_IFLNK or pair.a.type != stat.S_IFREG or what not in ("type", "size"):
        return None
    with open(pair.a.at, "rb") as file:
        if file.read(8) == b"IntxLNK\1":
            return "ntfs-3g follows its own links, which are files for everybody else"


@of_side_b
def folder_bit(pair, what, a, b):
    if what == "xattr system.ntfs_attrib" and isinstance(a, bytes) and isinstance(b, bytes):
        if int.from_bytes(a, "little") ^ int.from_bytes(b, "little") == FOLDER:
            return "ntfs-3g sets the bit of a folder among the attributes"


def of_restored(rule):
    def asked(pair, what, a, b):
        return rule(pair, what, a, b) if pair.a and pair.options.restored else None
    return asked


@of_restored
def refused(pair, what, _a, _b):
    if what in ("content", "size", "only in") and pair.a.type == stat.S_IFREG and pair.a.digest() in REFUSALS:
        return "what the source refuses to give is not restored"


@of_restored
def sockets(pair, what, _a, _b):
    if what == "only in" and pair.a.type == stat.S_IFSOCK:
        return "some products store no sockets"


@of_restored
def long_streams(pair, what, a, b):
    if what == "streams" and isinstance(a, list) and b == gettable(pair.a, a):
        return "no extended attribute of Linux is longer than 64 KiB"


@of_restored
def years(_pair, what, a, _b):
    if what == "mtime" and not YEAR_1902 < a < YEAR_2446:
        return "file systems of Linux have no time so long ago or so far away"


def of_foreign(rule):
    """A is ntfs-3g's own view, beside the truth."""
    def asked(pair, what, a, b):
        return rule(pair, what, a, b) if pair.a and pair.options.foreign else None
    return asked


@of_foreign
def unfollowed_alone(pair, what, _a, _b):
    if what in ("type by the truth", "link by the truth") and pair.a.type == stat.S_IFLNK:
        if pair.a.target().startswith(b"unsupported reparse"):
            return "ntfs-3g shows a reparse point that it cannot follow as a link that says so"


@of_foreign
def times_alone(_pair, what, a, b):
    if what in ("modified by the truth", "accessed by the truth") and b < 0 and b <= a < b + NANOS + 100:
        return "ntfs-3g rounds times before 1970 to a second"


@of_foreign
def short_names_alone(pair, what, a, b):
    if what == "links by the truth" and a == b + 1 and pair.a.xattr(b"system.ntfs_dos_name"):
        return "ntfs-3g counts the short name of a long one as a link"


@of_foreign
def streams_alone(pair, what, a, b):
    if what == "streams by the truth" and isinstance(a, list) and gettable(pair.a, a) == b:
        return "ntfs-3g lists a stream once for each of its pieces, also one that is too long for an extended attribute"


RULES = (
    unfollowed_alone, times_alone, short_names_alone, streams_alone,
    refused, sockets, long_streams, years,
    unfollowed, before_1970, split_streams, short_names, link_text, mount_point, special, interix, folder_bit,
)
