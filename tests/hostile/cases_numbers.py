"""Numbers at the edge: divisions that trap, shifts, casts, indices out of range, windows of nothing, patterns that explode."""

from __future__ import annotations

import numpy as np
from hostile_harness import Case, model, node

I = lambda *v: np.array(v, np.int64)  # noqa: E731
F = lambda *v: np.array(v, np.float32)  # noqa: E731
INTS = [np.dtype(t) for t in ("int8", "int16", "int32", "int64")]
UINTS = [np.dtype(t) for t in ("uint8", "uint16", "uint32", "uint64")]
IMAGE = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
KERNEL = np.ones((1, 1, 2, 2), np.float32)


def one(name, op_type, operands, want=None, may_fail=False, outputs=("y",), opset=21, constant=(), **attrs):
    """One node whose operands are handed in, or stand in the model where `constant` says so."""
    names = [f"o{i}" if x is not None else "" for i, x in enumerate(operands)]
    values = {n: x for n, x in zip(names, operands) if n}
    inits = {f"o{i}": values.pop(f"o{i}") for i in constant}
    n = node(op_type, names, list(outputs), **attrs)
    return Case(name, lambda: model([n], values, outputs, inits, opset), values, want, may_fail)


def divisions():
    for t in INTS:
        least = np.iinfo(t).min
        a, b = np.array([least, least, 7, -7, least], t), np.array([-1, 1, -2, 2, 2], t)
        with np.errstate(all="ignore"):
            quotient = np.array([least, least, -3, -3, least // 2], t)
            fmod, mod = np.array([0, 0, 1, -1, 0], t), np.array([0, 0, -1, 1, 0], t)
        for constant in ((), (0, 1), (1,)):
            kind = f"{t} {'constants' if len(constant) == 2 else 'a constant divisor' if constant else 'inputs'}"
            yield one(f"Div of the least {kind}", "Div", [a, b], [quotient], constant=constant)
            yield one(f"Mod of the least {kind}", "Mod", [a, b], [mod], constant=constant)
            yield one(f"fmod of the least {kind}", "Mod", [a, b], [fmod], constant=constant, fmod=1)
        yield one(f"Abs and Neg of the least {t}", "Neg", [a], [-a])
        yield one(f"Abs of the least {t}", "Abs", [a], [np.array([least, least, 7, 7, least], t)])
        if t.itemsize >= 4:
            yield one(f"ReduceProd {t}", "ReduceProd", [np.full(70, 2, t)], [np.zeros(1, t)])
    for t in INTS + UINTS:
        a, z = np.array([1, 0, 100], t), np.zeros(3, t)
        for op_type, attrs in (("Div", {}), ("Mod", {}), ("Mod", {"fmod": 1})):
            for constant in ((), (1,), (0, 1)):
                # The specification leaves x / 0 of integers open: any answer, or an error, but no trap.
                yield Case(f"{op_type} {t} by 0 {attrs} {constant}", one("", op_type, [a, z], constant=constant, **attrs).build,
                           {f"o{i}": x for i, x in enumerate((a, z)) if i not in constant}, "any", True)  # fmt: skip


def shifts():
    for t in UINTS:
        a, b = np.array([1, 255, 3, 3], t), np.array([0, t.itemsize * 8, t.itemsize * 8 + 1, np.iinfo(t).max], t)
        for direction in ("LEFT", "RIGHT"):
            yield one(f"BitShift {direction} {t}", "BitShift", [a, b], [np.array([1, 0, 0, 0], t)], direction=direction)
            yield one(
                f"BitShift {direction} {t} constant",
                "BitShift",
                [a, b],
                [np.array([1, 0, 0, 0], t)],
                constant=(0, 1),
                direction=direction,
            )


def casts():
    for t in INTS + UINTS:
        from onnx import helper

        to = helper.np_dtype_to_tensor_dtype(t)
        for constant in ((), (0,)):
            yield Case(f"Cast nan and inf to {t} {constant}", one("", "Cast", [F(np.nan, np.inf, -np.inf, 1e30, -1e30, 3.7)], constant=constant, to=to).build,
                       {} if constant else {"o0": F(np.nan, np.inf, -np.inf, 1e30, -1e30, 3.7)}, "any", True)  # fmt: skip
    yield one("Cast of text that is no number", "Cast", [np.array(["1e", "x"], object)], to=1)
    yield one("Cast to no type", "Cast", [F(1)], to=99)
    yield one("Cast to type -1", "Cast", [F(1)], to=-1)
    yield one("QuantizeLinear scale 0", "QuantizeLinear", [F(1, -1, 0, np.nan), np.float32(0), np.uint8(3)], "any", True)
    yield one("QuantizeLinear scale nan", "QuantizeLinear", [F(1, -1, 0, np.nan), np.float32(np.nan), np.int8(3)], "any", True)
    yield one("DequantizeLinear axis", "DequantizeLinear", [np.ones((2, 3), np.uint8), F(1, 1), np.zeros(2, np.uint8)], axis=7)
    yield one(
        "QuantizeLinear block 0",
        "QuantizeLinear",
        [np.ones((2, 4), np.float32), np.ones((2, 2), np.float32)],
        axis=1,
        block_size=-1,
    )


def indices():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for far in (3, -4, 1 << 40, -(1 << 63), (1 << 63) - 1):
        i = I(0, far)
        for constant in ((), (1,), (0,), (0, 1)):
            yield one(f"Gather {far} {constant}", "Gather", [x, i], constant=constant)
        yield one(f"Gather axis 1 {far}", "Gather", [x.T.copy(), i], axis=1)
        yield one(f"GatherElements {far}", "GatherElements", [x, np.array([[0, far, 0, 0]])])
        yield one(f"GatherND {far}", "GatherND", [x, np.array([[0], [far]])])
        yield one(f"ScatterElements {far}", "ScatterElements", [x, np.array([[0, far, 0, 0]]), np.ones((1, 4), np.float32)])
        yield one(
            f"ScatterElements add {far}",
            "ScatterElements",
            [x, np.array([[0, far, 0, 0]]), np.ones((1, 4), np.float32)],
            reduction="add",
        )
        yield one(f"ScatterND {far}", "ScatterND", [x, np.array([[far]]), np.ones((1, 4), np.float32)])
        yield one(f"Scatter {far}", "Scatter", [x, np.array([[0, far, 0, 0]]), np.ones((1, 4), np.float32)], opset=9)
        yield one(
            f"TensorScatter {far}",
            "TensorScatter",
            [np.zeros((1, 1, 4, 2), np.float32), np.ones((1, 1, 2, 2), np.float32), I(far)],
            opset=24,
        )
        yield one(f"SequenceAt {far}", "SequenceAt", [None, np.int64(far)])
        yield one(f"RoiAlign batch {far}", "RoiAlign", [IMAGE, F(0, 0, 1, 1).reshape(1, 4), I(far)])
        yield one(f"ReverseSequence {far}", "ReverseSequence", [x, I(1, far if far != 3 else 4, 1, 1)])
    yield one("Gather int32", "Gather", [x, np.array([2, 7], np.int32)])
    yield one("NegativeLogLikelihoodLoss", "NegativeLogLikelihoodLoss", [x, I(0, 9, 1)])
    yield one("SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLoss", [x, I(0, -9, 1)])
    yield one("MaxRoiPool batch", "MaxRoiPool", [IMAGE, F(7, 0, 0, 1, 1).reshape(1, 5)], pooled_shape=[1, 1])
    yield one(
        "MaxRoiPool region",
        "MaxRoiPool",
        [IMAGE, F(0, -9, -9, 1e9, 1e9).reshape(1, 5)],
        pooled_shape=[2, 2],
        may_fail=True,
        want="any",
    )
    yield one(
        "OneHot outside",
        "OneHot",
        [I(0, 7, -3, 1 << 40), np.int64(3), F(0, 1)],
        [
            np.eye(3, dtype=np.float32)[[0, 0, 0, 0]] * np.array([[1], [0], [0], [0]], np.float32)
            + np.array([[0, 0, 0]] * 2 + [[1, 0, 0]] + [[0, 0, 0]], np.float32)
        ],
    )
    yield one("GridSample nan", "GridSample", [IMAGE, np.full((1, 2, 2, 2), np.nan, np.float32)], "any", True)
    for mode in ("nearest", "linear", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            far = np.array([np.inf, -np.inf, 1e30, -1e30, 1e9, np.nan, 3e9, -3e9], np.float32).reshape(1, 2, 2, 2)
            yield one(f"GridSample far {mode} {padding}", "GridSample", [IMAGE, far], "any", True, mode=mode, padding_mode=padding)
    yield one("Resize with a roi of nan", "Resize", [IMAGE, F(0, 0, np.nan, np.nan, 1, 1, np.inf, np.inf), None, I(1, 1, 3, 3)], "any", True,
              coordinate_transformation_mode="tf_crop_and_resize")  # fmt: skip
    yield one("Resize with a far roi", "Resize", [IMAGE, F(0, 0, -1e30, -1e30, 1, 1, 1e30, 1e30), None, I(1, 1, 3, 3)], "any", True,
              coordinate_transformation_mode="tf_crop_and_resize", mode="linear")  # fmt: skip
    yield one("Slice with an axis out of range", "Slice", [x, I(0), I(1), I(5)])
    yield one("Slice with an axis twice", "Slice", [x, I(0, 0), I(1, 1), I(0, 0)], "any", True)
    yield one("Transpose of an axis twice", "Transpose", [x], perm=[0, 0])
    yield one("Transpose of too many axes", "Transpose", [x], perm=[0, 1, 2])
    yield one("Transpose of a far axis", "Transpose", [x], perm=[0, 5])
    yield one("Squeeze of a far axis", "Squeeze", [x, I(9)])
    yield one("Softmax of a far axis", "Softmax", [x], axis=9)
    yield one("Softmax of axis -2^62", "Softmax", [x], axis=-(1 << 62))
    yield one("ReduceSum of a far axis", "ReduceSum", [x, I(9)])
    yield one("ReduceSum of an axis twice", "ReduceSum", [x, I(0, 0)], "any", True)
    yield one("Flatten of a far axis", "Flatten", [x], axis=9)
    yield one("CumSum of a far axis", "CumSum", [x, np.int64(9)])
    yield one(
        "Concat of nothing",
        "Concat",
        [np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)],
        [np.zeros((0, 3), np.float32)],
        axis=0,
    )


def windows():
    for name, attrs in {"strides 0": {"strides": [0, 0]}, "strides -1": {"strides": [-1, -1]}, "dilations 0": {"dilations": [0, 0]},
                        "dilations -1": {"dilations": [-1, -1]}, "kernel 0": {"kernel_shape": [0, 0]}, "kernel -1": {"kernel_shape": [-1, -1]},
                        "negative pads": {"pads": [-1, -1, -1, -1]}, "pads -9": {"pads": [-9, -9, -9, -9]}, "too few pads": {"pads": [1]},
                        "too many strides": {"strides": [1] * 9}, "large kernel": {"kernel_shape": [9, 9]},
                        "large dilations": {"dilations": [1 << 40, 1 << 40]}, "large strides": {"strides": [1 << 62, 1 << 62]}}.items():  # fmt: skip
        pool = {"kernel_shape": [2, 2]} | attrs
        # Where the standard leaves it open, any answer will do that does not touch foreign memory; ONNX Runtime refuses most.
        yield one(f"Conv {name}", "Conv", [IMAGE, KERNEL], "any", True, **attrs)
        yield one(f"Conv constant {name}", "Conv", [IMAGE, KERNEL], "any", True, constant=(1,), **attrs)
        yield one(f"ConvTranspose {name}", "ConvTranspose", [IMAGE, KERNEL], "any", True, **attrs)
        yield one(f"ConvInteger {name}", "ConvInteger", [IMAGE.astype(np.uint8), KERNEL.astype(np.uint8)], "any", True, **attrs)
        yield one(f"MaxPool {name}", "MaxPool", [IMAGE], "any", True, **pool)
        yield one(f"MaxPool indices {name}", "MaxPool", [IMAGE], "any", True, outputs=("y", "z"), **pool)
        yield one(f"AveragePool {name}", "AveragePool", [IMAGE], "any", True, **pool)
        yield one(f"LpPool {name}", "LpPool", [IMAGE], "any", True, **pool)
    yield one("Conv group 0", "Conv", [IMAGE, KERNEL], group=0)
    yield one("Conv group -1", "Conv", [IMAGE, KERNEL], group=-1)
    yield one("Conv group 3", "Conv", [IMAGE, KERNEL], group=3)
    yield one("Conv of unequal channels", "Conv", [IMAGE, np.ones((1, 5, 2, 2), np.float32)])
    yield one("Conv bias of a wrong size", "Conv", [IMAGE, KERNEL, F(1, 2, 3)])
    yield one("AveragePool in padding", "AveragePool", [IMAGE], "any", True, kernel_shape=[1, 1], pads=[3, 3, 3, 3])
    yield one("AveragePool in padding, counted", "AveragePool", [IMAGE], [np.pad(IMAGE, ((0, 0), (0, 0), (3, 3), (3, 3)))], True, kernel_shape=[1, 1], pads=[3] * 4,
              count_include_pad=1)  # fmt: skip
    yield one("MaxPool in padding", "MaxPool", [IMAGE], "any", True, kernel_shape=[1, 1], pads=[3, 3, 3, 3], outputs=("y", "z"))
    yield one("InstanceNormalization", "InstanceNormalization", [IMAGE, F(1, 2), F(1)])
    yield one("BatchNormalization", "BatchNormalization", [IMAGE, F(1, 2), F(1), F(1), F(1)])
    yield one("GroupNormalization 0", "GroupNormalization", [IMAGE, F(1), F(1)], num_groups=0)
    yield one("GroupNormalization 7", "GroupNormalization", [IMAGE, F(1), F(1)], num_groups=7)
    yield one("LayerNormalization far", "LayerNormalization", [IMAGE, F(1)], axis=99)
    yield one("LRN 0", "LRN", [IMAGE], "any", True, size=0)
    yield one(
        "LSTM hidden 0",
        "LSTM",
        [np.ones((2, 1, 3), np.float32), np.ones((1, 8, 3), np.float32), np.ones((1, 8, 2), np.float32)],
        hidden_size=-4,
    )
    yield one(
        "LSTM of unequal sizes",
        "LSTM",
        [np.ones((2, 1, 3), np.float32), np.ones((1, 8, 3), np.float32), np.ones((1, 4, 2), np.float32)],
        hidden_size=2,
    )
    lens = np.array([1 << 30], np.int32)
    yield one(
        "LSTM sequence_lens",
        "LSTM",
        [np.ones((2, 1, 3), np.float32), np.ones((1, 8, 3), np.float32), np.ones((1, 8, 2), np.float32), None, lens],
        "any",
        True,
        hidden_size=2,
    )
    yield one(
        "GRU sequence_lens",
        "GRU",
        [np.ones((2, 1, 3), np.float32), np.ones((1, 6, 3), np.float32), np.ones((1, 6, 2), np.float32), None, -lens],
        "any",
        True,
        hidden_size=2,
    )
    yield one("MatMul of unequal sizes", "MatMul", [np.ones((2, 3), np.float32), np.ones((4, 2), np.float32)])
    yield one(
        "Gemm C of a wrong size", "Gemm", [np.ones((2, 3), np.float32), np.ones((3, 2), np.float32), np.ones((5, 7), np.float32)]
    )
    yield one(
        "MatMulInteger zero point", "MatMulInteger", [np.ones((2, 3), np.uint8), np.ones((3, 2), np.uint8), np.ones(7, np.uint8)]
    )


EMPTY = {"Relu": 1, "Exp": 1, "Add": 2, "MatMul": 2, "Softmax": 1, "ReduceSum": 1, "ReduceMean": 1, "ReduceProd": 1, "ReduceMax": 1, "ReduceMin": 1, "ReduceL2": 1,
         "ReduceLogSumExp": 1, "ArgMax": 1, "CumSum": 1, "Transpose": 1, "Flatten": 1, "Concat": 2, "Unique": 1, "NonZero": 1, "TopK": 1, "Tile": 1, "Gather": 1,
         "LayerNormalization": 2, "Identity": 1, "Where": 0, "Dropout": 1, "LogSoftmax": 1, "Hardmax": 1, "Split": 1, "Squeeze": 1, "Einsum": 1}  # fmt: skip


def empties():
    """Operators on tensors without elements, against onnx.reference's shapes where it answers; no crash in any case."""
    for op_type, count in EMPTY.items():
        for shape in ((0, 3), (3, 0), (0, 0), (2, 0, 3)):
            a = np.zeros(shape, np.float32)
            extra = {
                "CumSum": [np.int64(0)],
                "TopK": [I(0)],
                "Tile": [I(*[2] * len(shape))],
                "Gather": [np.zeros(0, np.int64)],
                "Where": [a > 0, a, a],
            }.get(op_type, [])
            b = np.zeros(
                shape[::-1]
                if op_type == "MatMul" and len(shape) == 2
                else shape[-1:]
                if op_type == "LayerNormalization"
                else shape,
                np.float32,
            )
            operands = [*[a, b][:count], *extra]
            attrs = {"Concat": {"axis": 0}, "Einsum": {"equation": "...i->...i"}, "Split": {"num_outputs": 1}}.get(op_type, {})
            yield one(
                f"{op_type} of {shape}",
                op_type,
                operands,
                "any",
                True,
                outputs=("y", "z") if op_type == "TopK" else ("y",),
                **attrs,
            )
    none = np.zeros((0, 1, 4, 4), np.float32)
    yield one("Conv of no images", "Conv", [none, KERNEL], [np.zeros((0, 1, 3, 3), np.float32)])
    yield one(
        "Conv of no channels",
        "Conv",
        [np.zeros((1, 0, 4, 4), np.float32), np.zeros((2, 0, 2, 2), np.float32)],
        [np.zeros((1, 2, 3, 3), np.float32)],
        True,
    )
    yield one("Conv of no kernels", "Conv", [IMAGE, np.zeros((0, 1, 2, 2), np.float32)], [np.zeros((1, 0, 3, 3), np.float32)], True)
    yield one("MaxPool of no images", "MaxPool", [none], [np.zeros((0, 1, 3, 3), np.float32)], True, kernel_shape=[2, 2])
    yield one("AveragePool of no rows", "AveragePool", [np.zeros((1, 1, 0, 4), np.float32)], "any", True, kernel_shape=[2, 2])
    yield one("GlobalAveragePool of no rows", "GlobalAveragePool", [np.zeros((1, 1, 0, 4), np.float32)], "any", True)
    yield one("GlobalMaxPool of no rows", "GlobalMaxPool", [np.zeros((1, 1, 0, 4), np.float32)], "any", True)
    yield one(
        "InstanceNormalization of no rows",
        "InstanceNormalization",
        [np.zeros((1, 1, 0, 4), np.float32), F(1), F(1)],
        [np.zeros((1, 1, 0, 4), np.float32)],
        True,
    )
    yield one("LSTM of no steps", "LSTM", [np.ones((0, 1, 3), np.float32), np.ones((1, 8, 3), np.float32), np.ones((1, 8, 2), np.float32)],
              [np.zeros((0, 1, 1, 2), np.float32)], True, hidden_size=2)  # fmt: skip
    yield one(
        "MatMul over nothing",
        "MatMul",
        [np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32)],
        [np.zeros((2, 3), np.float32)],
    )
    yield one("Resize of nothing", "Resize", [np.zeros((1, 1, 0, 4), np.float32), None, None, I(1, 1, 4, 4)], "any", True)
    yield one(
        "GridSample of nothing", "GridSample", [np.zeros((1, 1, 0, 0), np.float32), np.zeros((1, 2, 2, 2), np.float32)], "any", True
    )
    yield one("Gather from nothing", "Gather", [np.zeros((0, 3), np.float32), I(0)])
    yield one("ArgMax over nothing", "ArgMax", [np.zeros((0, 3), np.float32)], axis=0)
    yield one(
        "NonMaxSuppression of nothing",
        "NonMaxSuppression",
        [np.zeros((1, 0, 4), np.float32), np.zeros((1, 1, 0), np.float32), np.int64(3)],
        [np.zeros((0, 3), np.int64)],
    )


def texts():
    long = np.array(["a" * 40 + "!"], object)
    for pattern in (
        r"(a+)+$",
        r"(a*)*b",
        r"(a|aa)+$",
        r"(.*a){20}",
        r"(a?){40}a{40}",
        r"((((((((((a{0,9}){0,9}){0,9}){0,9}){0,9}){0,9}){0,9}){0,9}){0,9}){0,9})b",
        r"(?:a{1000}){1000}",
        r"a{1000000000}",
    ):
        yield one(f"RegexFullMatch {pattern[:30]}", "RegexFullMatch", [long], "any", True, pattern=pattern)
    yield one("RegexFullMatch of no pattern", "RegexFullMatch", [long], pattern="(((")
    yield one("RegexFullMatch of 100,000 parentheses", "RegexFullMatch", [long], "any", True, pattern="(" * 100_000 + ")" * 100_000)
    yield one("StringSplit", "StringSplit", [np.array(["a " * 100_000], object)], "any", True, outputs=("y", "z"))
    yield one("StringSplit by nothing", "StringSplit", [np.array(["abc"], object)], "any", True, outputs=("y", "z"), delimiter="")
    yield one("TfIdf", "TfIdfVectorizer", [np.ones((100, 1000), np.int64)], "any", True, mode="TF", min_gram_length=1, max_gram_length=10, max_skip_count=1000,
              ngram_counts=[0, 1], ngram_indexes=[0, 1], pool_int64s=[1, 1, 1])  # fmt: skip
    yield one("TfIdf counts that lie", "TfIdfVectorizer", [I(1, 2, 3)], mode="TF", min_gram_length=1, max_gram_length=1, max_skip_count=0, ngram_counts=[1 << 40],
              ngram_indexes=[0], pool_int64s=[1])  # fmt: skip
    yield one("TfIdf grams of 2^62", "TfIdfVectorizer", [I(1, 2, 3)], "any", True, max_gram_length=1 << 62, min_gram_length=1, max_skip_count=1, mode="TF",
              ngram_counts=[0], ngram_indexes=[0], pool_int64s=[1])  # fmt: skip
    yield one("TfIdf indexes of 2^62", "TfIdfVectorizer", [I(1, 2, 3)], max_gram_length=1, min_gram_length=1, max_skip_count=0, mode="TF",
              ngram_counts=[0], ngram_indexes=[1 << 62], pool_int64s=[1])  # fmt: skip
    yield one("Einsum of text", "Einsum", [IMAGE], equation="__import__('os').system('x')")
    yield one("Einsum of 100,000 letters", "Einsum", [IMAGE], equation="a" * 100_000)


CASES = [*divisions(), *shifts(), *casts(), *indices(), *windows(), *empties(), *texts()]
