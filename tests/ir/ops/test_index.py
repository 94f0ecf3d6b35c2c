"""Reading and writing by index, and selections: shapes, orders and errors."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.symbols import Dim
from hypothesis import given
from hypothesis import strategies as st
from inferring import M, N, dims, infer, run, shape, t

ints = np.array


def test_gather() -> None:
    assert shape("gather", t(N, 3), t(2, M, dtype="i64"), axis=1) == (N, 2, M)
    assert shape("gather", t(N, 3), t(None, dtype="i64")) is None
    assert dims("gather", [N, 3, M], ints(-1)) == M
    assert dims("gather", [N, None], ints([1, 0])) == [None, N]
    for i in (3, -4):
        with pytest.raises(InferenceError, match="out of range"):
            infer("gather", t(3), ints([0, i]))
        with pytest.raises(IndexError):
            run("gather", np.zeros(3), ints([i]))
    for name in ("gather_elements", "scatter_elements"):
        with pytest.raises(InferenceError):
            infer(name, t(3, 2), t(3, dtype="i64"), *([t(3)] if "scatter" in name else []))


def test_gather_and_scatter_nd() -> None:
    assert shape("gather_nd", t(N, 3, 4), t(N, 5, 1, dtype="i64"), batch_dims=1) == (N, 5, 4)
    assert shape("gather_nd", t(N, 3), t(5, M, dtype="i64")) is None
    with pytest.raises(InferenceError):
        infer("gather_nd", t(2, 3), t(4, 3, dtype="i64"))
    with pytest.raises(InferenceError):
        infer("scatter_nd", t(4, 3), t(2, 1, dtype="i64"), t(2, 2))
    with pytest.raises(ValueError, match="shape"):
        run("scatter_nd", np.zeros((4, 3)), ints([[0], [1]]), np.zeros((2, 1)))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8, bool])
@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_scatter_combines_repeated_indices(dtype: object, reduction: str) -> None:
    data, updates = ints([1, 0, 1]).astype(dtype), ints([1, 1, 0]).astype(dtype)
    out = run("scatter_elements", data, ints([0, 0, -1]), updates, reduction=reduction)
    fn = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
    want = [fn(fn(data[0], updates[0]), updates[1]), data[1], fn(data[2], updates[2])]
    assert out.dtype == data.dtype and [float(x) for x in out] == [float(x) for x in want]
    assert data[0] == 1  # operands are left alone


def test_tensor_scatter_and_one_hot() -> None:
    with pytest.raises(InferenceError, match="batch"):
        infer("tensor_scatter", t(2, 4), t(2, 1), axis=0)
    with pytest.raises(ValueError, match="fit"):
        run("tensor_scatter", np.zeros((1, 4, 1)), np.zeros((1, 2, 1)), ints([3]))
    assert shape("one_hot", t(N, 2, dtype="i64"), ints(7), t(2), axis=0) == (7, N, 2)
    with pytest.raises(InferenceError):
        infer("one_hot", t(2, dtype="i64"), ints(-1), t(2))
    with pytest.raises(InferenceError, match="counted"):
        infer("one_hot", t(1 << 40, dtype="i64"), ints(1 << 60), t(2))


def test_sizes_that_depend_on_the_data() -> None:
    for out, fixed in (
        (shape("non_zero", t(N, 3)), (2, None)),
        (shape("compress", t(N, 3), t(2, dtype="bool"), axis=0), (None, 3)),
        (shape("unique", t(N, 3), axis=1, results=4), (N, None)),
    ):
        assert all(isinstance(d, Dim) if f is None else d == f for d, f in zip(out, fixed, strict=True))
    assert infer("unique", t(N, 3), results=4)[2].shape == (N * 3,)
    assert shape("compress", t(N, 3), np.array([True, False, True])) == (2,)


def test_unique_slices_of_strings_and_nan() -> None:
    x = np.array([["b", "a"], ["b", "a"], ["a", "z"]], object)
    y, first, back, counts = run("unique", x, axis=0)
    assert (
        y.tolist() == [["a", "z"], ["b", "a"]]
        and first.tolist() == [2, 0]
        and back.tolist() == [1, 1, 0]
        and counts.tolist() == [1, 2]
    )
    assert len(run("unique", ints([np.nan, 1, np.nan]))[0]) == 2


def test_topk_order() -> None:
    x = ints([1.0, np.nan, 3.0, 1.0, np.nan, -np.inf])
    assert run("topk", x, ints([6]))[1].tolist() == [1, 4, 2, 0, 3, 5]
    assert run("topk", x, ints([6]), largest=0)[1].tolist() == [5, 0, 3, 2, 1, 4]
    assert run("topk", ints([0, 255, 7], np.uint8), ints([2]))[0].tolist() == [255, 7]
    assert run("topk", ints([-(2**63), 5]), ints([1]), largest=0)[0].tolist() == [-(2**63)]
    assert run("topk", x.astype(ml_dtypes.bfloat16), ints([1]))[1].tolist() == [1]
    assert [s.shape for s in infer("topk", t(N, 9), [M], axis=1, results=2)] == [(N, M), (N, M)]
    for k in (10, -1):
        with pytest.raises(InferenceError):
            infer("topk", t(9), ints([k]), results=2)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.booleans())
def test_topk_is_stable(values: list[int], largest: bool) -> None:
    got = run("topk", ints(values, np.int32), ints([len(values)]), largest=int(largest))
    order = sorted(range(len(values)), key=lambda i: (-values[i] if largest else values[i], i))
    assert got[1].tolist() == order


def test_non_max_suppression_keeps_boxes_at_the_threshold() -> None:
    boxes = ints([[[0, 0, 1, 1], [0, 0.5, 1, 1.5], [1, 1, 0, 0]]], np.float32)
    scores = ints([[[0.9, 0.8, 0.7]]], np.float32)

    def kept(threshold: float) -> list:
        return run("non_max_suppression", boxes, scores, ints([9]), ints(threshold, np.float32))[:, 2].tolist()

    assert kept(1 / 3) == [0, 1]  # the corners of box 2 are those of box 0, in another order
    assert kept(0.2) == [0]
    with pytest.raises(InferenceError, match="four"):
        infer("non_max_suppression", t(1, 5, 3), t(1, 1, 5))


def test_non_max_suppression_of_many_boxes_is_bounded() -> None:
    r = np.random.default_rng(0)
    corner = r.uniform(0, 100, (1, 50_000, 2))
    boxes = np.concatenate([corner, corner + 10], 2).astype(np.float32)
    out = run("non_max_suppression", boxes, r.random((1, 1, 50_000), np.float32), ints([100]), ints(0.5, np.float32))
    assert out.shape == (100, 3)
