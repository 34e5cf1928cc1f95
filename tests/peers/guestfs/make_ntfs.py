#!/usr/bin/env python3
"""Makes NTFS volumes by ntfs-3g, and says what is in them from what was written.

    make_ntfs.py list                                       the names of the fixtures
    make_ntfs.py NAME OUT.img                               makes one, and OUT.img.truth.json
    make_ntfs.py big OUT.img [--files 50000] [--size 4G]    the one to measure with

Needs root (ntfs-3g mounts), ntfs-3g's tools and, for CompactOS files, wimlib-imagex.

The truth is one JSON object:
    volume      size, sector, cluster, label
    layout      what ntfsinfo said of the files whose layout matters; the maker fails if it is not what was wanted
    files       path to facts. A path has no slash at its start; bytes that are no UTF-8, and `%`, are written as %XX
                (names that are no UTF-16 are as ntfs-3g shows them: a lone surrogate in three bytes)
        kind        file, folder, link, interix (a link of ntfs-3g's: a system file with its target),
                    socket, fifo, device
        size, sha256    of the content
        links, same     how many names the file has here, and the one of them by which it was made
        streams     name to size and sha256
        attributes, times (100 ns since 1601), security, short_name     where they were set
        reparse     tag, and the whole reparse point
        target      of a link: relative, root, letter with path, volume with path, or outside
        refuse      why the content must not be given: dedup, cloud, wof, tag, encrypted
        wof         the format of a CompactOS file, whose size and sha256 are those of the plain content
"""

import argparse
import pathlib
import sys

sys.dont_write_bytecode = True  # the source tree stays as it is

import big
import image
import lean
import parts
import scattered  # noqa: F401  its parts are among the others

SMALL = {"label": "small", "size": 64 << 20}
# Other geometries. mkntfs makes records of one sector where sectors are larger than 1 KiB.
GEOMETRIES = {
    "sector-4096": {"sector": 4096, "cluster": 4096, "size": 64 << 20},
    "sector-4096-cluster-64k": {"sector": 4096, "cluster": 64 << 10, "size": 128 << 20},
    "cluster-512": {"cluster": 512, "size": 128 << 20},
    "cluster-64k": {"cluster": 64 << 10, "size": 128 << 20},
    "cluster-2m": {"cluster": 2 << 20, "size": 1 << 30},
}


def recipe(name):
    """Geometry and parts of a fixture."""
    if name == "small":
        return SMALL, list(parts.PARTS)
    if name in GEOMETRIES:
        geometry = {"label": name, "sector": 512} | GEOMETRIES[name]
        return geometry, image.suitable(geometry)
    return SMALL | {"label": name}, [name]


def main():
    names = ["small", "lean", *GEOMETRIES, *parts.PARTS]
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("name", choices=["list", "big", *names], metavar="NAME")
    options.add_argument("out", nargs="?", type=pathlib.Path)
    options.add_argument("--files", type=int, default=50_000)
    options.add_argument("--size", default="4G")
    given = options.parse_args()
    if given.name == "list":
        print("\n".join(names))
    elif given.out is None:
        options.error("OUT.img is missing")
    elif given.name == "big":
        big.make(given.out, given.files, int(given.size.rstrip("GM")) << {"G": 30, "M": 20}[given.size[-1]])
    elif given.name == "lean":
        lean.make(given.out)
    else:
        image.make(given.out, *recipe(given.name))


if __name__ == "__main__":
    main()
