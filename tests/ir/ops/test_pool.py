"""Pooling on random windows, against ONNX Runtime."""

from __future__ import annotations

import graphmill.ir.ops.pool  # noqa: F401
import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.op import OPS, Example, InferContext
from graphmill.ir.symbols import evaluate, symbol
from graphmill.ir.types import F32, TensorType
from ort_peer import agrees


def windows(rng: np.random.Generator, pool: str) -> Example:
    n = int(rng.integers(1, 4))
    kernel = rng.integers(1, 4, n)
    attrs: dict = {"kernel_shape": tuple(kernel.tolist()), "strides": tuple(rng.integers(1, 4, n).tolist())}
    attrs["auto_pad"] = str(rng.choice(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    attrs["ceil_mode"] = int(rng.integers(2))
    if pool == "lp_pool" and any(s > k for s, k in zip(attrs["strides"], kernel, strict=True)):
        attrs["auto_pad"] = "VALID"  # ONNX Runtime pads by a negative amount here, for this pool alone
    if attrs["auto_pad"] == "NOTSET":
        attrs["pads"] = tuple(int(rng.integers(0, k)) for k in [*kernel, *kernel])
        attrs["dilations"] = tuple(rng.integers(1, 3, n).tolist())
    if pool == "average_pool":
        attrs["count_include_pad"] = int(rng.integers(2))
    if pool == "max_pool":
        attrs["storage_order"] = int(rng.integers(2))
    x = rng.normal(size=(2, 2, *rng.integers(5, 9, n))).astype(np.float32)
    return Example((x,), attrs, 2 if pool == "max_pool" else 1)


@pytest.mark.parametrize("pool", ["max_pool", "average_pool", "lp_pool"])
def test_random_windows(pool: str) -> None:
    rng = np.random.default_rng(1)
    assert sum(agrees(pool, windows(rng, pool)) for _ in range(120)) >= 100


def infer(name: str, shape: tuple | None, **attrs: object) -> tuple | None:
    d = OPS[name]
    out = d.infer(InferContext(d, [TensorType(F32, shape)], {k: a.default for k, a in d.attrs.items()} | attrs, 1))
    return (out[0] if isinstance(out, list) else out).shape


def test_symbolic_ceil_mode_counts_what_the_reference_counts() -> None:
    """The last window must start inside of the input or its left padding."""
    n = symbol("n", 1, 64)
    attrs = {"kernel_shape": (2,), "strides": (3,), "pads": (1, 1), "ceil_mode": 1}
    out = infer("max_pool", (1, 1, n), **attrs)[2]
    for size in range(1, 20):
        y, _ = OPS["max_pool"].reference(np.zeros((1, 1, size), np.float32), **attrs)
        assert evaluate(out, {"n": size}) == y.shape[2]


def test_unknown_rank_stays_unknown() -> None:
    assert infer("average_pool", None, kernel_shape=(2, 2)) is None


@pytest.mark.parametrize("attrs, message", [
    ({"kernel_shape": (2,)}, r"kernel_shape = \[2\] has 1 entries, expected 2 for 2 spatial axes"),
    ({"kernel_shape": (2, 2), "strides": (0, 1)}, r"strides = \[0, 1\], expected numbers of at least 1"),
    ({"kernel_shape": (2, 2), "auto_pad": "SAME"}, "auto_pad = 'SAME', expected one of NOTSET"),
])  # fmt: skip
def test_wrong_windows_are_named(attrs: dict, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        infer("average_pool", (1, 2, 5, 5), **attrs)


def test_indices_lead_back_to_the_maxima() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 5)).astype(np.float32)
    y, where = OPS["max_pool"].reference(x, kernel_shape=(3, 2), strides=(2, 1), pads=(1, 1, 1, 1))
    np.testing.assert_array_equal(x.ravel()[where], y)
