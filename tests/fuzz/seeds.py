#!/usr/bin/env python3
"""Makes the inputs that fuzzing begins with.

    seeds.py DIR    writes DIR/TARGET/NAME

They are the images of tests/peers/vmdk/scenarios.py with less data, tiny ones of qemu-img, a few chains, registry hives and
compressed data by hand, conversations of both sides of NBD, and small volumes of the mkfs family.
"""

import copy
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # the source tree stays as it is
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "peers" / "vmdk"))

import build
import clients
import compressed
import disk
import guest
import hives
import nbd
import pack
import scenarios

TARGETS = [
    "descriptor", "flat", "hosted", "stream", "cowd", "sesparse", "chain", "check", "hive", "lznt1", "xpress", "lzx", "fat", "exfat", "partition",
    "ntfs", "nbd-client", "nbd-server",
]
# Types of extents, the target of their dialect.
OF_TYPE = {"SPARSE": "hosted", "VMFSSPARSE": "cowd", "SESPARSE": "sesparse", "FLAT": "flat", "VMFS": "flat"}
# Sectors of data that are left of a run.
SECTORS = 2


def small(spec):
    """A scenario with little data. Where a last grain is large, nothing is in it: writers pad it."""
    spec = copy.deepcopy(spec)
    for layer in spec["layers"]:
        grain = layer.get("grain", 128)
        padded = grain > 16 and layer["dialect"] != "streamOptimized" and "tail" not in layer.get("layout", {})
        last = (layer["capacity"] - 1) // grain * grain
        layer["runs"] = [run for run in layer["runs"] if not padded or run["start"] + run["len"] <= last]
        for run in layer["runs"]:
            if run["kind"] == "data":
                run["len"] = min(run["len"], SECTORS)
    return spec


def alike(number):
    """The seed of content in which this block is one byte again and again: a grain that is packed by a recipe."""
    return next(seed for seed in range(1000) if len(set(disk.block(seed, number))) == 1)


def recipes(**layout):
    runs = [scenarios.data(n * disk.BLOCK, disk.BLOCK, alike(n)) for n in (0, 1, 2, 5, 511, 512, 1024)]
    return {"layers": [scenarios.holding("streamOptimized", 20003, runs, grain=disk.BLOCK, layout=layout)]}


def dialect_of(layer):
    kinds = {extent["type"] for extent in build.with_defaults(layer, 0)["extents"]} - {"ZERO"}
    if layer["dialect"] in ("streamOptimized", "custom"):
        return {"streamOptimized": "stream", "custom": "flat"}[layer["dialect"]]
    return OF_TYPE[kinds.pop()] if len(kinds) == 1 else "flat"


class Seeds:
    def __init__(self, folder):
        self.folder, self.left_out = folder, []
        for target in TARGETS:
            (folder / target).mkdir(parents=True)

    def add(self, name, target, data):
        if len(data) > pack.LARGEST:
            raise pack.TooLarge(f"{len(data)} bytes")
        (self.folder / target / name).write_bytes(data)

    def image(self, name, targets, top):
        for target in targets + ["check"]:
            try:
                self.add(name, target, pack.pack(target, top))
            except pack.TooLarge as error:
                self.left_out.append(f"{target}/{name}: {error}")

    def scenarios(self, work):
        specs = {name: small(spec) for name, spec in scenarios.SCENARIOS.items()}
        for name, layout in [("end", {"tables": "end"}), ("interleaved", {}), ("front", {"directory": "front"})]:
            specs[f"stream-recipes-{name}"] = recipes(**layout)
        for name, spec in specs.items():
            folder = work / name
            folder.mkdir()
            result = build.build(spec, folder)
            targets = ["descriptor", dialect_of(spec["layers"][-1])]
            if len(spec["layers"]) > 1:
                targets.append("chain")
            self.image(name, targets, folder / result["top"])
            shutil.rmtree(folder)

    def by_hand(self):
        def text(name, parent, extent='RW 8 ZERO'):
            keys = f'version=1\nCID=1\nparentCID={"1" if parent else "ffffffff"}\ncreateType="custom"\n'
            hint = f'parentFileNameHint="{parent}"\n' if parent else ""
            return pack.text_file(name, f"{keys}{hint}{extent}\n".encode())

        for depth in (64, 65):
            names = [f"{i}.vmdk" for i in range(depth)] + [""]
            files = (text(name, parent) for name, parent in zip(names, names[1:]))
            self.add(f"depth-{depth}", "chain", b"\0" + b"".join(files))
        self.add("loop", "chain", b"\0" + text("a", "b") + text("b", "a"))
        self.add("loop-to-itself", "chain", b"\0" + text("a", "/x/a"))
        self.add("any-name", "chain", b"\1" + text("a", "b") + text("", "c", 'RW 8 FLAT "d"') + text("", ""))
        lines = 'version=1\nCID=1\ncreateType="custom"\n' + "RW 1 ZERO\n" * 4101
        self.add("4101-extents", "descriptor", lines.encode())
        self.add("letters", "hive", hives.small())
        self.add("every-form", "hive", hives.full())
        for target, name, data in compressed.seeds():
            self.add(name, target, data)
        for name, data in nbd.seeds():
            self.add(name, "nbd-client", data)
        for name, data in clients.seeds():
            self.add(name, "nbd-server", data)


