"""One side of a comparison: a file of a mounted tree."""

import errno
import hashlib
import os
import stat

import xattr

PIECE = 1 << 20


def join(path, name):
    return path + b"/" + name if path else name


class Side:
    def __init__(self, top, path):
        self.top, self.path = top, path
        self.at = os.path.join(top, path) if path else top
        self.stat = os.lstat(self.at)
        self.type = stat.S_IFMT(self.stat.st_mode)

    def target(self):
        return os.readlink(self.at)

    def leads_to(self):
        """The real path within the tree, None if the link leads nowhere in it."""
        real, top = os.path.realpath(self.at), os.path.realpath(self.top)
        if not os.path.exists(real) or not (real + b"/").startswith(top + b"/"):
            return None
        return real[len(top) + 1:]

    def streams(self):
        try:
            return [name for name in xattr.names(self.at) if name.startswith(b"user.")]
        except OSError as error:
            return failure(error)

    def xattr(self, name):
        """Its value, None if there is none, or the error's name."""
        try:
            return xattr.get(self.at, name)
        except OSError as error:
            return None if error.errno == errno.ENODATA else failure(error)

    def digest(self):
        """The SHA-256 of the content, or the error's name."""
        digest = hashlib.sha256()
        try:
            with open(self.at, "rb", buffering=0) as file:
                while piece := file.read(PIECE):
                    digest.update(piece)
        except OSError as error:
            return failure(error)
        return digest.hexdigest()


def failure(error):
    return errno.errorcode.get(error.errno, str(error))


def listing(top, path):
    """Name to file, of a folder."""
    with os.scandir(os.path.join(top, path) if path else top) as entries:
        return {entry.name: Side(top, join(path, entry.name)) for entry in entries}


def content_difference(a, b):
    """[("content", where, why)] of the first byte that is not equal; nothing if both refuse in the same way."""
    files = [opened(side.at) for side in (a, b)]
    if isinstance(files[0], str) or isinstance(files[1], str):
        said = [file if isinstance(file, str) else "opens" for file in files]
        return [] if said[0] == said[1] else [("content", *said)]
    at = 0
    with files[0], files[1]:
        while True:
            one, other = (piece(file) for file in files)
            if isinstance(one, str) or isinstance(other, str):
                said = [part if isinstance(part, str) else f"{len(part)} bytes" for part in (one, other)]
                return [] if one == other else [("content", *(f"at byte {at}: {word}" for word in said))]
            if one != other:
                size = min(len(one), len(other))
                at += next((index for index in range(size) if one[index] != other[index]), size)
                return [("content", f"differs at byte {at}", f"read {len(one)} and {len(other)} bytes")]
            if not one:
                return []
            at += len(one)


def opened(path):
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        return failure(error)


def piece(file):
    try:
        return file.read(PIECE)
    except OSError as error:
        return failure(error)
