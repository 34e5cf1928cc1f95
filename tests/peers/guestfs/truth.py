"""A tree and how it was made."""

import hashlib
import json
import os
import re
import stat
import struct

import xattr

# What a reader may say to whoever opens a file whose content it must not give: it is encrypted, it is not here.
REFUSALS = {"EACCES", "EOPNOTSUPP"}
FOLDER = 0x10
# The compressed content of a CompactOS file: Windows hides it, so it may be listed or not.
WOF_STREAM = b"WofCompressedData"
ESCAPED = re.compile(rb"%([0-9A-F]{2})")


class Truth:
    """The facts of each folder's children; without a file there are none."""

    def __init__(self, path):
        self.folders, self.paths = {}, set()
        files = json.loads(path.read_text(encoding="utf-8"))["files"] if path else {}
        for name, entry in files.items():
            whole = ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), name.encode())
            folder, _, child = whole.rpartition(b"/")
            self.paths.add(whole)
            if child:
                self.folders.setdefault(folder, {})[child] = entry

    def end_of(self, path, target):
        """Where a link leads within the volume: "" is its root, None is nowhere or elsewhere. The volume is C:."""
        if "relative" in target:
            names = (os.path.dirname(path) + b"/" + target["relative"].encode()).split(b"/")
        elif "root" in target or target.get("letter") == "C":
            names = target.get("root", target.get("path")).encode().split(b"/")
        else:
            return None
        end = []
        for name in names:
            if name == b"..":
                end = end[:-1]
            elif name:
                end.append(name)
        return b"/".join(end) if b"/".join(end) in self.paths else None

    def children(self, folder):
        return self.folders.get(folder, {})


def differences(side, fact, xattrs, whole):
    """(what, as it is, as it should be)."""
    kind = {"file": stat.S_IFREG, "folder": stat.S_IFDIR, "link": stat.S_IFLNK}.get(fact["kind"])
    if kind and side.type != kind:
        yield "type by the truth", side.type, kind
        return
    if kind == stat.S_IFREG:
        yield from of_file(side, fact)
    if kind == stat.S_IFLNK:
        end = whole.end_of(side.path, fact["target"])
        if side.leads_to() != end:
            yield "link by the truth", side.target(), end
    if "times" in fact:
        for name, found in (("modified", side.stat.st_mtime_ns), ("accessed", side.stat.st_atime_ns)):
            wanted = (fact["times"][name] - 116444736000000000) * 100
            if found != wanted:
                yield f"{name} by the truth", found, wanted
    if xattrs:
        yield from of_xattrs(side, fact)


def of_file(side, fact):
    if side.stat.st_size != fact["size"]:
        yield "size by the truth", side.stat.st_size, fact["size"]
    digest = side.digest()
    if "refuse" in fact:
        if digest not in REFUSALS:
            yield "refusal by the truth", digest, fact["refuse"]
    elif digest != fact["sha256"]:
        yield "content by the truth", digest, fact["sha256"]
    if side.stat.st_nlink != fact["links"]:
        yield "links by the truth", side.stat.st_nlink, fact["links"]


def of_xattrs(side, fact):
    wanted = {}
    if "security" in fact:
        wanted["acl"] = bytes.fromhex(fact["security"])
    if "reparse" in fact:
        wanted["reparse_data"] = bytes.fromhex(fact["reparse"]["data"])
    if "short_name" in fact:
        wanted["dos_name"] = fact["short_name"].encode()
    for name, value in wanted.items():
        found = side.xattr(b"system.ntfs_" + name.encode())
        if found != value:
            yield f"{name} by the truth", found, value
    if "attributes" in fact:
        found = side.xattr(b"system.ntfs_attrib")
        if not isinstance(found, bytes) or int.from_bytes(found, "little") & ~FOLDER != fact["attributes"]:
            yield "attributes by the truth", found, struct.pack("<I", fact["attributes"])
    if "times" in fact:
        found, times = side.xattr(b"system.ntfs_times"), fact["times"]
        if not isinstance(found, bytes) or found[:24] != struct.pack("<3Q", *times.values()):
            yield "times by the truth", found, times
    if fact["kind"] in ("file", "folder"):
        yield from of_streams(side, fact)


def of_streams(side, fact):
    """What is too long for an extended attribute must not be listed: rsync leaves out the file of one it cannot get."""
    streams = {b"user." + name.encode(): stream for name, stream in fact.get("streams", {}).items()}
    streams.pop(b"user." + WOF_STREAM, None)
    listed, wanted = side.streams(), sorted(name for name, stream in streams.items() if stream["size"] <= xattr.MOST)
    if isinstance(listed, list):
        listed = [name for name in listed if name != b"user." + WOF_STREAM]
    if listed != wanted:
        yield "streams by the truth", listed, wanted
    for name in wanted:
        value = side.xattr(name)
        if not isinstance(value, bytes) or hashlib.sha256(value).hexdigest() != streams[name]["sha256"]:
            yield f"stream {os.fsdecode(name)} by the truth", value, streams[name]
