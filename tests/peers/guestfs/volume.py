"""A volume in the making: what is written through ntfs-3g, and the truth about it, noted as it is written."""

import codecs
import contextlib
import hashlib
import json
import os
import pathlib
import random
import struct
import subprocess
import tempfile
import time

import content
import layout
import ntfs_raw
import reparse

READ_ONLY, HIDDEN, SYSTEM, ARCHIVE, COMPRESSED = 1, 2, 4, 0x20, 0x800
# How ntfs-3g shows streams.
XATTR, WINDOWS = "streams_interface=xattr", "streams_interface=windows"


# mtools takes names in the locale's bytes.
ENVIRONMENT = os.environ | {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}


def run(*command, input=None):
    done = subprocess.run(command, input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.returncode}: {done.stdout.decode(errors='replace')}")
    return done.stdout.decode(errors="replace").strip()


@contextlib.contextmanager
def mounted(image, options):
    """ntfs-3g in front of an image: answers the folder. All is written only when its process has ended."""
    folder, log = tempfile.mkdtemp(), tempfile.TemporaryFile()
    command = ["ntfs-3g", "-o", f"no_detach,compression,big_writes,{options}", image, folder]
    server = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)
    try:
        while not os.path.ismount(folder):
            if server.poll() is not None:
                raise RuntimeError("ntfs-3g did not mount")
            time.sleep(0.005)
        yield os.fsencode(folder)
        run("umount", folder)
    finally:
        if os.path.ismount(folder):
            run("umount", "--lazy", folder)
        if server.wait() != 0:
            log.seek(0)
            raise RuntimeError(f"{command}: {log.read().decode(errors='replace')}")
        os.rmdir(folder)


def key(path):
    """A path as the truth writes it: bytes that are no UTF-8, and `%`, as %XX."""
    return path.replace(b"%", b"%25").decode("utf-8", "percent_bytes")


def percent(error):
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(f"%{byte:02X}" for byte in error.object[error.start:error.end]), error.end


codecs.register_error("percent_bytes", percent)


class Volume:
    """Files are named by bytes paths from the root, without a slash at the start. The truth is in `files`."""

    def __init__(self, path, size, label, sector=512, cluster=4096):
        self.path, self.label = pathlib.Path(path), label
        self.files, self.claims, self.later, self.checked = {}, [], [], []
        self.mount = self.options = None
        self.geometry = {"size": size, "sector": sector, "cluster": cluster, "label": label}
        with open(path, "wb") as file:
            file.truncate(size)
        place = ("-p", "0", "-H", "0", "-S", "0")
        run("mkntfs", "-F", "-Q", "-s", str(sector), *place, "-c", str(cluster), "-L", label, path)
        self.note(b"", kind="folder")

    @contextlib.contextmanager
    def filling(self, options=XATTR):
        with mounted(self.path, options) as self.mount:
            self.options = options
            yield
        self.mount = None

    @contextlib.contextmanager
    def scattered(self, masks):
        """While this lasts, most clusters are taken, so that whatever is written falls into pieces.

        `masks` are for the bytes of the bitmap, in any order: a bit that is set takes a cluster.
        """
        with ntfs_raw.Image(self.path) as image:
            before = image.bitmap()
            chosen = random.Random("scattered").choices(masks, k=len(before) - 8)
            # The last word has bits behind the end of the volume; it stays as it is.
            taken = bytearray(map(int.__or__, before, chosen)) + before[-8:]
            image.set_bitmap(taken)
        yield
        with ntfs_raw.Image(self.path) as image:
            fake = (mark & ~was for mark, was in zip(taken, before))
            image.set_bitmap(bytes(now & ~mark for now, mark in zip(image.bitmap(), fake)))

    def at(self, path):
        return os.path.join(self.mount, path)

    def note(self, path, **facts):
        self.files[path] = entry = {"same": key(path), **facts}
        return entry

    def folder(self, path, compressed=False):
        os.mkdir(self.at(path))
        if compressed:
            self.set(path, "system.ntfs_attrib", struct.pack("<I", COMPRESSED))
        return self.note(path, kind="folder")

    def file(self, path, data=b"", size=None, **facts):
        """Writes bytes, or (offset, bytes) pieces in order of their offsets with nothing between."""
        pieces = [(0, data)] if isinstance(data, bytes) else data
        digest = content.Digest()
        with open(self.at(path), "wb", buffering=0) as file:
            for offset, piece in pieces:
                digest.add(offset, piece)
                file.seek(offset)
                written = 0
                while written < len(piece):
                    written += file.write(piece[written:])
            size = digest.at if size is None else size
            if size > digest.at:
                file.truncate(size)
        return self.note(path, kind="file", size=size, sha256=digest.end(size), **facts)

    def stream(self, path, name, data):
        """A further stream of a file or folder. An xattr has at most 64 KiB; the other interface takes any size."""
        if self.options == WINDOWS:
            with open(self.at(path + b":" + name.encode()), "wb") as file:
                file.write(data)
        else:
            self.set(path, "user." + name, data)
        fact = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.files[path].setdefault("streams", {})[name] = fact

    def set(self, path, name, data):
        os.setxattr(self.at(path), name, data, follow_symlinks=False)

    def link(self, old, new):
        os.link(self.at(old), self.at(new))
        self.files[new] = self.files[old]

    def reparse(self, path, data, **facts):
        """To be called last: ntfs-3g lets nobody near the content afterwards."""
        self.set(path, "system.ntfs_reparse_data", data)
        self.files[path].update(reparse=reparse.fact(data), **facts)

    def attributes(self, path, value):
        self.set(path, "system.ntfs_attrib", struct.pack("<I", value))
        self.files[path]["attributes"] = value

    def times(self, path, created, modified, accessed):
        """In units of 100 ns from 1601 on."""
        self.set(path, "system.ntfs_times", struct.pack("<3Q", created, modified, accessed))
        self.files[path]["times"] = {"created": created, "modified": modified, "accessed": accessed}

    def security(self, path, descriptor):
        self.set(path, "system.ntfs_acl", descriptor)
        self.files[path]["security"] = descriptor.hex()

    def number(self, path):
        """The number of a file's record."""
        return os.lstat(self.at(path)).st_ino

    def claim(self, what, **wanted):
        """What ntfsinfo must say of a file (bytes path) or record (number) in the end: see `layout`."""
        self.claims.append((what, wanted))

    def prove(self):
        for what, wanted in self.claims:
            self.checked.append(layout.check(self.path, what, wanted))
        self.claims = []

    def truth(self):
        counts = {}
        for entry in self.files.values():
            counts[entry["same"]] = counts.get(entry["same"], 0) + 1
        files = {key(path): entry | {"links": counts[entry["same"]]} for path, entry in sorted(self.files.items())}
        return {"volume": self.geometry, "files": files, "layout": self.checked}

    def finish(self):
        """Proves the layout and writes the truth beside the image."""
        self.prove()
        name = pathlib.Path(f"{self.path}.truth.json")
        name.write_text(json.dumps(self.truth(), indent=1) + "\n", encoding="utf-8")