def qemu(seeds, folder):
    def run(*arguments):
        subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    def write(name, *commands):
        run("qemu-io", "-f", "vmdk", *(part for command in commands for part in ("-c", command)), name)

    for subformat, target in [
        ("monolithicFlat", "flat"), ("twoGbMaxExtentFlat", "flat"), ("monolithicSparse", "hosted"),
        ("twoGbMaxExtentSparse", "hosted"),
    ]:
        name = f"qemu-{subformat}.vmdk"
        run("qemu-img", "create", "-f", "vmdk", "-o", f"subformat={subformat}", name, "1M")
        write(name, "write -P 7 0 512", "write -P 8 300k 1k")
        seeds.image(name, ["descriptor", target], folder / name)
    run("qemu-img", "convert", "-f", "vmdk", "-O", "vmdk", "-o", "subformat=streamOptimized", name, "qemu-stream.vmdk")
    seeds.image("qemu-stream.vmdk", ["descriptor", "stream"], folder / "qemu-stream.vmdk")
    below = "qemu-monolithicSparse.vmdk"
    chain = folder / "chain"
    chain.mkdir()
    shutil.copy(folder / below, chain)
    folder = chain
    for name in ("qemu-delta-1.vmdk", "qemu-delta-2.vmdk"):
        run("qemu-img", "create", "-f", "vmdk", "-b", below, "-F", "vmdk", "-o", "zeroed_grain=on", name)
        write(name, "write -z 256k 64k", "write -P 9 512k 512")
        seeds.image(name, ["descriptor", "hosted", "chain"], folder / name)
        below = name


def fat_volumes(seeds, folder):
    """One volume of each width, with a long name, a folder and a file in two pieces."""
    def run(*arguments):
        subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    (folder / "small").write_bytes(b"small")
    (folder / "more").write_bytes(b"more" * 300)
    for bits, kib in [(12, 1024), (16, 4500), (32, 35000)]:
        name = f"fat{bits}.img"
        run("mkfs.fat", "-C", "-F", str(bits), "-s", "1", "-n", "LABEL", name, str(kib))
        run("mmd", "-i", name, "::Ordner mit langem Namen", "::DEEP")
        run("mcopy", "-i", name, "small", "::a long name of a small file.txt")
        run("mcopy", "-i", name, "small", "::SMALL.TXT")
        run("mcopy", "-i", name, "small", "::HOLE")
        run("mcopy", "-i", name, "small", "::DEEP/small")
        run("mdel", "-i", name, "::HOLE")
        run("mcopy", "-i", name, "more", "::pieces")
        seeds.add(name, "fat", pack.file("", folder / name))


def exfat_set(name, attributes, flags, cluster, length):
    """An entry set; the target makes its checksum right."""
    units = name.encode("utf-16-le")
    names = [units[at:at + 30] for at in range(0, len(units), 30)]
    first = bytes([0x85, 1 + len(names), 0, 0, attributes, 0, 0, 0]) + b"\x21\x08\x21\x50" * 3
    numbers = length.to_bytes(8, "little") + bytes(4) + cluster.to_bytes(4, "little") + length.to_bytes(8, "little")
    stream = bytes([0xC0, flags, 0, len(units) // 2]) + bytes(4) + numbers
    return b"".join(part.ljust(32, b"\0") for part in [first, stream] + [b"\xc1\0" + part for part in names])


def exfat_volume(seeds, folder):
    """What mkfs.exfat makes, and in its root a file in a row, a chained one, and a folder."""
    image = folder / "exfat.img"
    with open(image, "wb") as opened:
        opened.truncate(4 << 20)
    subprocess.run(["mkfs.exfat", "-c", "4K", "-L", "label", image], check=True, stdout=subprocess.DEVNULL)
    data = bytearray(image.read_bytes())
    fat, _, heap, _, root = (int.from_bytes(data[at:at + 4], "little") for at in (80, 84, 88, 92, 96))
    fat, heap = fat * 512, heap * 512

    def put(cluster, piece):
        at = heap + 4096 * (cluster - 2)
        end = next(at for at in range(at, at + 4096, 32) if data[at] == 0)
        data[end:end + len(piece)] = piece

    put(root, exfat_set("a file in a row of clusters.txt", 0x20, 3, 20, 5000))
    put(root, exfat_set("chained", 0x20, 1, 30, 9000) + exfat_set("folder", 0x10, 3, 40, 4096))
    put(40, exfat_set("inner", 0x20, 3, 50, 100) + exfat_set("deep", 0x10, 1, 41, 4096))
    for cluster, following in [(30, 32), (32, 31), (31, 0xFFFFFFFF), (41, 0xFFFFFFFF)]:
        data[fat + 4 * cluster:fat + 4 * cluster + 4] = following.to_bytes(4, "little")
    image.write_bytes(data)
    seeds.add("exfat.img", "exfat", b"\0" + pack.file("", image))


def main(arguments):
    if len(arguments) != 1:
        sys.exit(__doc__)
    folder = pathlib.Path(arguments[0])
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    seeds = Seeds(new)
    with tempfile.TemporaryDirectory(dir=new.parent) as work:
        work = pathlib.Path(work)
        seeds.scenarios(work)
        seeds.by_hand()
        if shutil.which("qemu-img") and shutil.which("qemu-io"):
            qemu(seeds, work)
        else:
            print("qemu-img is not installed: its images are not among the seeds")
        for make, tools in [
            (fat_volumes, ["mkfs.fat", "mmd", "mcopy", "mdel"]), (exfat_volume, ["mkfs.exfat"]), (guest.partition, ["sfdisk"]),
            (guest.ntfs, ["mkntfs", "ntfs-3g", "ntfsfallocate", "wimlib-imagex"]),
        ]:
            missing = [tool for tool in tools if not shutil.which(tool)]
            if missing:
                print(f"{missing[0]} is not installed: its volumes are not among the seeds")
            else:
                make(seeds, work)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    for why in seeds.left_out:
        print(f"left out: {why}")
    print("seeds: " + ", ".join(f"{target} {len(list((folder / target).iterdir()))}" for target in TARGETS))


if __name__ == "__main__":
    main(sys.argv[1:])
