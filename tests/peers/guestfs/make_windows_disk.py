#!/usr/bin/env python3
"""Makes the two disks of a Windows machine, as its registry knows them, and says what is on them.

    make_windows_disk.py STEM       STEM1.raw (MBR), STEM2.raw (GPT), STEM.truth.json

Needs root, ntfs-3g, dosfstools, mtools, exfatprogs, exfat-fuse, e2fsprogs, sfdisk, and python3-hivex, which judges the
hive.

The truth is one JSON object:
    disks       file, table, signature (MBR) or guid (GPT); volumes in the order of their numbers
        number      counts the volumes of all disks, from 1 on: the folder below digits/
        index       of the partition, as sfdisk counts
        start, length, kind, label
        letter      that the machine gave it, if any
        guid        by which the machine's mount manager knows it
        files       path to size and sha256, of volumes that can be read; folders are not told
    mounted     volumes mounted on folders: letter, path, number
    links       links between the volumes: letter, path, and what they lead to
    foreign     letters in the hive that are on none of the disks
"""

import json
import pathlib
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # the source tree stays as it is

import windows


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.exit(__doc__)
    stem = arguments[0]
    with tempfile.TemporaryDirectory() as folder:
        machine = windows.Machine(stem, pathlib.Path(folder))
        judge(machine.hive, machine.mounted_devices)
        machine.write()
    pathlib.Path(f"{stem}.truth.json").write_text(json.dumps(machine.truth(), indent=1) + "\n", encoding="utf-8")


def judge(hive, values):
    """hivex, in a process of Debian's own Python, must read what was put into the hive."""
    script = """import hivex, json, sys
hive = hivex.Hivex(sys.argv[1])
node = hive.node_get_child(hive.root(), "MountedDevices")
found = {hive.value_key(value): hive.value_value(value)[1].hex() for value in hive.node_values(node)}
print(json.dumps(found))
"""
    with tempfile.NamedTemporaryFile() as file:
        file.write(hive)
        file.flush()
        done = subprocess.run(["/usr/bin/python3", "-c", script, file.name], capture_output=True, text=True)
    if done.returncode or json.loads(done.stdout) != {name: data.hex() for name, data in values.items()}:
        sys.exit(f"hivex does not read the hive: {done.stdout} {done.stderr}")


if __name__ == "__main__":
    main(sys.argv[1:])
