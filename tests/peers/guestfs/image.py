"""Puts a fixture together: mounts the volume once for each phase, then changes what only an unmounted image allows."""

import contextlib

import ntfs_raw
import parts
from content import noise
from volume import Volume, run

STANDARD_INFORMATION, ENCRYPTED_FILE, ENCRYPTED_STREAM = 0x10, 0x4000, 0x4000


def suitable(geometry):
    """The parts that a geometry allows. Records of 4 KiB hold more runs than the scattered parts have."""
    return [name for name, part in parts.PARTS.items() if geometry["cluster"] <= part.cluster
            and not (part.phase in parts.MASKS and geometry["sector"] > 1024)]


def make(path, geometry, names):
    volume = Volume(path, **geometry)
    fill(volume, names)
    volume.finish()


def fill(volume, names):
    for phase, options in parts.OPTIONS.items():
        chosen = [name for name in names if parts.PARTS[name].phase == phase]
        if not chosen:
            continue
        masks = parts.MASKS.get(phase)
        with volume.scattered(masks) if masks else contextlib.nullcontext(), volume.filling(options):
            write(volume, chosen)
    finish_unmounted(volume)


def write(volume, chosen):
    for name in chosen:
        volume.folder(name.encode())
        parts.PARTS[name].write(volume, name.encode())


def finish_unmounted(volume):
    for task, *arguments in volume.later:
        if task == "allocate":
            path, size = arguments
            run("ntfsfallocate", "-f", "-l", str(size), volume.path, b"/" + path)
    with ntfs_raw.Image(volume.path) as image:
        for task, *arguments in volume.later:
            if task == "stale":
                image.stale(*arguments, noise("deleted by others", 8192))
            elif task == "encrypt":
                encrypt(image, *arguments)


def encrypt(image, number):
    """Sets the flag of the file and that of its content."""
    record = image.record(number)
    of_file, of_stream = (STANDARD_INFORMATION, 0x18 + 0x20, ENCRYPTED_FILE), (ntfs_raw.DATA, 0x0C, ENCRYPTED_STREAM)
    for kind, place, flag in (of_file, of_stream):
        at = record.find(kind) + place
        value = int.from_bytes(record.data[at:at + 2], "little") | flag
        record.data[at:at + 2] = value.to_bytes(2, "little")
    image.store(record)
