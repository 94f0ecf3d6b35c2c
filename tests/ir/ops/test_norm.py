"""Normalizations and softmax: half precision, infinities, and errors."""

from __future__ import annotations

import graphmill.ir.ops.norm
import graphmill.ir.ops.softmax  # noqa: F401
import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.op import OPS, InferContext
from graphmill.ir.symbols import symbol
from graphmill.ir.types import BF16, F32, TensorType


def ref(name: str, *operands: np.ndarray, **attrs: object) -> np.ndarray:
    d = OPS[name]
    out = d.reference(*operands, **{k: a.default for k, a in d.attrs.items()} | attrs)
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_summed_in_f32(name: str, half: type) -> None:
    """Summed in its own type a row of 4096 bf16 ones would stop at 256."""
    x = np.ones((1, 4096), half)
    x[0, ::2] = 3
    s = np.ones(4096, half)
    want = ref(name, x.astype(np.float32), s.astype(np.float32))
    got = ref(name, x, s)
    assert got.dtype == half
    np.testing.assert_array_equal(got, want.astype(half))


def test_softmax_of_infinities() -> None:
    x = np.array([[-np.inf, 0, -np.inf], [1, 2, np.nan]], np.float32)
    with np.errstate(all="ignore"):
        y = ref("softmax", x)
    np.testing.assert_array_equal(y[0], [0, 1, 0])
    assert np.isnan(y[1]).all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_flatten_is_a_reshape(name: str, axis: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    flat = x.reshape(int(np.prod(x.shape[:axis])), -1)
    np.testing.assert_array_equal(ref(name, x, axis=axis, flatten=1), ref(name, flat, axis=1).reshape(x.shape))


def test_training_gives_running_statistics() -> None:
    x = np.random.default_rng(1).normal(2, 3, (8, 3, 5)).astype(np.float32)
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    y, mean, var, *_ = OPS["batch_norm"].reference(x, one, zero, zero, one, training_mode=1, momentum=0.9)
    np.testing.assert_allclose(y.mean((0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 2)), rtol=1e-4)
    np.testing.assert_allclose(var, 0.9 + 0.1 * x.var((0, 2)), rtol=1e-4)


def infer(name: str, *types: TensorType, results: int = 1, **attrs: object) -> object:
    d = OPS[name]
    return d.infer(InferContext(d, list(types), {k: a.default for k, a in d.attrs.items()} | attrs, results))


def test_statistics_of_layer_norm_have_the_stash_type() -> None:
    n = symbol("n")
    t = infer("layer_norm", TensorType(BF16, (n, 4, 8)), TensorType(BF16, (8,)), axis=1, results=3)
    assert [(str(r.dtype), r.shape) for r in t] == [("bf16", (n, 4, 8)), ("f32", (n, 1, 1)), ("f32", (n, 1, 1))]


@pytest.mark.parametrize("name, shapes, attrs, message", [
    ("batch_norm", [(1, 3, 4), (4,), (3,), (3,), (3,)], {}, r"input scale has shape f32\[4\], expected f32\[3\]"),
    ("group_norm", [(1, 3, 4), (3,), (3,)], {"num_groups": 2}, "num_groups = 2, expected a divisor of the 3 channels"),
    ("layer_norm", [(2, 8), (7,)], {}, r"input scale has shape f32\[7\], expected one that broadcasts to f32\[2,8\]"),
    ("softmax", [(2, 8)], {"axis": 2}, "axis 2 is out of range for rank 2"),
    ("lp_norm", [(2, 8)], {"p": 3}, "p = 3, expected 1 or 2"),
])  # fmt: skip
def test_wrong_operands_are_named(name: str, shapes: list, attrs: dict, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        infer(name, *(TensorType(F32, s) for s in shapes), **attrs)
