"""Tensors made from shapes: exact sizes without overflow, and errors before anything is allocated."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from inferring import M, N, dims, infer, run, shape, t

ints = np.array


def test_expand() -> None:
    assert shape("expand", t(N, 1), [1, 5]) == (N, 5)
    assert shape("expand", t(3, 1), t(3, dtype="i64"))[1] == 3
    assert shape("expand", t(None), [2]) is None
    assert dims("expand", [N], ints([2])) == [N, N]
    for target in ([4, 1], [-1, 3]):
        with pytest.raises(InferenceError):
            infer("expand", t(3, 1), target)


def test_tile() -> None:
    assert shape("tile", t(N, 2), [3, M]) == (N * 3, M * 2)
    for repeats in ([-1, 1], [2], [2, 2, 2]):
        with pytest.raises(InferenceError):
            infer("tile", t(2, 2), repeats)
    with pytest.raises(ValueError):
        run("tile", np.zeros((2, 2)), ints([-1, 1]))


def test_bombs_are_counted_exactly() -> None:
    big = 1 << 62
    assert shape("constant_of_shape", [1 << 40, 1 << 20]) == (1 << 40, 1 << 20)
    for name, operands in (
        ("constant_of_shape", ([big, big],)),
        ("expand", (t(1), [big, 8])),
        ("tile", (t(1 << 40, 8), [big, 1])),
        ("constant_of_shape", ([-1],)),
    ):
        with pytest.raises(InferenceError):
            infer(name, *operands)
    assert shape("range", ints(0), ints(2**63 - 1), ints(1)) == (2**63 - 1,)
    assert shape("range", ints(-(2**63)), ints(2**63 - 1), ints(1)) == (2**64 - 1,)


def test_range() -> None:
    def scalars(*v: object) -> list:
        return [np.array(x) for x in v]

    assert shape("range", *scalars(10, 4, -3)) == (2,)
    assert shape("range", ints(0), [N], ints(1)) == (N,)
    assert dims("range", *scalars(2, 8, 3)) == [2, 5]
    for delta in (0, 0.0, np.nan):
        with pytest.raises((InferenceError, ValueError)):
            infer("range", *scalars(np.asarray(0, np.asarray(delta).dtype), np.asarray(1, np.asarray(delta).dtype), delta))
    with pytest.raises(InferenceError, match="finite"):
        infer("range", *scalars(0.0, np.inf, 1.0))
    with pytest.raises(InferenceError, match="same element type"):
        infer("range", ints(0), ints(1.0), ints(1))
    half = run("range", *(np.array(v, np.float16) for v in (0, 3000, 1)))
    assert len(half) == 3000 and half[2047] == 2047


def test_constant_of_shape_and_eye() -> None:
    assert dims("constant_of_shape", [3], value=np.array([2], np.int64)) == [2, 2, 2]
    with pytest.raises(InferenceError, match="one"):
        infer("constant_of_shape", [3], value=np.zeros(2))
    with pytest.raises(InferenceError):
        infer("eye_like", t(2, 2, 2))
    assert run("eye_like", np.zeros((2, 3), np.float32), k=2**40).sum() == 0
