"""One of each kind and little of it: a volume that a test can walk thousands of times."""

import contextlib

import content
import image
import parts
import reparse
import wim
from content import KIB, MIB, mixed, noise, text
from volume import Volume

SIZE = 24 * MIB


def make(path):
    volume = Volume(path, SIZE, "lean")
    for phase, fill in FILLS.items():
        masks = parts.MASKS.get(phase)
        with volume.scattered(masks) if masks else contextlib.nullcontext(), volume.filling(parts.OPTIONS[phase]):
            fill(volume)
    image.finish_unmounted(volume)
    volume.finish()


def plain(volume):
    volume.file(b"empty")
    volume.file(b"resident", noise("resident", 300))
    volume.file(b"clusters", mixed("clusters", 9001))
    volume.file(b"sparse", [(0, noise("sparse", 5000)), (200 * KIB, noise("sparse", 9000))], size=300 * KIB + 1)
    volume.folder(b"index")
    for number in range(40):
        volume.file(b"index/%03d-" % number + b"n" * 70, b"number %d" % number)
    volume.claim(b"index", attribute="INDEX_ALLOCATION", stream="$I30", resident=False)
    volume.folder(b"index/sub")
    volume.file(b"index/sub/file", b"in a folder of a folder")
    volume.file(b"many-names", noise("many names", 5000))
    for number in range(14):
        volume.link(b"many-names", b"many-names-%02d-" % number + b"m" * 50)
    volume.claim(b"many-names", list=True)
    volume.file(b"streams", b"the content")
    volume.stream(b"streams", "small", b"a small stream")
    volume.stream(b"streams", "large", noise("large stream", 9000))
    volume.folder(b"packed", compressed=True)
    volume.file(b"packed/text", text("lean", 150_000))
    volume.file(b"packed/mixed", mixed("lean", 100_000))
    volume.file(b"secured", b"for some only")
    volume.security(b"secured", parts.descriptor())
    volume.file(b"a name with a short one.text", b"8.3")
    volume.set(b"a name with a short one.text", "system.ntfs_dos_name", b"ANAMEW~1.TEX")
    special(volume)


def special(volume):
    volume.file(b"symlink")
    volume.reparse(b"symlink", reparse.symlink("resident", "resident", True), kind="link", target={"relative": "resident"})
    volume.folder(b"junction")
    volume.reparse(b"junction", reparse.junction("\\??\\C:\\index", "C:\\index"), kind="link",
                   target={"letter": "C", "path": "index"})
    parts.interix(volume, b"interix", "index/sub/file")
    volume.file(b"dedup", [], size=50_000)
    volume.reparse(b"dedup", reparse.point(reparse.DEDUP, bytes(range(120))), refuse="dedup")
    written, size = noise("preallocated", 10_001), 64 * KIB
    volume.file(b"preallocated", written)
    digest = content.Digest()
    digest.add(0, written)
    volume.files[b"preallocated"].update(size=size, sha256=digest.end(size))
    volume.later.append(("allocate", b"preallocated", size))
    volume.later.append(("stale", volume.number(b"preallocated"), len(written), size))
    volume.file(b"encrypted", noise("efs", 5000))
    volume.files[b"encrypted"].update(refuse="encrypted")
    volume.later.append(("encrypt", volume.number(b"encrypted")))


def compact(volume):
    for label, form, method, chunk in parts.WOF_FORMS[::3]:
        data = text(f"lean {label}", 90_000)
        packed, = wim.compress([data], method, chunk)
        parts.compact(volume, b"compact-" + label.encode(), data, packed, form)


def scattered(volume):
    size = 1400 * KIB + 77
    volume.file(b"split", mixed("split", size))
    volume.claim(b"split", list=True, min_pieces=2, min_runs=150, size=size)


FILLS = {parts.PLAIN: plain, parts.STREAMS: compact, parts.SCATTERED: scattered}
