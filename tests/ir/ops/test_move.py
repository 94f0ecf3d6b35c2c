"""Symbolic shapes, shape arithmetic and errors of the data movement operators."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.symbols import Dim, evaluate, symbol
from hypothesis import given
from hypothesis import strategies as st
from inferring import M, N, dims, infer, run, shape, t

ints = np.array
END = 2**63 - 1


def test_transpose_and_concat() -> None:
    assert shape("transpose", t(N, 3, M), perm=(2, 0, 1)) == (M, N, 3)
    assert shape("concat", t(N, 3), t(M, 3), axis=-2) == (N + M, 3)
    assert shape("concat", t(N, 3), t(None), axis=0)[1] == 3
    assert dims("concat", [N], t(1, dtype="i64"), [3, M], axis=0) == [N, None, 3, M]
    for operands, axis in (((t(2, 3), t(2, 4)), 0), ((t(2), t(2, 2)), 0), ((t(2), t(2)), 1), ((t(), t()), 0)):
        with pytest.raises(InferenceError):
            infer("concat", *operands, axis=axis)
    with pytest.raises(InferenceError, match="permutation"):
        infer("transpose", t(2, 3), perm=(0, 0))


def test_split() -> None:
    assert [x.shape for x in infer("split", t(N * 4, 2), num_outputs=2, results=2)] == [(N * 2, 2), (N * 2, 2)]
    assert [x.shape for x in infer("split", t(7), num_outputs=3, results=3)] == [(3,), (3,), (1,)]
    assert [x.shape for x in infer("split", t(N), [2, M], results=2)] == [(2,), (M,)]
    for sizes, n in (([1, 2], 2), ([2, 2], 3), ([5, -1], 2)):
        with pytest.raises(InferenceError):
            infer("split", t(4), sizes, results=n)
    with pytest.raises(InferenceError):
        infer("split", t(4), results=2)
    with pytest.raises(ValueError, match="cannot be split"):
        run("split", np.zeros(5), num_outputs=4)


@pytest.mark.parametrize(
    "size, start, end, step, expected",
    [
        (N, 0, END, 1, N),
        (N, 0, 2**31 - 1, 1, N),
        (M, -1, END, 1, 1),
        (M, 0, -1, 1, M - 1),
        (N, -1, -END - 1, -1, N),
        (M, 1, END, 1, M - 1),
        (N, 0, N, 1, N),
        (N * 2, 0, END, 2, N),
        (10, 20, 5, -2, 2),
    ],
)
def test_slice_sizes(size: object, start: object, end: object, step: int, expected: object) -> None:
    assert shape("slice", t(size), [start], [end], ints([0]), ints([step])) == (expected,)


@given(st.integers(0, 9), st.integers(-12, 12), st.integers(-12, 12), st.sampled_from([-3, -2, -1, 1, 2, 3]))
def test_symbolic_slice_sizes_hold(size: int, start: int, end: int, step: int) -> None:
    (d,) = shape("slice", t(N), ints([start]), ints([end]), ints([0]), ints([step]))
    assert evaluate(d, {"N": size}) == len(range(size)[start:end:step])


def test_slice_contents_and_errors() -> None:
    assert dims("slice", [N, 3, M], ints([1]), ints([END])) == [3, M]
    assert dims("slice", [N, 3, M], ints([-1]), ints([-9]), ints([0]), ints([-1])) == [M, 3, N]
    assert len(shape("slice", t(N, 3), t(1, dtype="i64"), t(1, dtype="i64"))) == 2
    assert isinstance(shape("slice", t(5), [symbol("S", -5)], ints([3]))[0], Dim)
    with pytest.raises(InferenceError, match="step"):
        infer("slice", t(5), ints([0]), ints([5]), ints([0]), ints([0]))
    with pytest.raises(InferenceError, match="twice"):
        infer("slice", t(5, 5), ints([0, 0]), ints([5, 5]), ints([0, -2]))
    with pytest.raises(InferenceError):
        infer("slice", t(5), ints([0, 0]), ints([1, 1]))


def test_pad() -> None:
    assert shape("pad", t(N, 3), [1, 0, 2, M]) == (N + 3, M + 3)
    assert shape("pad", t(N, 3), [1, 2], None, ints([-1])) == (N, 6)
    for operands, kw in (
        ((t(2, 3), [-3, 0, 0, 0]), {}),
        ((t(2, 3), [1, 1]), {}),
        ((t(2, 3), [1, 0, 1, 0]), {"mode": "mirror"}),
        ((t(0, 3), [1, 0, 0, 0]), {"mode": "edge"}),
        ((t(2), [1 << 62, 1 << 63]), {}),
    ):
        with pytest.raises(InferenceError):
            infer("pad", *operands, **kw)
    with pytest.raises(ValueError, match="crop"):
        run("pad", np.zeros(2), ints([-2, -1]))
    np.testing.assert_array_equal(run("pad", np.arange(4), ints([-1, 2]), mode="reflect"), [1, 2, 3, 2, 1])


def test_blocks_and_the_rest() -> None:
    assert shape("depth_to_space", t(N, 8, M, 3), blocksize=2) == (N, 2, M * 2, 6)
    assert shape("space_to_depth", t(N, 2, M * 2, 6), blocksize=2) == (N, 8, M, 3)
    for name, x, b in (
        ("depth_to_space", t(1, 6, 2, 2), 2),
        ("space_to_depth", t(1, 1, 3, 2), 2),
        ("depth_to_space", t(1, 4, 2, 2), 0),
    ):
        with pytest.raises(InferenceError):
            infer(name, x, blocksize=b)
    x = np.arange(2 * 8 * 2 * 3).reshape(2, 8, 2, 3)
    for mode in ("DCR", "CRD"):
        there = run("depth_to_space", x, blocksize=2, mode=mode)
        np.testing.assert_array_equal(run("space_to_depth", there, blocksize=2, mode=mode), x)
    assert shape("center_crop_pad", t(N, 5), [M], axes=(1,)) == (N, M)
    with pytest.raises(InferenceError):
        infer("trilu", t(3))
    with pytest.raises(ValueError, match="sequence_lens"):
        run("reverse_sequence", np.zeros((2, 2)), ints([3, 0]))
