"""The volume to measure with: every part of the small one, many files, and large ones."""

import content
import image
import parts
from content import KIB, MIB, mixed, noise, text
from volume import Volume

GIB = 1024 * MIB
FOLDERS = 100
SIZES = (0, 50, 300, 600, 900, 3000, 9000, 20000)


def make(path, files, size):
    volume = Volume(path, size, "big")
    with volume.filling():
        many(volume, b"many", files)
        volume.folder(b"large")
        volume.file(b"large/1-gib", content.large("large", GIB))
        data = noise("sparse", 64 * KIB)
        volume.file(b"large/sparse", [(0, data), (200 * MIB, data[1:]), (GIB - 1, data[:5001])])
        compressed(volume, b"large/compressed")
    volume.claim(b"large/1-gib", size=GIB, resident=False)
    volume.claim(b"large/sparse", flags=0x8000, min_holes=2)
    volume.claim(b"large/compressed/mixed", flags=1, min_holes=100)
    image.fill(volume, list(parts.PARTS))
    volume.finish()


def many(volume, top, files):
    """Small files, each another, in folders of equal size."""
    pool = mixed("many", 4 * MIB)
    volume.folder(top)
    for folder in range(FOLDERS):
        volume.folder(top + b"/%03d" % folder)
        for number in range(folder, files, FOLDERS):
            at, size = number * 4093 % (3 * MIB), SIZES[number // FOLDERS % len(SIZES)]
            data = (b"%d " % number + pool[at:at + size])[:size]
            volume.file(top + b"/%03d/file-%06d.dat" % (folder, number), data)


def compressed(volume, top):
    volume.folder(top, compressed=True)
    volume.file(top + b"/text", text("compressed text", 32 * MIB))
    volume.file(top + b"/mixed", mixed("compressed mixed", 64 * MIB))
