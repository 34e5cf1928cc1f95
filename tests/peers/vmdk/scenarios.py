"""The scenarios: specifications (see build.py) by name. A name says what is special."""

MIB = 2048
TIB = 2048 << 20

SCENARIOS = {}


def scenario(name, *layers):
    SCENARIOS[name] = {"layers": list(layers)}


def data(start, length, seed):
    return {"start": start, "len": length, "kind": "data", "seed": seed}


def marked(kind, start, length):
    return {"start": start, "len": length, "kind": kind}


def typical(capacity, seed):
    """What guests write: the first sectors, pieces that begin and end anywhere, a long piece, the very end."""
    return [
        data(0, 3, seed),
        data(capacity // 8 + 5, 41, seed + 1),
        data(capacity // 3 - 77, 1000, seed + 2),
        data(capacity // 2 + 1, 2 * MIB, seed + 3),
        data(capacity - 5, 5, seed + 4),
    ]


def holding(dialect, capacity, runs, **more):
    return {"dialect": dialect, "capacity": capacity, "runs": runs} | more


def layer(dialect, capacity, seed, **more):
    return holding(dialect, capacity, typical(capacity, seed), **more)


# Hosted sparse. With grains of 8 a table covers 2 MiB, with 128 it is 32 MiB, with 2048 half a GiB.
ODD = 40 * MIB + 77
scenario("hosted-grain-8", layer("monolithicSparse", 8 * MIB + 3, 10, grain=8))
scenario("hosted-grain-16", layer("monolithicSparse", 16 * MIB + 3, 15, grain=16))
scenario("hosted-grain-128", layer("monolithicSparse", ODD, 20))
scenario("hosted-grain-2048", layer("monolithicSparse", ODD, 30, grain=2048))
scenario("hosted-empty", holding("monolithicSparse", MIB, []))
scenario("hosted-one-directory", layer("monolithicSparse", 40 * MIB, 40, layout={"redundant": False}))
scenario("hosted-first-directory-damaged", layer("monolithicSparse", 40 * MIB, 50, layout={"damage": "directory"}))
scenario("hosted-tables-on-demand", layer("monolithicSparse", 16 * MIB, 60, grain=16, layout={"tables": "used"}))
scenario("hosted-grains-shuffled", layer("monolithicSparse", ODD, 70, layout={"order": "shuffled"}))
scenario("hosted-last-grain-cut", layer("monolithicSparse", ODD, 80, layout={"order": "shuffled", "tail": "cut"}))
scenario("hosted-grains-beyond-1-tib", layer("monolithicSparse", ODD, 85, layout={"begin": 3 << 30}))
scenario("hosted-unclean-shutdown", layer("monolithicSparse", 40 * MIB, 87, layout={"unclean": True}))
scenario("hosted-version-3", layer("monolithicSparse", 40 * MIB, 90, layout={"version": 3}))
ZEROED = [marked("zero", 0, 256), data(2 * MIB, 300, 100), marked("zero", 3 * MIB, MIB), data(3 * MIB + 129, 3, 101),
          marked("zero", ODD // 128 * 128, 77)]
scenario("hosted-zeroed-grains", holding("monolithicSparse", ODD, ZEROED))
scenario("two-gb-sparse", layer("twoGbMaxExtentSparse", 17 * MIB + 5, 110, split=5 * MIB))
scenario("two-gb-sparse-odd-extents", layer("twoGbMaxExtentSparse", 17 * MIB + 5, 120, split=5 * MIB + 3))

# Flat, and mixtures. FLAT_PARTS lie in one file, out of order, with gaps.
FLAT_PARTS = [
    {"type": "FLAT", "len": 2 * MIB, "file": "parts.bin", "offset": 3 * MIB + 1},
    {"type": "FLAT", "len": MIB + 7, "file": "parts.bin", "offset": 0},
    {"type": "FLAT", "len": 3 * MIB, "file": "parts.bin", "offset": 6 * MIB},
]
MIXED = [
    {"type": "FLAT", "len": 2 * MIB, "file": "mixed-f001.vmdk"},
    {"type": "SPARSE", "len": 3 * MIB, "file": "mixed-s002.vmdk"},
    {"type": "FLAT", "len": MIB + 9, "file": "mixed-f003.vmdk"},
]
WITH_ZERO = [MIXED[0], {"type": "ZERO", "len": MIB + 1}, MIXED[1], {"type": "ZERO", "len": 5 * MIB},
             MIXED[2] | {"access": "RDONLY"}]
scenario("flat", layer("monolithicFlat", 5 * MIB + 9, 200))
scenario("flat-two-gb", layer("twoGbMaxExtentFlat", 17 * MIB + 5, 210, split=5 * MIB + 3))
scenario("flat-vmfs", layer("vmfs", 5 * MIB + 9, 220))
scenario("flat-offsets-in-one-file", layer("twoGbMaxExtentFlat", 6 * MIB + 7, 230, extents=FLAT_PARTS))
scenario("flat-read-only", layer("monolithicFlat", 5 * MIB, 240, extents=[
    {"type": "FLAT", "len": 5 * MIB, "file": "disk-flat.vmdk", "access": "RDONLY"}]))
scenario("mixed-flat-sparse", layer("twoGbMaxExtentSparse", 6 * MIB + 9, 250, extents=MIXED))
scenario("custom-flat-zero-sparse", holding("custom", 12 * MIB + 10, [
    data(2 * MIB - 7, 7, 260), data(3 * MIB + 1, 300, 261), data(5 * MIB + 33, 100, 262),
    data(11 * MIB + 1, MIB + 9, 263),
], extents=WITH_ZERO))

# COWD. With grains of one sector a table covers 2 MiB.
scenario("cowd-grain-1", layer("vmfsSparse", 6 * MIB + 5, 300, grain=1))
scenario("cowd-grain-16", layer("vmfsSparse", 40 * MIB + 5, 310, grain=16, layout={"order": "shuffled"}))
scenario("cowd-grain-128", layer("vmfsSparse", 40 * MIB + 5, 320))
scenario("cowd-over-flat", layer("vmfs", 6 * MIB, 330), layer("vmfsSparse", 6 * MIB, 335, grain=1))
scenario("cowd-over-cowd-over-flat", layer("vmfs", 6 * MIB, 340), layer("vmfsSparse", 6 * MIB, 345, grain=1),
         holding("vmfsSparse", 6 * MIB, [data(100, 1, 348), data(4 * MIB, 500, 349)], grain=16))

# seSparse. A table covers 16 MiB.
KINDS = [data(8, 1, 400), marked("unmapped", 16, 16), marked("zero", 40, 8), data(3 * MIB + 3, 2000, 401),
         marked("unmapped", 3 * MIB + 800, 80), marked("zero", 4 * MIB, 8 * MIB), data(5 * MIB + 1, 1, 402)]
SE_ODD = 50 * MIB + 3
SE_DELTA = [data(1000, 9, 410), marked("unmapped", 25 * MIB, 240), marked("zero", 25 * MIB + 400, 800),
            data(49 * MIB, 64, 411)]
SE_NO_UNMAPPED = [run for run in SE_DELTA if run["kind"] != "unmapped"]
scenario("sesparse-one-layer", layer("seSparse", SE_ODD, 420))
scenario("sesparse-four-kinds", holding("seSparse", SE_ODD, KINDS))
scenario("sesparse-zero-over-flat", layer("vmfs", SE_ODD, 430), holding("seSparse", SE_ODD, SE_NO_UNMAPPED))
scenario("sesparse-unmapped-over-flat", layer("vmfs", SE_ODD, 440), holding("seSparse", SE_ODD, SE_DELTA))
scenario("sesparse-directory-shuffled", layer("seSparse", SE_ODD, 450, layout={
    "directory": "shuffled", "order": "shuffled"}))
scenario("sesparse-empty-table", holding("seSparse", SE_ODD, [data(33 * MIB, 50, 460)], layout={
    "empty_tables": [0, 3]}))
scenario("sesparse-large-grain-numbers", layer("seSparse", SE_ODD, 470, layout={"scatter": 1021}))
scenario("sesparse-over-sesparse-over-flat", layer("vmfs", SE_ODD, 480), layer("seSparse", SE_ODD, 485),
         holding("seSparse", SE_ODD, SE_NO_UNMAPPED))
scenario("sesparse-3-tib", layer("seSparse", 3 * TIB + 5, 490))
scenario("sesparse-62-tib", layer("seSparse", 62 * TIB, 500))

# streamOptimized. With grains of 128 a table covers 32 MiB: three tables, and none for the middle one in some.
S = 70 * MIB
GAP = [data(1, 3000, 600), data(66 * MIB + 11, 999, 601)]
scenario("stream-tables-interleaved", layer("streamOptimized", S, 610))
scenario("stream-tables-at-end", layer("streamOptimized", S, 620, layout={"tables": "end"}))
scenario("stream-no-middle-table", holding("streamOptimized", S, GAP))
scenario("stream-directory-in-front", layer("streamOptimized", S, 630, layout={"directory": "front"}))
scenario("stream-as-qemu-writes", layer("streamOptimized", S, 640, layout={
    "directory": "front", "redundant": True, "end_marker": False}))
scenario("stream-descriptor-apart", layer("streamOptimized", S, 650, embedded=False))
scenario("stream-last-grain-short", layer("streamOptimized", ODD, 660, layout={"tail": "short"}))
scenario("stream-last-grain-padded", layer("streamOptimized", ODD, 670, layout={"tail": "padded"}))
for level in (0, 1, 9):
    scenario(f"stream-level-{level}", layer("streamOptimized", ODD, 680, layout={"level": level}))
scenario("stream-levels-mixed", layer("streamOptimized", ODD, 685, layout={"level": [9, 0, 1]}))
for version in (1, 3):
    scenario(f"stream-version-{version}", layer("streamOptimized", ODD, 690, layout={"version": version}))
scenario("stream-grain-16", layer("streamOptimized", ODD, 695, grain=16))
scenario("stream-under-delta", layer("streamOptimized", ODD, 700), layer("monolithicSparse", ODD, 705, grain=16))

# Chains.
scenario("hosted-over-flat", layer("monolithicFlat", 9 * MIB, 800), layer("monolithicSparse", 9 * MIB, 805, grain=16))
scenario("hosted-split-over-split", layer("twoGbMaxExtentSparse", 17 * MIB, 810, split=5 * MIB),
         layer("twoGbMaxExtentSparse", 17 * MIB, 815, split=6 * MIB))
scenario("hosted-zeroed-over-flat", layer("monolithicFlat", ODD, 820),
         holding("monolithicSparse", ODD, ZEROED + [marked("zero", 21 * MIB, 256)]))
scenario("grown-disk", layer("monolithicSparse", 9 * MIB + 5, 830), layer("monolithicSparse", 13 * MIB, 835, grain=16))
scenario("grown-disk-over-flat", layer("vmfs", 9 * MIB + 5, 840), layer("vmfsSparse", 13 * MIB, 845, grain=1))
scenario("mixed-chain", layer("streamOptimized", ODD, 850), layer("vmfsSparse", ODD, 860, grain=1),
         holding("seSparse", ODD, SE_NO_UNMAPPED[:2] + [data(30 * MIB, 64, 870)]),
         holding("monolithicSparse", ODD, [data(1003, 2, 880), data(35 * MIB, 64, 881)], grain=16))
scenario("chain-of-32", layer("vmfs", 2 * MIB, 890), *(
    holding("vmfsSparse", 2 * MIB, [data(i * 100, 150, 890 + i)], grain=1) for i in range(1, 32)))


# Descriptors, each of a small flat disk.
def described(name, seed, file="disk", **arguments):
    scenario(f"descriptor-{name}", layer("monolithicFlat", MIB, seed, descriptor=arguments, extents=[
        {"type": "FLAT", "len": MIB, "file": f"{file}-flat.vmdk"}]))


# The second byte of some characters of Shift_JIS and GBK is a backslash: ソ, 表, 誠.
described("utf-8", 900, remark="Größe ディスク 磁盘 디스크")
described("utf-8-file-name", 901, file="диск ディスク é")
described("windows-1252", 902, encoding="windows-1252", remark="Größe “été” €")
described("shift-jis", 903, encoding="Shift_JIS", remark="ソフト表 ディスク")
described("gbk", 904, encoding="GBK", remark="磁盘 誠 虚拟机")
described("euc-kr", 905, encoding="EUC-KR", remark="디스크 가상")
described("crlf", 906, newline="\r\n")
described("comments", 907, comments=["keys"])
described("comment-before-extent", 908, comments=["extents"])
described("blank-line-before-extent", 919, blank=True)
described("crlf-comments", 909, newline="\r\n", comments=["keys"])
described("spaces-around-equals", 910, equals=" = ")
described("tabs-around-equals", 911, equals="\t=\t")
described("spaces-in-extents", 912, gap="  ")
described("tabs-in-extents", 913, gap="\t")
described("trailing-blanks", 914, trail=" \t")
described("no-final-newline", 915, final_newline=False)
described("odd-case", 916, odd_case=True)
described("file-name-with-signs", 917, file="my vm [new] (1) a=b #2")
scenario("descriptor-embedded-crlf", layer("monolithicSparse", 9 * MIB, 918, descriptor={
    "newline": "\r\n", "comments": ["keys"]}))
