"""What is in the files: seeded bytes of several kinds, so that a wrong piece shows as a wrong hash."""

import functools
import hashlib
import random

KIB = 1024
MIB = 1024 * KIB
# A compressed stream of NTFS is compressed in units of 16 clusters; with clusters of 4 KiB that is 64 KiB.
UNIT = 64 * KIB
WORDS = b"the volume holds a table of records and each record names a run of clusters".split()


@functools.lru_cache(8)
def noise(seed, size):
    """Bytes that no compressor makes smaller."""
    return random.Random(f"noise {seed}").randbytes(size)


@functools.lru_cache(8)
def text(seed, size):
    """Words and numbers: compresses to about a third."""
    chance = random.Random(f"text {seed}")
    lines, length = [], 0
    while length < size:
        line = b" ".join(chance.choices(WORDS, k=8)) + b" %d\n" % chance.randrange(1 << 20)
        lines.append(line)
        length += len(line)
    return b"".join(lines)[:size]


def mixed(seed, size, piece=24 * KIB):
    """Text and noise by turns, in pieces that are no multiple of a compression unit."""
    words, hard, parts = text(seed, 4 * piece), noise(seed, 4 * piece), []
    for number in range(-(-size // piece)):
        source = hard if number % 2 else words
        at = number * 1021 % (3 * piece)
        parts.append(b"%08d" % number + source[at:at + piece - 8])
    return b"".join(parts)[:size]


def large(seed, size):
    """(offset, bytes) of a large file: MiB by MiB, half of each compressible, each different."""
    for offset in range(0, size, MIB):
        yield offset, mixed(f"{seed} {offset // MIB % 16}", MIB, 64 * KIB)[16:] + b"%16d" % offset


class Digest:
    """The SHA-256 of a file written piece by piece, in order; what lies between the pieces is zeros."""

    def __init__(self):
        self.hash, self.at = hashlib.sha256(), 0

    def zeros(self, end):
        while self.at < end:
            step = min(end - self.at, MIB)
            self.hash.update(bytes(step))
            self.at += step

    def add(self, offset, data):
        self.zeros(offset)
        self.hash.update(data)
        self.at += len(data)

    def end(self, size):
        self.zeros(size)
        return self.hash.hexdigest()
