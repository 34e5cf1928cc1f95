"""A Windows machine with two disks: what is in its partitions, and the hive that names them."""

import hashlib
import os
import shutil
import struct
import uuid

import content
import hive
import reparse
from content import KIB, MIB, mixed, text
from volume import Volume, run

SIGNATURE = 0x5F3A1C77
DISK_GUID = "d1d1d1d1-1111-4222-8333-444455556666"
EFI, RESERVED = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"
DATA, LINUX = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


def guid(number):
    """That of the mount manager for volume `number`; GPT partitions have others, with another first digit."""
    return f"a0000000-0000-4000-8000-{number:012x}"


def partition_guid(number):
    return f"b0000000-0000-4000-8000-{number:012x}"


class Partition:
    def __init__(self, number, index, size, kind, code, letter=None, label="", named=True):
        self.number, self.index, self.size, self.kind, self.code = number, index, size, kind, code
        self.letter, self.label, self.named = letter, label, named
        self.files, self.start = {}, None

    def note(self, path, data):
        self.files[path] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def truth(self):
        facts = {"number": self.number, "index": self.index, "start": self.start, "length": self.size,
                 "kind": self.kind, "label": self.label, "letter": self.letter, "files": self.files}
        return facts | ({"guid": guid(self.number)} if self.named else {})


class Machine:
    """Numbers are those of the volumes over both disks. Partition 4 of the first disk is the extended one."""

    def __init__(self, stem, folder):
        self.paths, self.folder = [f"{stem}1.raw", f"{stem}2.raw"], folder
        self.mbr = [
            Partition(1, 1, 16 * MIB, "NTFS", "7", label="System Reserved"),
            Partition(2, 2, 64 * MIB, "NTFS", "7", "C", "Windows"),
            Partition(3, 3, 16 * MIB, "NTFS", "27", label="Recovery"),
            Partition(4, 5, 48 * MIB, "FAT32", "c", "D", "DATA"),
            Partition(5, 6, 16 * MIB, "NTFS", "7", label="Mounted"),
        ]
        self.gpt = [
            Partition(6, 1, 48 * MIB, "FAT32", EFI, label="EFI"),
            Partition(7, 2, 16 * MIB, "unknown", RESERVED, named=False),
            Partition(8, 3, 32 * MIB, "NTFS", DATA, "E", "Archive"),
            Partition(9, 4, 32 * MIB, "exFAT", DATA, "F", "Exchange"),
            Partition(10, 5, 32 * MIB, "ext4", LINUX, label="linux", named=False),
            Partition(11, 6, 16 * MIB, "BitLocker", DATA, "G"),
        ]
        for disk in (self.mbr, self.gpt):
            self.place(disk)
        self.mounted_devices = self.devices()
        values = [(name, hive.REG_BINARY, data) for name, data in self.mounted_devices.items()]
        current = [("Current", hive.REG_DWORD, struct.pack("<I", 1))]
        self.hive = hive.hive({"MountedDevices": values, "Select": current, "ControlSet001": []})

    def place(self, disk):
        """Each at the next MiB; logical ones leave one for the boot record before them."""
        at = MIB
        for partition in disk:
            at += MIB if disk is self.mbr and partition.index > 4 else 0
            partition.start = at
            at += partition.size

    def volumes(self):
        return self.mbr + self.gpt

    def devices(self):
        """The values of MountedDevices."""
        found = {"\\DosDevices\\A:": "\\??\\FDC#GENERIC_FLOPPY_DRIVE".encode("utf-16-le"),
                 "\\DosDevices\\Z:": struct.pack("<IQ", 0x0BADD15C, MIB)}
        for partition in self.volumes():
            if partition in self.mbr:
                place = struct.pack("<IQ", SIGNATURE, partition.start)
            else:
                place = b"DMIO:ID:" + uuid.UUID(partition_guid(partition.number)).bytes_le
            if partition.letter:
                found[f"\\DosDevices\\{partition.letter}:"] = place
            if partition.named:
                found["\\??\\Volume{%s}" % guid(partition.number)] = place
        return found

    def write(self):
        for partition in self.volumes():
            image = self.folder / str(partition.number)
            with open(image, "wb") as file:
                file.truncate(partition.size)
            MAKERS[partition.kind](self, partition, image)
        self.table(0, self.mbr, f"label: dos\nlabel-id: {SIGNATURE:#x}\n")
        self.table(1, self.gpt, f"label: gpt\nlabel-id: {DISK_GUID}\n")

    def table(self, number, disk, script):
        path = self.paths[number]
        with open(path, "wb") as file:
            file.truncate(disk[-1].start + disk[-1].size + 2 * MIB)
        for partition in disk:
            if number == 0 and partition.index == 5:
                script += f"4: start={(partition.start - MIB) // 512}, type=f\n"
            script += f"{partition.index}: start={partition.start // 512}, size={partition.size // 512}"
            script += f", type={partition.code}"
            script += f", uuid={partition_guid(partition.number)}\n" if number else "\n"
        run("sfdisk", "--quiet", path, input=script.encode())
        for partition in disk:
            copy(self.folder / str(partition.number), path, partition.start)

    def truth(self):
        disks = [{"file": os.path.basename(path), **table, "volumes": [partition.truth() for partition in disk]}
                 for path, disk, table in ((self.paths[0], self.mbr, {"table": "MBR", "signature": SIGNATURE}),
                                           (self.paths[1], self.gpt, {"table": "GPT", "guid": DISK_GUID}))]
        return {"disks": disks, "mounted": [{"letter": "C", "path": "mnt/data", "number": 5}],
                "links": LINKS, "foreign": ["Z"]}


