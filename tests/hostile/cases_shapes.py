"""Shape bombs: small files that ask for huge tensors."""

from __future__ import annotations

import numpy as np
from hostile_harness import Case, model, node

X = np.arange(6, dtype=np.float32).reshape(2, 3)
I = lambda *v: np.array(v, np.int64)  # noqa: E731
F = lambda *v: np.array(v, np.float32)  # noqa: E731
BIG, HUGE = 1 << 40, 1 << 62


def both(name, op_type, operands, outputs=("y",), dynamic=(), opset=21, want=None, may_fail=False, **attrs):
    """The bomb with everything constant but the first operand, and with everything handed in when it runs."""
    names = [f"o{i}" if x is not None else "" for i, x in enumerate(operands)]
    nodes = [node(op_type, names, list(outputs), **attrs)]
    values = {n: x for n, x in zip(names, operands) if n}

    def case(kind, inputs):
        rest = {n: x for n, x in values.items() if n not in inputs}
        return Case(f"{name}, {kind}", lambda: model(nodes, inputs, outputs, rest, opset), inputs, want, may_fail)

    first = dict(list(values.items())[:1])
    kinds = [case("constants", {}), case("all inputs", values)]
    return [*kinds, case("first is an input", first)] if len(values) > 1 else kinds


def table():
    out = []
    for n in (BIG, HUGE, (1 << 63) - 1):
        out += both(f"ConstantOfShape {n}", "ConstantOfShape", [I(n)])
        out += both(f"ConstantOfShape 65536 x {n}", "ConstantOfShape", [I(65536, n)])
        out += both(f"Expand {n}", "Expand", [X, I(n, 2, 3)])
        out += both(f"Tile {n}", "Tile", [X, I(n, 1)])
        out += both(f"OneHot {n}", "OneHot", [I(0, 1), I(n), F(0, 1)])
        out += both(f"Pad {n}", "Pad", [X, I(0, n, 0, 0)])
    out += both("Pad -2^62", "Pad", [X, I(-HUGE, 0, 0, 0)])
    out += both("Pad edges 2^63-1 both", "Pad", [X, I(HUGE, HUGE, HUGE, HUGE)], mode="edge")
    out += both("Pad wrap", "Pad", [X, I(BIG, 0, 0, 0)], mode="wrap")
    out += both("ConstantOfShape -1", "ConstantOfShape", [I(-1)])
    out += both("ConstantOfShape 2^31 x 2^31 x 2^31", "ConstantOfShape", [I(*[1 << 31] * 3)])
    out += both("ConstantOfShape 2^31 x 2^31 x 0", "ConstantOfShape", [I(1 << 31, 1 << 31, 0)])
    out += both(
        "Expand of nothing",
        "Expand",
        [np.zeros((0, 3), np.float32), I(BIG, 1, 1)],
        want=[np.zeros((BIG, 0, 3), np.float32)],
        may_fail=True,
    )
    out += both("Expand 2 GB", "Expand", [X, I(90_000_000, 2, 3)])
    out += both("Tile 2 GB", "Tile", [X, I(90_000_000, 1)])
    out += both("ConstantOfShape 2 GB", "ConstantOfShape", [I(500_000_000)])
    out += both("Tile -1", "Tile", [X, I(-1, 1)])
    for lim, delta in (
        (1e30, 1.0),
        (1.0, 1e-30),
        (1.0, 0.0),
        (np.inf, 1.0),
        (np.nan, 1.0),
        (1.0, np.nan),
        (1.0, 5e-324),
        (1e308, -1e-300),
    ):
        wanted = None
        out += both(f"Range 0 {lim} {delta}", "Range", [np.float64(0), np.float64(lim), np.float64(delta)], want=wanted)
    out += both("Range of integers", "Range", [np.int64(-HUGE * 2), np.int64(HUGE * 2 - 1), np.int64(1)])
    out += both("Range of integers with 0", "Range", [np.int64(0), np.int64(5), np.int64(0)])
    out += both("Range int16", "Range", [np.int16(0), np.int16(32767), np.int16(0)])
    out += both("Range 300 million", "Range", [np.int64(0), np.int64(300_000_000), np.int64(1)])
    image = np.ones((1, 1, 2, 2), np.float32)
    out += both("Resize scales 1e9", "Resize", [image, None, F(1, 1, 1e9, 1e9)])
    out += both("Resize scales 1e30", "Resize", [image, None, F(1, 1, 1e30, 1e30)])
    out += both("Resize scales nan", "Resize", [image, None, F(1, 1, np.nan, 1)])
    out += both("Resize scales inf", "Resize", [image, None, F(1, 1, np.inf, 1)])
    out += both("Resize scales 0", "Resize", [image, None, F(1, 1, 0, 1)], want=[np.zeros((1, 1, 0, 2), np.float32)], may_fail=True)
    out += both("Resize scales negative", "Resize", [image, None, F(1, 1, -1, 1)])
    out += both("Resize sizes", "Resize", [image, None, None, I(1, 1, BIG, BIG)])
    out += both("Resize sizes negative", "Resize", [image, None, None, I(1, 1, -5, 2)])
    out += both("Resize cubic", "Resize", [image, None, F(1, 1, 1e6, 1e6)], mode="cubic")
    out += both("Resize antialias down", "Resize", [image, None, F(1, 1, 1e-9, 1e-9)], mode="linear", antialias=1, may_fail=True,
                want=[np.zeros((1, 1, 0, 0), np.float32)])  # fmt: skip
    out += both(
        "Resize sizes 0", "Resize", [image, None, None, I(1, 1, 0, 0)], want=[np.zeros((1, 1, 0, 0), np.float32)], may_fail=True
    )
    out += both("Upsample", "Upsample", [image, F(1, 1, 1e9, 1e9)], opset=9)
    out += both("Upsample attributes", "Upsample", [image], opset=7, scales=[1.0, 1.0, 1e9, 1e9])
    out += both("OneHot -1", "OneHot", [I(0), I(-1), F(0, 1)])
    out += both("OneHot depth nan", "OneHot", [I(0), F(np.nan), F(0, 1)])
    out += both("ConvTranspose output_shape", "ConvTranspose", [image, np.ones((1, 1, 2, 2), np.float32)], output_shape=[BIG, BIG])
    out += both("ConvTranspose strides", "ConvTranspose", [image, np.ones((1, 1, 2, 2), np.float32)], strides=[HUGE, HUGE])
    out += both("ConvTranspose dilations", "ConvTranspose", [image, np.ones((1, 1, 2, 2), np.float32)], dilations=[BIG, BIG])
    out += both(
        "ConvTranspose output_padding", "ConvTranspose", [image, np.ones((1, 1, 2, 2), np.float32)], output_padding=[BIG, BIG]
    )
    out += both("Conv pads", "Conv", [image, np.ones((1, 1, 2, 2), np.float32)], pads=[BIG] * 4)
    out += both("MaxPool pads", "MaxPool", [image], kernel_shape=[HUGE, 2], pads=[HUGE, 0, HUGE, 0])
    out += both("AveragePool pads", "AveragePool", [image], kernel_shape=[3, 3], pads=[BIG] * 4)
    out += both("MaxUnpool", "MaxUnpool", [image, np.zeros((1, 1, 2, 2), np.int64), I(1, 1, BIG, BIG)], kernel_shape=[2, 2])
    out += both("MaxUnpool indices", "MaxUnpool", [image, np.full((1, 1, 2, 2), BIG), I(1, 1, 4, 4)], kernel_shape=[2, 2])
    out += both("Gather broadcasts", "Gather", [np.ones((1, 1 << 20), np.float32), np.zeros(1 << 20, np.int64)])
    col, row = np.ones((1 << 20, 1), np.float32), np.ones((1, 1 << 20), np.float32)
    for op_type in ("Add", "MatMul", "Pow", "Less", "PRelu", "Where", "Max", "BitShift", "Gemm"):
        a, b = (col, row) if op_type != "BitShift" else (col.astype(np.uint8), row.astype(np.uint8))
        if op_type == "Where":
            out += both(f"{op_type} broadcasts", op_type, [a > 0, a, b])
        else:
            out += both(f"{op_type} broadcasts", op_type, [a, b], **({"direction": "LEFT"} if op_type == "BitShift" else {}))
    out += both("MatMul batches", "MatMul", [np.ones((1 << 18, 1, 1, 1), np.float32), np.ones((1 << 18, 1, 1), np.float32)])
    out += both("Einsum broadcasts", "Einsum", [np.ones(1 << 14, np.float32)] * 3, equation="a,b,c->abc")
    out += both(
        "Einsum of many letters",
        "Einsum",
        [np.ones(4, np.float32)] * 26,
        equation=",".join(map(chr, range(97, 123))) + "->" + "".join(map(chr, range(97, 123))),
    )
    out += both(
        "Einsum summed",
        "Einsum",
        [np.ones(1 << 10, np.float32)] * 4,
        equation="a,b,c,d->",
        want=[np.float32(2.0**40)],
        may_fail=True,
    )
    for op_type in ("RandomNormal", "RandomUniform"):
        for shape in ([BIG], [HUGE, 4], [-1], [500_000_000]):
            out += both(f"{op_type} {shape}", op_type, [], shape=shape)
    out += both("Multinomial", "Multinomial", [X], sample_size=BIG)
    out += both("EyeLike", "EyeLike", [np.ones((1 << 16, 1), np.float32)], k=HUGE, want=[np.zeros((1 << 16, 1), np.float32)])
    for window in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        for size in (BIG, 500_000_000, HUGE):
            out += both(f"{window} {size}", window, [np.int64(size)])
    mel = [np.int64(8), np.int64(BIG), np.int64(8000), np.float32(0), np.float32(4000)]
    out += both("MelWeightMatrix", "MelWeightMatrix", mel)
    out += both("MelWeightMatrix bins", "MelWeightMatrix", [np.int64(BIG), *mel[1:]])
    out += both(
        "MelWeightMatrix rate 0",
        "MelWeightMatrix",
        [np.int64(8), np.int64(64), np.int64(0), np.float32(0), np.float32(4000)],
        may_fail=True,
        want=[np.zeros((33, 8), np.float32)],
    )
    signal = np.ones((1, 64, 1), np.float32)
    out += both("DFT", "DFT", [signal, np.int64(BIG), np.int64(1)])
    out += both("DFT 0", "DFT", [signal, np.int64(0), np.int64(1)])
    out += both("STFT step 0", "STFT", [signal, np.int64(0), None, np.int64(16)])
    out += both("STFT step 1", "STFT", [np.ones((1, 200_000, 1), np.float32), np.int64(1), None, np.int64(8192)])
    out += both("STFT frame", "STFT", [signal, np.int64(1), None, np.int64(BIG)])
    out += both("Col2Im", "Col2Im", [np.ones((1, 4, 4), np.float32), I(BIG, BIG), I(2, 2)])
    out += both("Col2Im block 0", "Col2Im", [np.ones((1, 4, 4), np.float32), I(3, 3), I(0, 0)])
    out += both("GridSample", "GridSample", [np.ones((1, 4096, 1, 1), np.float32), np.zeros((1, 1024, 1024, 2), np.float32)])
    out += both("AffineGrid", "AffineGrid", [np.ones((1, 2, 3), np.float32), I(1, 1, BIG, BIG)])
    out += both("CenterCropPad", "CenterCropPad", [X, I(BIG, BIG)])
    out += both("CenterCropPad negative", "CenterCropPad", [X, I(-1, 2)])
    out += both("Reshape", "Reshape", [X, I(HUGE, 4)])
    out += both("Reshape -2", "Reshape", [X, I(-2, 3)])
    out += both("Reshape two -1", "Reshape", [X, I(-1, -1)])
    out += both("Reshape of nothing", "Reshape", [np.zeros(0, np.float32), I(-1, 0)], allowzero=1)
    out += both("Unsqueeze far", "Unsqueeze", [X, I(HUGE)])
    out += both("Unsqueeze many", "Unsqueeze", [X, np.arange(200)])
    out += both("Split", "Split", [X, I(HUGE, HUGE)], outputs=("y", "z"))
    out += both("Split negative", "Split", [X, I(5, -3)], outputs=("y", "z"))
    out += both("Split num_outputs", "Split", [X], num_outputs=HUGE, opset=18)
    out += both("SplitToSequence 0", "SplitToSequence", [X, np.int64(0)])
    out += both("Slice extremes", "Slice", [X, I(-HUGE * 2), I(HUGE * 2 - 1), I(0), I(1)], want=[X])
    out += both("Slice backwards", "Slice", [X, I(HUGE * 2 - 1), I(-HUGE * 2), I(0), I(-1)], want=[X[::-1]])
    out += both("Slice step 0", "Slice", [X, I(0), I(1), I(0), I(0)])
    out += both("Slice step INT_MIN", "Slice", [X, I(HUGE * 2 - 1), I(-HUGE * 2), I(0), I(-HUGE * 2)], want=[X[1:]])
    out += both("TopK", "TopK", [X, I(BIG)], outputs=("y", "z"))
    out += both("TopK negative", "TopK", [X, I(-1)], outputs=("y", "z"))
    out += both("RoiAlign", "RoiAlign", [image, np.zeros((1, 4), np.float32), I(0)], output_height=BIG, output_width=BIG)
    out += both("RoiAlign sampling", "RoiAlign", [image, F(0, 0, 1, 1).reshape(1, 4), I(0)], sampling_ratio=1 << 30)
    out += both("RoiAlign region", "RoiAlign", [image, F(0, 0, 1e9, 1e9).reshape(1, 4), I(0)], output_height=2, output_width=2)
    out += both(
        "RoiAlign region nan", "RoiAlign", [image, F(0, 0, np.nan, np.inf).reshape(1, 4), I(0)], output_height=2, output_width=2
    )
    out += both("MaxRoiPool", "MaxRoiPool", [image, np.zeros((1, 5), np.float32)], pooled_shape=[BIG, BIG])
    out += both("DepthToSpace", "DepthToSpace", [image], blocksize=BIG)
    out += both("DepthToSpace 0", "DepthToSpace", [image], blocksize=0)
    out += both("SpaceToDepth 0", "SpaceToDepth", [image], blocksize=0)
    out += both(
        "LRN", "LRN", [np.ones((1, 4, 2, 2), np.float32)], size=HUGE, want=[np.ones((1, 4, 2, 2), np.float32)], may_fail=True
    )
    out += both("Compress", "Compress", [X, np.ones(9, bool)], axis=0)
    boxes = np.random.default_rng(0).random((1, 20_000, 4), dtype=np.float32)
    out += both(
        "NonMaxSuppression",
        "NonMaxSuppression",
        [boxes, np.ones((1, 200, 20_000), np.float32), np.int64(HUGE), np.float32(1)],
        want=[np.zeros((4_000_000, 3), np.int64)],  # too large to be sent: its shape is compared
    )
    out += both("TfIdf", "TfIdfVectorizer", [I(1, 2, 3)], max_gram_length=HUGE, min_gram_length=1, max_skip_count=1, mode="TF", ngram_counts=[0],
                ngram_indexes=[HUGE], pool_int64s=[1])  # fmt: skip
    out += both("BlackmanWindow 10", "BlackmanWindow", [np.int64(0)], want=[np.zeros(0, np.float32)], may_fail=True)
    out += both("Attention", "Attention", [np.ones((1, 1, 1 << 18, 1), np.float32)] * 3, opset=23)
    out += both("CastLike", "Concat", [np.ones((1, 2), np.float32)] * 2, axis=HUGE)
    out += both("Constant folding of a product", "MatMul", [np.ones((30000, 2), np.float32), np.ones((2, 30000), np.float32)])
    return out


