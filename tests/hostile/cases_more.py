"""Sizes and indices known only when the model runs, work that grows inside an operator, trees, broken tensors, attributes that lie."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from cases_numbers import one
from cases_shapes import both
from hostile_harness import Case, graph, model, node
from onnx import TensorProto, helper

X = np.arange(6, dtype=np.float32).reshape(2, 3)
I = lambda *v: np.array(v, np.int64)  # noqa: E731
F = lambda *v: np.array(v, np.float32)  # noqa: E731
MOST, LEAST = (1 << 63) - 1, -(1 << 63)
IMAGE = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)


def computed(name, op_type, operands, which, want=None, may_fail=False, outputs=("y",), opset=21, **attrs):
    """Operand `which` is computed in the model from what is handed in, so that nobody knows it before the model runs."""
    names = [f"o{i}" if x is not None else "" for i, x in enumerate(operands)]
    values = {n: x for n, x in zip(names, operands) if n}
    hidden = f"o{which}"
    nodes = [
        node("Add", [hidden, "zero"], ["hidden"]),
        node(op_type, ["hidden" if n == hidden else n for n in names], list(outputs), **attrs),
    ]
    inits = {"zero": np.zeros((), values[hidden].dtype)}
    return Case(f"{name}, computed", lambda: model(nodes, values, outputs, inits, opset), values, want, may_fail)


def shapes() -> Iterator[Case]:
    for n in (1 << 40, MOST, LEAST, -1):
        fine = "any" if n < 0 else None  # Pad and Resize may take negative numbers
        yield computed(f"Expand {n}", "Expand", [X, I(n, 2, 3)], 1)
        yield computed(f"Tile {n}", "Tile", [X, I(n, 1)], 1)
        yield computed(f"ConstantOfShape {n}", "ConstantOfShape", [I(n, 4)], 0)
        yield computed(
            f"Range {n}", "Range", [np.int64(0), np.int64(n), np.int64(1)], 1, *([[np.zeros(0, np.int64)]] if n < 0 else [])
        )
        yield computed(f"OneHot {n}", "OneHot", [I(0, 1), I(n), F(0, 1)], 1)
        yield computed(f"Pad {n}", "Pad", [X, I(0, n, 0, 0)], 1, fine, n < 0)
        yield computed(f"Pad both {n}", "Pad", [X, I(n, n, n, n)], 1, fine, n < 0, mode="reflect")
        yield computed(f"Resize {n}", "Resize", [IMAGE, None, None, I(1, 1, n, n)], 3)
        yield computed(f"TopK {n}", "TopK", [X, I(n)], 1, outputs=("y", "z"))
        yield computed(f"HannWindow {n}", "HannWindow", [np.int64(n)], 0, opset=17)
        yield computed(f"Reshape {n}", "Reshape", [X, I(n, 4)], 1)
        yield computed(f"CenterCropPad {n}", "CenterCropPad", [X, I(n, n)], 1)
        yield computed(f"Split {n}", "Split", [X, I(n, 2)], 1, outputs=("y", "z"))
        yield computed(f"SplitToSequence {n}", "SplitToSequence", [X, I(n, 2)], 1)
        yield computed(f"Unsqueeze {n}", "Unsqueeze", [X, I(n)], 1, *(["any"] if n == -1 else []))
        yield computed(f"AffineGrid {n}", "AffineGrid", [np.ones((1, 2, 3), np.float32), I(1, 1, n, n)], 1)
        yield computed(
            f"MaxUnpool {n}",
            "MaxUnpool",
            [F(1, 2, 3, 4).reshape(1, 1, 2, 2), I(0, 1, 2, 3).reshape(1, 1, 2, 2), I(1, 1, n, n)],
            2,
            kernel_shape=[2, 2],
        )
        yield computed(f"Col2Im {n}", "Col2Im", [np.ones((1, 4, 4), np.float32), I(n, n), I(2, 2)], 1)
        yield computed(f"DFT {n}", "DFT", [np.ones((1, 8, 1), np.float32), np.int64(n), np.int64(1)], 1)
    for s in (np.inf, np.nan, -1.0, 1e30, 1e-30, 0.0):
        yield computed(f"Resize scales {s}", "Resize", [IMAGE, None, F(1, 1, s, s)], 2, "any" if s == 1e-30 else None, s == 1e-30)
        yield computed(f"Upsample {s}", "Upsample", [IMAGE, F(1, 1, s, 1)], 1, "any" if s == 1e-30 else None, s == 1e-30, opset=9)
    for lim, delta in ((1e30, 1.0), (np.nan, 1.0), (np.inf, 1.0), (1.0, 0.0), (1.0, 1e-40), (1.0, np.nan)):
        yield computed(f"Range f32 {lim} {delta}", "Range", [np.float32(0), np.float32(lim), np.float32(delta)], 1)
    extremes = [X, I(MOST, LEAST), I(LEAST, MOST), I(0, 1), I(-1, 1)]
    for which in (1, 2, 4):
        yield computed(f"Slice with extremes, {which}", "Slice", extremes, which, [X[::-1]])
    yield computed("Slice with axes out of range", "Slice", [X, I(0), I(1), I(MOST), I(1)], 3)
    yield computed("Slice with step 0", "Slice", [X, I(0), I(1), I(0), I(0)], 4)
    yield computed("EyeLike k", "EyeLike", [X], 0, [np.zeros((2, 3), np.float32)], k=LEAST)
    for axis in (2, -3, MOST, LEAST):
        yield computed(f"CumSum {axis}", "CumSum", [X, np.int64(axis)], 1)
        yield computed(f"ReduceSum {axis}", "ReduceSum", [X, I(axis)], 1)
        yield computed(f"Squeeze {axis}", "Squeeze", [X, I(axis)], 1)
    for k in (MOST, LEAST):
        yield computed(f"Trilu {k}", "Trilu", [X, np.int64(k)], 1, [X if k == LEAST else np.zeros_like(X)], True)
    yield from both("RandomNormal of many axes", "RandomNormal", [], shape=[1] * 70)
    yield from both("ConstantOfShape of 65 axes", "ConstantOfShape", [np.ones(65, np.int64)])
    yield from both("Reshape to 65 axes", "Reshape", [F(1), np.ones(65, np.int64)])
    yield from both("Expand to 100 axes", "Expand", [F(1), np.ones(100, np.int64)])
    yield computed("Reshape to 65 axes", "Reshape", [F(1), np.ones(65, np.int64)], 1)
    yield from both("GatherND grows", "GatherND", [np.ones((1, 1 << 20), np.float32), np.zeros((1 << 18, 1), np.int64)])
    yield from both("Gather of rows", "Gather", [np.ones((4, 1 << 18), np.float32), np.zeros(1 << 14, np.int64)])


def work() -> Iterator[Case]:
    """Operators that need far more inside than they return."""
    one_, two = np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 64, 64), np.float32)
    yield from both("Conv dilated far", "Conv", [two, np.ones((1, 1, 2, 2), np.float32)], pads=[1 << 14] * 4, dilations=[1 << 14] * 2, strides=[1 << 14] * 2,
                    want="any", may_fail=True)  # fmt: skip
    yield from both("Conv padded far", "Conv", [one_, one_], pads=[1 << 15] * 4, strides=[1 << 16] * 2, want="any", may_fail=True)
    yield from both(
        "Conv strided far", "Conv", [one_, np.ones((1, 1, 3, 3), np.float32)], pads=[1 << 13] * 4, want="any", may_fail=True
    )
    yield from both("ConvInteger padded far", "ConvInteger", [one_.astype(np.uint8)] * 2, pads=[1 << 15] * 4, strides=[1 << 16] * 2, want="any",
                    may_fail=True)  # fmt: skip
    yield from both("ConvTranspose cropped", "ConvTranspose", [two, np.ones((1, 1, 2, 2), np.float32)], strides=[1 << 14] * 2, pads=[1 << 19] * 4,
                    want="any", may_fail=True)  # fmt: skip
    for op_type in ("MaxPool", "AveragePool", "LpPool"):
        yield from both(f"{op_type} padded far", op_type, [one_], kernel_shape=[1 << 15] * 2, pads=[(1 << 15) - 1] * 4, strides=[1 << 15] * 2, want="any",
                        may_fail=True)  # fmt: skip
        yield from both(
            f"{op_type} of a huge window", op_type, [two], kernel_shape=[1 << 20] * 2, pads=[1 << 19] * 4, want="any", may_fail=True
        )
        yield from both(
            f"{op_type} SAME", op_type, [two], kernel_shape=[1 << 20] * 2, auto_pad="SAME_UPPER", want="any", may_fail=True
        )
    yield from both(
        "DeformConv",
        "DeformConv",
        [two, np.ones((1, 1, 1, 1), np.float32), np.zeros((1, 2, 64, 64), np.float32)],
        want="any",
        may_fail=True,
    )
    yield from both("Resize down, antialiased", "Resize", [np.ones((1, 1, 1024, 1024), np.float32), None, None, I(1, 1, 1, 1)], mode="cubic", antialias=1,
                    want=[np.ones((1, 1, 1, 1), np.float32)], may_fail=True)  # fmt: skip
    yield from both("Resize to a filter of 2^30", "Resize", [np.ones((1, 1, 4, 4), np.float32), None, F(1, 1, 2.0**-30, 2.0**-30)], mode="linear",
                    antialias=1, want="any", may_fail=True)  # fmt: skip
    yield from both(
        "DFT summed", "DFT", [np.ones((64, 2, 1), np.float32), np.int64(1 << 22), np.int64(1)], want="any", may_fail=True
    )
    yield from both(
        "DFT of a prime", "DFT", [np.ones((1, 2, 1), np.float32), np.int64(4_194_301), np.int64(1)], want="any", may_fail=True
    )
    yield from both("LRN of all channels", "LRN", [np.ones((1, 1024, 8, 8), np.float32)], size=2047, want="any", may_fail=True)
    yield from both("LRN of size 2^31", "LRN", [np.ones((1, 4, 8, 8), np.float32)], size=(1 << 31) - 1, want="any", may_fail=True)
    many = [np.ones((1, 1, 1 << 13, 8), np.float32)] * 3
    yield from both("Attention of 8192", "Attention", many, opset=23, want="any", may_fail=True)
    yield from both(
        "Attention of 8192 with scores", "Attention", many, opset=23, outputs=("y", "a", "b", "scores"), want="any", may_fail=True
    )
    yield from both(
        "Einsum inside", "Einsum", [np.ones((1 << 12, 2), np.float32)] * 3, equation="ai,bi,ci->i", want="any", may_fail=True
    )
    yield from both(
        "Einsum of a grid",
        "Einsum",
        [np.ones(1 << 13, np.float32)] * 2,
        equation="a,b->",
        want=[np.float32(2.0**26)],
        may_fail=True,
    )
    yield from both("Einsum of many", "Einsum", [np.ones((40, 40), np.float32)] * 12, equation="ab,bc,cd,de,ef,fg,gh,hi,ij,jk,kl,la->", want="any",
                    may_fail=True)  # fmt: skip
    yield from both(
        "Einsum star", "Einsum", [np.ones((1 << 10, 4), np.float32)] * 6, equation="az,bz,cz,dz,ez,fz->z", want="any", may_fail=True
    )
    yield from both(
        "Unique", "Unique", [np.arange(1 << 20, dtype=np.float32)], want=[np.arange(1 << 20, dtype=np.float32)], outputs=("y",)
    )
    boxes = np.random.default_rng(1).random((1, 20_000, 4), dtype=np.float32)
    scores = np.random.default_rng(2).random((1, 100, 20_000), dtype=np.float32)
    yield from both(
        "NonMaxSuppression at 0.9", "NonMaxSuppression", [boxes, scores, np.int64(MOST), np.float32(0.9)], want="any", may_fail=True
    )
    yield from both("MaxRoiPool of cells", "MaxRoiPool", [np.ones((1, 1, 2, 2), np.float32), np.zeros((1, 5), np.float32)], pooled_shape=[4096, 4096],
                    want="any", may_fail=True)  # fmt: skip
    rois = np.tile(F(0, 0, 1e4, 1e4), (2000, 1))
    yield from both(
        "RoiAlign of many",
        "RoiAlign",
        [np.ones((1, 1, 2, 2), np.float32), rois, np.zeros(2000, np.int64)],
        want="any",
        may_fail=True,
    )
    yield from both("GRU of no features", "GRU", [np.ones((1 << 16, 1, 1), np.float32), np.ones((1, 3, 1), np.float32), np.ones((1, 3, 1), np.float32)],
                    hidden_size=1, want="any", may_fail=True)  # fmt: skip
    yield from both("GroupNormalization", "GroupNormalization", [np.ones((1, 1 << 20, 1, 1), np.float32), np.ones(1 << 20, np.float32), np.zeros(1 << 20, np.float32)],
                    num_groups=1 << 20, want="any", may_fail=True)  # fmt: skip
    yield from both(
        "SpaceToDepth",
        "SpaceToDepth",
        [np.ones((1, 1, 1 << 10, 1 << 10), np.float32)],
        blocksize=1 << 10,
        want="any",
        may_fail=True,
    )
    yield from both("Det", "Det", [np.ones((1024, 32, 32), np.float32)], want="any", may_fail=True)
    yield from both(
        "Multinomial", "Multinomial", [np.ones((1, 1 << 16), np.float32)], sample_size=1 << 12, want="any", may_fail=True
    )
    yield from both("Bernoulli", "Bernoulli", [np.full((1 << 20,), np.nan, np.float32)], want="any", may_fail=True)
    yield from both("SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLoss", [np.ones((1, 1 << 20), np.float32), I(MOST)])
    for op_type in ("Sum", "Max", "Mean"):
        m = lambda t=op_type: model([node(t, ["x"] * 5000, ["y"])], {"x": X})  # noqa: E731
        yield Case(f"{op_type} of 5,000 operands", m, {"x": X}, [X * 5000 if op_type == "Sum" else X])
    wide = np.ones(1 << 20, np.float32)
    yield Case(
        "Sum of 500 operands of 4 MB", lambda: model([node("Sum", ["x"] * 500, ["y"])], {"x": wide}), {"x": wide}, [wide * 500]
    )
    text = np.array(["a" * 1000], object)
    yield from both(
        "StringSplit of one character",
        "StringSplit",
        [np.array(["a " * 1000] * 1000, object)],
        outputs=("y", "z"),
        opset=20,
        want="any",
        may_fail=True,
    )
    yield from both(
        "StringNormalizer", "StringNormalizer", [text], case_change_action="UPPER", want=[np.array(["A" * 1000], object)]
    )
    yield from both("TfIdf of skips", "TfIdfVectorizer", [np.ones(1000, np.int64)], max_gram_length=2, min_gram_length=2, max_skip_count=MOST, mode="TF",
                    ngram_counts=[0, 0], ngram_indexes=[0], pool_int64s=[1, 1], want="any", may_fail=True)  # fmt: skip
    yield from both("TfIdf of long grams", "TfIdfVectorizer", [np.ones(1000, np.int64)], max_gram_length=MOST, min_gram_length=MOST, max_skip_count=0, mode="TF",
                    ngram_counts=[0], ngram_indexes=[0], pool_int64s=[1], want="any", may_fail=True)  # fmt: skip


def indices() -> Iterator[Case]:
    """Positions outside, found by what runs: nothing may be read or written there."""
    data = np.arange(24, dtype=np.float32).reshape(4, 6)
    for dtype in (np.float32, np.int8, np.float64, bool):
        x = data.astype(dtype)
        for far in (4, -5, MOST, LEAST, 1 << 32, -(1 << 32)):
            yield one(f"Gather {np.dtype(dtype)} {far}", "Gather", [x, np.full((3, 5), far)])
            yield one(f"GatherND {np.dtype(dtype)} {far}", "GatherND", [x, I(0, 0, far, 1).reshape(2, 2)])
            yield one(f"ScatterND {np.dtype(dtype)} {far}", "ScatterND", [x, I(far, 0).reshape(1, 2), np.zeros(1, dtype)])
            yield one(
                f"ScatterElements {np.dtype(dtype)} {far}", "ScatterElements", [x, np.full((1, 6), far), np.zeros((1, 6), dtype)]
            )
    for far in (16, -1, -17, MOST, LEAST):
        yield one(
            f"MaxUnpool {far}",
            "MaxUnpool",
            [np.ones((1, 1, 2, 2), np.float32), I(0, 1, 2, far).reshape(1, 1, 2, 2)],
            kernel_shape=[2, 2],
            strides=[2, 2],
        )
        yield one(f"MaxUnpool with a shape {far}", "MaxUnpool", [np.ones((1, 1, 2, 2), np.float32), I(0, 1, 2, far).reshape(1, 1, 2, 2), I(1, 1, 4, 4)],
                  kernel_shape=[2, 2], strides=[2, 2])  # fmt: skip
    yield one("Compress", "Compress", [data, np.array([False] * 100 + [True])], axis=0)
    yield one("Compress of a scalar", "Compress", [np.float32(3), np.array([True, True])])
    yield one("GatherElements of a larger index", "GatherElements", [data, np.zeros((9, 9), np.int64)])
    yield one(
        "ScatterElements of more updates", "ScatterElements", [data, np.zeros((9, 9), np.int64), np.zeros((9, 9), np.float32)]
    )
    yield one("ScatterND of too deep indices", "ScatterND", [data, np.zeros((1, 3), np.int64), np.zeros(1, np.float32)])
    yield one("GatherND of too deep indices", "GatherND", [data, np.zeros((1, 3), np.int64)])
    yield one("GatherND batch_dims", "GatherND", [data, np.zeros((4, 1), np.int64)], batch_dims=7)
    yield one("ReverseSequence", "ReverseSequence", [data, I(MOST, 0, LEAST, 1, 1, 1)])
    yield one("RotaryEmbedding", "RotaryEmbedding", [np.ones((1, 1, 2, 4), np.float32), np.ones((3, 2), np.float32), np.ones((3, 2), np.float32), I(0, MOST).reshape(1, 2)],
              opset=23)  # fmt: skip
    q = np.ones((1, 1, 2, 4), np.float32)
    for far in (9, -1, MOST, LEAST):
        yield one(f"Attention nonpad {far}", "Attention", [q, q, q, None, None, None, I(far)], "any", True, opset=24)
        yield one(
            f"TensorScatter {far}",
            "TensorScatter",
            [np.zeros((1, 1, 4, 2), np.float32), np.ones((1, 1, 2, 2), np.float32), I(far)],
            opset=24,
        )
    yield one("Attention with windows", "Attention", [q, q, q, np.zeros((2, 1), np.float32)], "any", True, opset=23, is_causal=7)
    for zero in (0.0, np.nan, np.inf, -1.0):
        scale, x = np.float32(zero), F(1, -1, 0, np.nan, np.inf, -np.inf)
        for t in (np.uint8, np.int8, np.int16, np.uint16):
            yield one(f"QuantizeLinear {zero} {np.dtype(t)}", "QuantizeLinear", [x, scale, t(3)], "any", True)
        yield one(f"DequantizeLinear {zero}", "DequantizeLinear", [np.arange(6, dtype=np.uint8), scale, np.uint8(3)], "any", True)
        a, s, z = np.ones((2, 2), np.uint8), np.float32(zero), np.uint8(0)
        yield one(f"QLinearMatMul {zero}", "QLinearMatMul", [a, np.float32(1), z, a, np.float32(1), z, s, z], "any", True)
        b = a.reshape(1, 1, 2, 2)
        yield one(f"QLinearConv {zero}", "QLinearConv", [b, s, z, b, s, z, s, z], "any", True)
    yield one("DynamicQuantizeLinear of nan", "DynamicQuantizeLinear", [F(np.nan, np.inf, 1)], "any", True, outputs=("y", "s", "z"))
    yield one(
        "DynamicQuantizeLinear of nothing", "DynamicQuantizeLinear", [np.zeros(0, np.float32)], "any", True, outputs=("y", "s", "z")
    )
    yield one("BatchNormalization of negative variance", "BatchNormalization", [IMAGE, F(1), F(0), F(0), F(-5)], "any", True)


def loops() -> Iterator[Case]:
    body = graph(
        [node("Identity", ["c"], ["d"]), node("Add", ["v", "v"], ["w"])],
        {"i": (np.int64, ()), "c": (np.bool_, ()), "v": (np.float32, None)},
        ["d", "w"],
    )
    for m in (MOST, LEAST):
        yield Case(f"Loop of {m} trips", lambda m=m: model([node("Loop", ["m", "", "x"], ["y"], body=body)], {"x": X, "m": (np.int64, ())}), {"x": X, "m": np.array(m)},
                   [X] if m < 0 else None)  # fmt: skip
    grow = graph(
        [node("Identity", ["c"], ["d"]), node("StringConcat", ["v", "v"], ["w"])],
        {"i": (np.int64, ()), "c": (np.bool_, ()), "v": (object, [1])},
        ["d", "w"],
    )
    s = np.array(["ab"], object)
    yield Case(
        "a string that doubles in a Loop",
        lambda: model([node("Loop", ["m", "", "x"], ["y"], body=grow)], {"x": s}, inits={"m": np.array(MOST)}),
        {"x": s},
    )
    scanned = graph(
        [node("Expand", ["n", "size"], ["w"]), node("Identity", ["v"], ["u"])],
        {"v": (np.float32, ()), "n": (np.float32, ())},
        ["u", "w"],
    )
    yield Case("a Scan whose slices are huge", lambda: model([node("Scan", ["z", "x"], ["y", "s"], body=scanned, num_scan_inputs=1)], {"x": F(*range(1000))}, ["y", "s"],
                                                             {"z": np.float32(0), "size": I(1 << 20)}), {"x": F(*range(1000))})  # fmt: skip
    nodes = [node("SplitToSequence", ["x", "one"], ["s0"]), node("ConcatFromSequence", ["s0"], ["c"], axis=0)]
    many = np.zeros((1 << 20, 1), np.float32)
    yield Case(
        "a sequence of 2^20 tensors",
        lambda: model([*nodes, node("Identity", ["c"], ["y"])], {"x": many}, inits={"one": np.array(1)}),
        {"x": many},
        [many],
        True,
    )
    product = (
        [node("Expand", ["x", "n"], ["m0"])]
        + [node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(200)]
        + [node("Identity", ["m200"], ["y"])]
    )
    yield Case("200 products of 2000 x 2000 stop at the time that is set", lambda: model(product, {"x": np.float32(0)}, inits={"n": I(2000, 2000)}),
               {"x": np.float32(0)}, errors=("LimitError",), limits={"seconds": 1.0})  # fmt: skip
    row = np.zeros((1, 512), np.float32)
    shared = [node("MatMul", ["x" if i == 0 else f"m{i}", "c"], [f"m{i + 1}"]) for i in range(1000)] + [
        node("Identity", ["m1000"], ["y"])
    ]
    yield Case(
        "1000 products by one constant of 1 MB",
        lambda: model(shared, {"x": row}, inits={"c": np.ones((512, 512), np.float32)}),
        {"x": row},
        [row],
    )
    fold = [node("MatMul", ["c" if i == 0 else f"m{i}", "c"], [f"m{i + 1}"]) for i in range(400)] + [
        node("Identity", ["m400"], ["y"])
    ]
    yield Case("folding stops at the time that is set", lambda: model(fold, {}, inits={"c": np.zeros((900, 900), np.float32)}), errors=("LimitError",),
               limits={"seconds": 0.5, "seconds_per_mb": 0.0})  # fmt: skip


def trees() -> Iterator[Case]:
    base = {"nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
            "nodes_values": [0.5, 0.0, 0.0], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "target_treeids": [0, 0], "target_nodeids": [1, 2],
            "target_ids": [0, 0], "target_weights": [1.0, 2.0], "n_targets": 1}  # fmt: skip
    x = F(0, 1).reshape(2, 1)

    def tree(name, want=None, may_fail=False, **change):
        n = node(
            "TreeEnsembleRegressor",
            ["x"],
            ["y"],
            domain="ai.onnx.ml",
            **{k: v for k, v in (base | change).items() if v is not None},
        )

        def build():
            m = model([n], {"x": x})
            m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
            return m

        return Case(f"trees: {name}", build, {"x": x}, want, may_fail)

    yield tree("as they should be", [F(1, 2).reshape(2, 1)])
    yield tree("a cycle", nodes_truenodeids=[0, 0, 0])
    yield tree("a longer cycle", nodes_modes=["BRANCH_LEQ"] * 3, nodes_truenodeids=[1, 2, 0], nodes_falsenodeids=[1, 2, 0])
    yield tree("a branch to nowhere", nodes_truenodeids=[9, 0, 0])
    yield tree("a branch to a negative node", nodes_falsenodeids=[-1, 0, 0])
    yield tree("a branch to node 2^63-1", nodes_falsenodeids=[MOST, 0, 0])
    yield tree("a feature outside", nodes_featureids=[7, 0, 0])
    yield tree("a feature of 2^62", nodes_featureids=[1 << 62, 0, 0])
    yield tree("a negative feature", nodes_featureids=[-1, 0, 0])
    yield tree("a target outside", target_ids=[0, 5])
    yield tree("a negative target", target_ids=[0, -5])
    yield tree("2^40 targets", n_targets=1 << 40)
    yield tree("no targets", n_targets=0)
    yield tree("-1 targets", n_targets=-1)
    yield tree("lists of unequal lengths", nodes_values=[0.5])
    yield tree("a node twice", nodes_nodeids=[0, 1, 1])
    yield tree("an unknown mode", nodes_modes=["BRANCH_'\n", "LEAF", "LEAF"])
    yield tree("no nodes", may_fail=True, want="any", **dict.fromkeys(k for k in base if k.startswith(("nodes_", "target_"))))
    yield tree("two parents of one node", may_fail=True, want="any", nodes_falsenodeids=[1, 0, 0])
    yield tree("nan as a threshold", may_fail=True, want="any", nodes_values=[float("nan"), 0.0, 0.0])
    n = 5000
    deep = {"nodes_treeids": [0] * (2 * n + 1), "nodes_nodeids": list(range(2 * n + 1)), "nodes_featureids": [0] * (2 * n + 1),
            "nodes_modes": ["BRANCH_LEQ", "LEAF"] * n + ["LEAF"], "nodes_values": [-1.0] * (2 * n + 1),
            "nodes_truenodeids": [i + 1 if i % 2 == 0 and i < 2 * n else 0 for i in range(2 * n + 1)],
            "nodes_falsenodeids": [i + 2 if i % 2 == 0 and i < 2 * n else 0 for i in range(2 * n + 1)],
            "target_treeids": [0], "target_nodeids": [2 * n], "target_ids": [0], "target_weights": [3.0]}  # fmt: skip
    yield tree("5,000 deep", [F(3, 3).reshape(2, 1)], **deep)


def tensor(name, want=None, may_fail=False, **fields):
    def build():
        return model([node("Identity", ["w"], ["y"])], inits={"w": TensorProto(name="w", **fields)})

    return Case(f"tensor: {name}", build, {}, want, may_fail)


def tensors() -> Iterator[Case]:
    int4 = onnx.TensorProto.INT4
    yield tensor("int4 of odd length", "any", data_type=int4, dims=[3], raw_data=b"\x21\x03")
    yield tensor("int4 of too few bytes", data_type=int4, dims=[3], raw_data=b"\x21")
    yield tensor("int4 of too many bytes", data_type=int4, dims=[3], raw_data=b"\x21\x03\x04")
    yield tensor("int4 in int32_data", "any", True, data_type=int4, dims=[3], int32_data=[0x21, 0x03])
    yield tensor("int4 in int32_data beyond a byte", None, data_type=int4, dims=[2], int32_data=[1 << 20])
    yield tensor("f32 of 3 bytes", data_type=1, dims=[1], raw_data=b"abc")
    yield tensor("bool of 7", "any", True, data_type=9, dims=[2], raw_data=b"\x07\x00")
    yield tensor("complex of odd length", data_type=14, dims=[1], float_data=[1.0])
    yield tensor("two fields at once", "any", True, data_type=1, dims=[1], float_data=[1.0], raw_data=b"abcd")
    yield tensor("text with NUL", "any", data_type=8, dims=[2], string_data=[b"a\0b", b"\0"])
    yield tensor("text of surrogates", "any", True, data_type=8, dims=[1], string_data=[b"\xed\xa0\x80"])
    yield tensor("text of fewer strings", data_type=8, dims=[3], string_data=[b"a"])
    yield tensor("text of 2^40 strings", data_type=8, dims=[1 << 40], string_data=[])
    yield tensor("65 axes", data_type=1, dims=[1] * 65, float_data=[1.0])
    yield tensor("64 axes", "any", True, data_type=1, dims=[1] * 64, float_data=[1.0])
    yield tensor("no elements", [np.zeros((0, 3), np.float32)], data_type=1, dims=[0, 3])
    yield tensor("0 x 2^62 elements", "any", True, data_type=1, dims=[0, 1 << 62])

    def sparse(name, dims, indices, values, shape=None, want=None, count=1):
        def build():
            m = model([node("Identity", ["w"], ["y"])])
            for i in range(count):
                s = m.graph.sparse_initializer.add()
                s.values.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values, np.float32), f"w{i}" if i else "w"))
                s.indices.CopyFrom(onnx.numpy_helper.from_array(np.asarray(indices), "i"))
                if shape is not None:
                    s.indices.dims[:] = shape
                s.dims[:] = dims
            return m

        return Case(f"sparse: {name}", build, {}, want)

    yield sparse("as it should be", [3], I(1), [5.0], want=[F(0, 5, 0)])
    yield sparse("more indices than values", [3], I(0, 1), [5.0])
    yield sparse("indices that lie about their shape", [3], I(0), [5.0], [1 << 40])
    yield sparse("an index twice", [3], I(1, 1), [5.0, 6.0])
    yield sparse("indices of rank 3", [3], I(1).reshape(1, 1, 1), [5.0])
    yield sparse("indices in pairs, outside", [3, 3], I(0, 3).reshape(1, 2), [5.0])
    yield sparse("indices of floats", [3], F(1), [5.0])
    yield sparse("dims of -1", [-1], I(1), [5.0])
    yield sparse("20 times 60 MB", [15_000_000], I(1), [5.0], count=20)


def attributes() -> Iterator[Case]:
    def lying(name, op_type, attribute, may_fail=True, want="any", operands=(IMAGE,), **more):
        n = node(op_type, [f"o{i}" for i in range(len(operands))], ["y"], **more)
        n.attribute.extend(attribute if isinstance(attribute, list) else [attribute])
        values = {f"o{i}": x for i, x in enumerate(operands)}
        return Case(f"attribute: {name}", lambda: model([n], values), values, want, may_fail)

    make = helper.make_attribute
    yield lying("axis as text", "Softmax", make("axis", "1"), want=None)
    yield lying("axis as floats", "Softmax", make("axis", [1.0]), want=None)
    yield lying("axis as a tensor", "Softmax", make("axis", onnx.numpy_helper.from_array(I(1))), want=None)
    yield lying("perm as an int", "Transpose", make("perm", 1), want=None)
    yield lying("kernel_shape missing", "MaxPool", [], want=None)
    yield lying("kernel_shape of floats", "MaxPool", make("kernel_shape", [2.0, 2.0]), want=None)
    yield lying("kernel_shape of one entry", "MaxPool", make("kernel_shape", [2]), want=None)
    yield lying("kernel_shape 2^62", "MaxPool", make("kernel_shape", [1 << 62, 1 << 62]), want=None)
    yield lying("pads 2^63-1", "MaxPool", [make("kernel_shape", [2, 2]), make("pads", [MOST] * 4)])
    yield lying("pads INT64_MIN", "MaxPool", [make("kernel_shape", [2, 2]), make("pads", [LEAST] * 4)])
    yield lying("pads 2^63-1 of a Conv", "Conv", make("pads", [MOST] * 4), operands=(IMAGE, np.ones((1, 1, 2, 2), np.float32)))
    yield lying(
        "strides 2^63-1 of a ConvTranspose",
        "ConvTranspose",
        make("strides", [MOST] * 2),
        operands=(IMAGE, np.ones((1, 1, 2, 2), np.float32)),
    )
    yield lying(
        "output_padding INT64_MIN",
        "ConvTranspose",
        make("output_padding", [LEAST] * 2),
        operands=(IMAGE, np.ones((1, 1, 2, 2), np.float32)),
    )
    yield lying("group 2^62", "Conv", make("group", 1 << 62), want=None, operands=(IMAGE, np.ones((1, 1, 2, 2), np.float32)))
    yield lying("an attribute twice", "Softmax", [make("axis", 1), make("axis", 0)], want=None)
    yield lying("a graph where none belongs", "Softmax", make("axis", graph([], {}, [])), want=None)
    yield lying("no body", "Loop", [], want=None)
    yield lying("to missing", "Cast", [], want=None)
    yield lying("equation missing", "Einsum", [], want=None)
    yield lying("an enum of bytes", "Pad", make("mode", b"\xff\xfe"), want=None, operands=(X, I(0, 0, 0, 0)))
    yield lying("blocksize -1", "SpaceToDepth", make("blocksize", -1), want=None)
    yield lying("blocksize 2^62", "DepthToSpace", make("blocksize", 1 << 62), want=None)
    yield lying("num_groups -1", "GroupNormalization", make("num_groups", -1), want=None, operands=(IMAGE, F(1), F(1)))
    yield lying("axis -2^63", "Concat", make("axis", LEAST), want=None, operands=(X, X))
    yield lying("axis 2^63-1", "LayerNormalization", make("axis", MOST), want=None, operands=(X, F(1, 1, 1)))
    yield lying("epsilon nan", "LayerNormalization", make("epsilon", float("nan")), operands=(X, F(1, 1, 1)))
    yield lying("hidden_size 2^62", "LSTM", make("hidden_size", 1 << 62), want=None,
                operands=(np.ones((1, 1, 1), np.float32), np.ones((1, 4, 1), np.float32), np.ones((1, 4, 1), np.float32)))  # fmt: skip
    yield lying("alpha 1e39", "LeakyRelu", make("alpha", 3e38))
    yield lying("seed nan", "RandomNormalLike", make("seed", float("nan")))
    yield lying("dtype 99", "RandomNormalLike", make("dtype", 99), want=None)
    yield lying("scales nan", "Upsample", make("scales", [1.0, 1.0, float("nan"), 1.0]), want=None)
    for word in (
        "');import os;os.abort()#",
        "\n    os.abort()",
        "{0}",
        "define void @x() { ret void }",
        "@function\ndef f(): pass",
        "__import__('os').abort()",
        "\x00",
        "'''",
    ):
        yield lying(f"code as an enum {word!r}", "Pad", make("mode", word), want=None, operands=(X, I(0, 0, 0, 0)))
        yield lying(f"code as a direction {word!r}", "LSTM", [make("direction", word), make("hidden_size", 1)], want=None,
                    operands=(np.ones((1, 1, 1), np.float32), np.ones((1, 4, 1), np.float32), np.ones((1, 4, 1), np.float32)))  # fmt: skip
        yield lying(f"code as an activation {word!r}", "RNN", [make("activations", [word]), make("hidden_size", 1)], want=None,
                    operands=(np.ones((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32)))  # fmt: skip
        n = node("Neg", ["x"], ["y"])
        yield Case(f"code as a dim_param {word!r}", lambda w=word, n=n: model([n, node("Shape", ["y"], ["z"])], {"x": (np.float32, [w, w + "2"])}, ["y", "z"]), {"x": X},
                   [-X, I(2, 3)])  # fmt: skip
        yield Case(f"code as a text {word!r}", lambda w=word: model([node("Identity", ["w"], ["y"])], {}, ["y"], {"w": np.array([w], object)}), {},
                   [np.array([word], object)])  # fmt: skip


CASES = [*shapes(), *work(), *indices(), *loops(), *trees(), *tensors(), *attributes()]
