"""Convolutions on random shapes and attributes, against ONNX Runtime, and integers against exact sums."""

from __future__ import annotations

import graphmill.ir.ops.conv
import graphmill.ir.ops.conv_other  # noqa: F401
import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.op import OPS, Example, InferContext
from graphmill.ir.ops.conv import conv_reference
from graphmill.ir.types import F32, TensorType
from ort_peer import agrees


def conv_case(rng: np.random.Generator, transposed: bool) -> Example:
    n, group = int(rng.integers(1, 3 if transposed else 4)), int(rng.integers(1, 4))
    c, m = group * int(rng.integers(1, 3)), group * int(rng.integers(1, 3))
    kernel, strides = rng.integers(1, 4, n), rng.integers(1, 4, n)
    attrs: dict = {"group": group, "strides": tuple(strides.tolist())}
    attrs["auto_pad"] = str(rng.choice(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if attrs["auto_pad"] == "NOTSET":
        attrs["dilations"] = tuple(rng.integers(1, 3, n).tolist())
        attrs["pads"] = tuple(int(rng.integers(0, k)) for k in [*kernel, *kernel])
    if transposed and attrs["auto_pad"] in ("NOTSET", "VALID") and rng.random() < 0.5:
        attrs["output_padding"] = tuple(int(rng.integers(0, s)) for s in strides)
    x = rng.normal(size=(2, c, *rng.integers(5, 9, n))).astype(np.float32)
    w = rng.normal(size=((c, m // group) if transposed else (m, c // group)) + tuple(kernel)).astype(np.float32)
    b = rng.normal(size=m).astype(np.float32)
    return Example((x, w, b if rng.random() < 0.5 else None), attrs)


@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_random_shapes(name: str) -> None:
    rng = np.random.default_rng(2)
    assert sum(agrees(name, conv_case(rng, name == "conv_transpose")) for _ in range(100)) >= 80


@pytest.mark.parametrize("xt, wt, result", [("u1", "i1", "i4"), ("i2", "i2", "i4"), ("i4", "i4", "i4"), ("i8", "i4", "i8")])
def test_integers_are_exact(xt: str, wt: str, result: str) -> None:
    rng = np.random.default_rng(3)
    lim = [min(np.iinfo(t).max, 1 << 40) for t in (xt, wt)]
    x, w = rng.integers(0, lim[0], (1, 3, 6, 5)).astype(xt), rng.integers(-lim[1], lim[1], (4, 3, 3, 2)).astype(wt)
    y = conv_reference(x, w, pads=(1, 0, 1, 1))
    p = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 1)))
    want, half = [], 1 << np.iinfo(result).bits - 1
    for m, i, j in np.ndindex(4, 6, 5):
        pairs = zip(p[0, :, i : i + 3, j : j + 2].ravel().tolist(), w[m].ravel().tolist(), strict=True)
        want.append((sum(a * b for a, b in pairs) + half) % (2 * half) - half)
    assert y.dtype == result
    np.testing.assert_array_equal(y.ravel(), np.array(want, result))


def test_rows_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = np.random.default_rng(4).normal(size=(1, 3, 20, 9)), np.random.default_rng(5).normal(size=(2, 3, 3, 3))
    whole = conv_reference(x, w, pads=(1, 1, 1, 1))
    monkeypatch.setattr("graphmill.ir.ops.conv.COLUMN_BYTES", 5000)
    np.testing.assert_allclose(conv_reference(x, w, pads=(1, 1, 1, 1)), whole, rtol=1e-12)


def infer(name: str, *shapes: tuple | None, **attrs: object) -> tuple | None:
    d = OPS[name]
    types = [TensorType(F32, s) for s in shapes]
    return d.infer(InferContext(d, types, {k: a.default for k, a in d.attrs.items()} | attrs, 1)).shape


@pytest.mark.parametrize("name, shapes, attrs, message", [
    ("conv", [(1, 3, 8, 8), (4, 4, 3, 3)], {}, r"X has 3 channels, expected 4 \(W's second dimension\) \* 1 \(group\)"),
    ("conv", [(1, 3, 8, 8), (4, 3, 3, 3), (5,)], {}, r"input b has shape f32\[5\], expected f32\[4\]"),
    ("conv", [(1, 4, 8, 8), (3, 2, 3, 3)], {"group": 2}, "W has 3 output channels, expected a multiple of group = 2"),
    ("conv_transpose", [(1, 3, 8, 8), (4, 3, 3, 3)], {}, "expected W's first dimension = X's channels"),
    ("deform_conv", [(1, 2, 5, 5), (3, 2, 2, 2), (1, 7, 4, 4)], {}, r"expected f32\[1,8,4,4\]"),
])  # fmt: skip
def test_wrong_operands_are_named(name: str, shapes: list, attrs: dict, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        infer(name, *shapes, **attrs)


def test_rank_of_one_operand_alone_is_enough_or_unknown() -> None:
    assert infer("conv", None, (4, 3, 3, 3)) is None
    assert infer("conv", (1, 3, 8, 8), None) is None
    assert infer("conv", (1, 3, 8, 8), None, kernel_shape=(3, 3))[2:] == (6, 6)