# On C:, and where they lead.
LINKS = [
    {"letter": "C", "path": "Documents and Settings", "leads_to": {"letter": "C", "path": "Users"}},
    {"letter": "C", "path": "to-d", "leads_to": {"letter": "D", "path": "docs"}},
    {"letter": "C", "path": "to-e-by-guid", "leads_to": {"letter": "E", "path": "", "guid": guid(8)}},
    {"letter": "C", "path": "to-nothing", "leads_to": {"letter": "Z", "path": "gone"}},
]


def copy(source, target, offset):
    """Into a place of a sparse file; zeros stay holes."""
    with open(source, "rb") as file, open(target, "r+b") as disk:
        while data := file.read(MIB):
            if data.count(0) != len(data):
                disk.seek(offset + file.tell() - len(data))
                disk.write(data)


def ntfs(machine, partition, image):
    volume = Volume(image, partition.size, partition.label)
    with volume.filling():
        files = {b"number.txt": b"volume %d\n" % partition.number, b"mixed.bin": mixed(partition.number, 300 * KIB)}
        if partition.letter == "C":
            for folder in (b"Windows", b"Windows/System32", b"Windows/System32/config", b"Users", b"Users/me", b"mnt",
                           b"mnt/data"):
                volume.folder(folder)
            files |= {b"Windows/System32/config/SYSTEM": machine.hive, b"Users/me/letter.txt": text("letter", 5000),
                      b"Windows/notepad.exe": b"MZ" + mixed("notepad", 100_000)}
            volume.reparse(b"mnt/data", reparse.volume_mount_point(guid(5)))
            for name, target in ((b"Documents and Settings", "\\??\\C:\\Users"), (b"to-d", "\\??\\D:\\docs"),
                                 (b"to-nothing", "\\??\\Z:\\gone"), (b"to-e-by-guid", "\\??\\Volume{%s}\\" % guid(8))):
                volume.folder(name)
                volume.reparse(name, reparse.junction(target, target[4:]))
        for path, data in files.items():
            volume.file(path, data)
            partition.note(path.decode(), data)


def fat(_machine, partition, image):
    run("mkfs.fat", "-F", "32", "-n", partition.label, image)
    source = image.with_suffix(".files")
    (source / "docs").mkdir(parents=True)
    files = {"docs/a longer name than eight.text": text("fat", 40_000), "docs/größer als acht.txt": b"umlaut",
             "NUMBER.TXT": b"volume %d\n" % partition.number, "docs/mixed.bin": mixed(partition.number, 900_000)}
    for path, data in files.items():
        (source / path).write_bytes(data)
        partition.note(path, data)
    run("mcopy", "-i", image, "-s", *sorted(source.iterdir()), "::/")
    shutil.rmtree(source)


def exfat(_machine, partition, image):
    """exfat-fuse takes block devices only."""
    run("mkfs.exfat", "-L", partition.label, image)
    device = run("losetup", "--find", "--show", image)
    mount = image.with_suffix(".mount")
    mount.mkdir()
    try:
        run("mount.exfat-fuse", device, mount)
        files = {"number.txt": b"volume %d\n" % partition.number, "a long name, größer.bin": mixed("exfat", 700_000)}
        for path, data in files.items():
            (mount / path).write_bytes(data)
            partition.note(path, data)
    finally:
        if os.path.ismount(mount):
            run("umount", mount)
        run("losetup", "--detach", device)


def ext4(_machine, partition, image):
    run("mkfs.ext4", "-q", "-F", "-L", partition.label, image)


def bitlocker(_machine, partition, image):
    """The signature and noise: nobody can read more of it without the key."""
    data = b"\xeb\x58\x90-FVE-FS-" + bytes(499) + b"\x55\xaa" + content.noise("bitlocker", MIB)
    with open(image, "r+b") as file:
        file.write(data)


def nothing(_machine, _partition, _image):
    """Microsoft's reserved partition is empty."""


MAKERS = {"NTFS": ntfs, "FAT32": fat, "exFAT": exfat, "ext4": ext4, "BitLocker": bitlocker, "unknown": nothing}
