"""Symbolic shapes and shape arithmetic of the operators that ask for and change shapes."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.symbols import Dim, symbol
from inferring import M, N, dims, infer, run, shape, t

ints = np.array


def test_shape_and_size_know_their_contents() -> None:
    assert dims("shape", t(N, 3, M), start=-2) == [3, M]
    assert dims("size", t(N, 3)) == N * 3
    assert dims("shape", t(None)) is None
    assert len(shape("shape", t(None))) == 1


@pytest.mark.parametrize(
    "x, target, expected",
    [
        ((N, 4, 6), [0, -1], (N, 24)),
        ((N, M, 64), [N, M, 8, 8], (N, M, 8, 8)),
        ((N, M, 64), [N, -1, 8], (N, M * 8, 8)),
        ((2, N, 6), [-1, 3], (N * 4, 3)),
        ((N + M, 4), [N + M, 2, -1], (N + M, 2, 2)),
        ((0, 4), [0, -1], (0, 4)),
        ((6,), [2, 3], (2, 3)),
    ],
)
def test_reshape_resolves_symbols(x: tuple, target: list, expected: tuple) -> None:
    assert shape("reshape", t(*x), target) == expected


def test_reshape_with_less_known() -> None:
    out = shape("reshape", t(N, 4), [2, None])
    assert out[0] == 2 and isinstance(out[1], Dim) and out[1] != N
    assert len(shape("reshape", t(N, 4), t(3, dtype="i64"))) == 3
    assert shape("reshape", t(N, 4), t(M, dtype="i64")) is None
    assert len(shape("reshape", t(None), [0, 5])) == 2


@pytest.mark.parametrize("target", [[-1, -1], [4, -1], [-2, 3], [5], [0, 0, 0], [7, 7]])
def test_reshape_refuses(target: list) -> None:
    with pytest.raises(InferenceError):
        infer("reshape", t(2, 3), target)


def test_reshape_refuses_minus_one_beside_zero() -> None:
    with pytest.raises(InferenceError, match="allowzero"):
        infer("reshape", t(0, 3), [0, -1], allowzero=1)
    with pytest.raises(ValueError, match="cannot take the shape"):
        run("reshape", np.zeros((0, 3)), ints([4, 0, -1]), allowzero=1)


def test_squeeze_without_axes_knows_the_rank_only_if_no_size_can_be_one() -> None:
    assert shape("squeeze", t(1, symbol("K", 2), 1)) == (symbol("K", 2),)
    assert shape("squeeze", t(1, N)) is None
    with pytest.raises(InferenceError, match="size of 1"):
        infer("squeeze", t(2, 1), ints([0]))
    with pytest.raises(InferenceError, match="out of range"):
        infer("squeeze", t(1, 1), ints([2]))


def test_unsqueeze_and_flatten() -> None:
    assert shape("unsqueeze", t(N, 3), ints([-1, 0])) == (1, N, 3, 1)
    with pytest.raises(InferenceError, match="twice"):
        infer("unsqueeze", t(3), ints([0, -3]))
    assert shape("flatten", t(N, 3, M), axis=-1) == (N * 3, M)
    assert dims("unsqueeze", np.array(7), ints([0])) == [7]
    assert dims("squeeze", [N], ints([0])) == N


def test_dims_refuses_to_run_with_symbols_left() -> None:
    assert dims("dims", value=(N, 3)) == [N, 3]
    with pytest.raises(ValueError, match=r"\$N"):
        run("dims", value=(N, 3))