def doubling(op_type, start, count, **attrs):
    nodes = [node(op_type, [f"v{i}", f"v{i}"], [f"v{i + 1}"], **attrs) for i in range(count)]
    return lambda: model(nodes, {"v0": start}, [f"v{count}"])


def folded():
    """Many constants of 60 MB, each below the limit of one."""
    nodes = [node("Add", ["c", f"s{i}"], [f"y{i}"]) for i in range(100)]
    return model(nodes, {}, [f"y{i}" for i in range(100)], {"c": np.ones(200, np.float32)} | {f"s{i}": np.full((60_000, 1), i, np.float32) for i in range(4)}
                 | {f"s{i}": np.full((1000, 1), i, np.float32) for i in range(4, 100)})  # fmt: skip


def kept():
    """Many tensors of 100 MB alive at once."""
    nodes = [node("Expand", ["x", "s"], [f"e{i}"]) for i in range(1)]
    nodes += [node("Add", ["e0", f"c{i}"], [f"y{i}"]) for i in range(40)]
    return model(
        nodes,
        {"x": np.float32(1)},
        [f"y{i}" for i in range(40)],
        {"s": I(25_000_000)} | {f"c{i}": np.float32(i) for i in range(40)},
    )


def concat_many():
    return model([node("Concat", ["x"] * 100_000, ["y"], axis=0)], {"x": np.ones((1, 1000), np.float32)})


STRINGS = np.array(["ab" * 500], object)
CASES = [
    *table(),
    Case("Concat doubles 40 times", doubling("Concat", X, 40, axis=0), {"v0": X}),
    Case("Concat of constants doubles 40 times", lambda: model([node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(40)], {}, ["v40"], {"v0": X})),
    Case("StringConcat doubles 40 times", doubling("StringConcat", STRINGS, 40), {"v0": STRINGS}),
    Case("MatMul grows", lambda: model([node("Expand", ["x", "s"], ["a"]), node("Expand", ["x", "t"], ["b"]), node("MatMul", ["a", "b"], ["y"])],
                                       {"x": np.float32(1)}, inits={"s": I(40_000, 1), "t": I(1, 40_000)}), {"x": np.float32(1)}),
    Case("constants fold to 400 MB", folded, want=[np.full((60_000 if i < 4 else 1000, 200), i + 1, np.float32) for i in range(100)], may_fail=True),
    Case("many large tensors at once", kept, {"x": np.float32(1)}),
    Case("Concat of 100,000 operands", concat_many, {"x": np.ones((1, 1000), np.float32)}, want=[np.ones((100_000, 1000), np.float32)], may_fail=True),
]  # fmt: skip
