"""Parts that are written while few clusters are free side by side: run lists that do not fit into one record."""

from content import KIB, MIB, mixed, noise
from parts import CRUMBLED, SCATTERED, part

# So many runs of three bytes do not fit beside the rest of a record of 1 KiB.
MANY_RUNS = 300


@part("split-file", SCATTERED, 4 * KIB)
def split_file(volume, top):
    """One stream in several records: the first piece stays in the base record."""
    volume.file(top + b"/file", mixed("split", 2500 * KIB + 77))
    volume.file(top + b"/beside", b"a small one")
    volume.claim(top + b"/file", list=True, in_base=1, min_pieces=2, min_runs=MANY_RUNS, size=2500 * KIB + 77)


@part("split-stream", SCATTERED, 4 * KIB)
def split_stream(volume, top):
    """A named stream in several records, beside content in others."""
    volume.file(top + b"/file", noise("split content", 900 * KIB))
    volume.stream(top + b"/file", "scattered", mixed("split stream", 1000 * KIB - 7))
    volume.claim(top + b"/file", list=True, min_runs=60)
    volume.claim(top + b"/file", stream="scattered", list=True, min_pieces=2, size=1000 * KIB - 7)


@part("split-compressed", CRUMBLED, 4 * KIB)
def split_compressed(volume, top):
    """Compressed, and in pieces: units whose clusters are apart. The long name leaves little room in the record."""
    volume.attributes(top, 0x800)
    path = top + b"/file-" + b"n" * 200
    line = b"the number is %08d, and the number is not %08d\n"
    volume.file(path, b"".join(line % (number * 7919 % 99991, number) for number in range(10 * MIB // 52)))
    volume.claim(path, flags=1, list=True, min_pieces=2)


@part("split-folder", SCATTERED, 4 * KIB)
def split_folder(volume, top, files=1600):
    """A folder with its index in several records, the root not in the first; the table of records is split too."""
    for number in range(files):
        volume.file(top + b"/%06d-" % number + b"n" * 230, b"%d" % number)
    volume.claim(top, attribute="INDEX_ROOT", stream="$I30", in_base=0)
    volume.claim(top, attribute="INDEX_ALLOCATION", stream="$I30", list=True, min_pieces=2, min_runs=100)
    volume.claim(0, list=True, min_pieces=2, min_runs=100)
