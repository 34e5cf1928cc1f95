"""The descriptor: the text that names the extents and the parent, in the many ways it is written."""

ODD_CASE = {
    "version": "Version",
    "encoding": "ENCODING",
    "CID": "cid",
    "parentCID": "ParentCid",
    "createType": "createtype",
    "parentFileNameHint": "PARENTFILENAMEHINT",
}


def extent_line(extent, gap=" "):
    parts = [extent.get("access", "RW"), str(extent["len"]), extent["type"]]
    if extent["type"] != "ZERO":
        parts.append(f'"{extent["file"]}"')
    if extent["type"] == "FLAT":
        parts.append(str(extent.get("offset", 0)))
    return gap.join(parts)


def write(
    create_type, capacity, extents, cid, parent=None, *,
    encoding="UTF-8", newline="\n", equals="=", gap=" ", trail="", remark=None, comments=(), blank=False,
    final_newline=True, odd_case=False,
):
    """The bytes of a descriptor. `parent` is (CID, name) or None.

    equals    between a key and its value
    gap       between the parts of an extent
    trail     at the end of a line
    remark    text beyond ASCII, for a comment and an entry
    comments  where to have some more: "keys", "extents"
    blank     a line without anything before an extent
    """
    keys = [("version", "1"), ("encoding", f'"{encoding}"'), ("CID", f"{cid:08x}")]
    keys.append(("parentCID", f"{parent[0]:08x}" if parent else "ffffffff"))
    keys.append(("createType", f'"{create_type}"'))
    if parent:
        keys.append(("parentFileNameHint", f'"{parent[1]}"'))
    lines = ["# Disk DescriptorFile"]
    if remark:
        lines.append(f"# {remark}-flat.vmdk")
    if "keys" in comments:
        lines += ["", "#", "   # an indented comment = with a sign", '# RW 4096 FLAT "not-an-extent.vmdk" 0']
    for key, value in keys:
        lines.append(f"{ODD_CASE[key] if odd_case else key}{equals}{value}")
        if "keys" in comments:
            lines += ["", "# between the keys"]
    lines += ["", "# Extent description"]
    for extent in extents:
        if "extents" in comments:
            lines.append("# before an extent")
        if blank:
            lines.append("")
        lines.append(extent_line(extent, gap))
    lines += ["", "# The Disk Data Base", "#DDB", ""]
    lines += entries(capacity, cid, remark, odd_case)
    return ((trail + newline).join(lines) + (newline if final_newline else "")).encode(encoding)


def entries(capacity, cid, remark, odd_case):
    cylinders = min(65535, -(-capacity // (255 * 63)))
    lines = [
        'ddb.adapterType = "lsilogic"',
        f'ddb.geometry.cylinders = "{cylinders}"',
        'ddb.geometry.heads = "255"',
        'ddb.geometry.sectors = "63"',
        f'ddb.longContentID = "{cid:08x}{cid ^ 0x5a5a5a5a:08x}{cid ^ 0x33333333:08x}{cid:08x}"',
        'ddb.uuid = "60 00 C2 9a 01 02 03 04-05 06 07 08 09 0a 0b 0c"',
        'ddb.virtualHWVersion = "13"',
    ]
    if remark:
        lines.insert(1, f'ddb.comment = "{remark}"')
    return [line.replace("ddb.", "DDB.").replace("adapterType", "ADAPTERTYPE") for line in lines] if odd_case else lines
