"""What hivex, a library that is not ours, reads from registry hives and writes into them.

    hivex.py dump FILE              prints all keys and values as JSON
    hivex.py change FILE < CHANGES  [[path of the key, names of keys to add, [[name, type, hex data], ...]], ...]
"""

import json
import sys
import zlib

# The name of this file is that of the library as well.
sys.path.pop(0)
import hivex


def tree(hive, node):
    values = []
    for value in hive.node_values(node):
        kind, data = hive.value_value(value)
        values.append([hive.value_key(value), kind & 0xffffffff, len(data), zlib.crc32(data)])
    return [hive.node_name(node), values, [tree(hive, child) for child in hive.node_children(node)]]


def change(hive, changes):
    for path, keys, values in changes:
        node = hive.root()
        for name in path:
            node = hive.node_get_child(node, name) or hive.node_add_child(node, name)
        for name in keys:
            hive.node_add_child(node, name)
        for name, kind, data in values:
            hive.node_set_value(node, {"key": name, "t": kind, "value": bytes.fromhex(data)})
    hive.commit(None)


if sys.argv[1] == "change":
    change(hivex.Hivex(sys.argv[2], write=True), json.load(sys.stdin))
else:
    hive = hivex.Hivex(sys.argv[2])
    json.dump(tree(hive, hive.root()), sys.stdout)
