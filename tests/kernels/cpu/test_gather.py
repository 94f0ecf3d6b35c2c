"""Reading and writing by index against the references; what happens to indices that are out of range."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.errors import RunError
from graphmill.ir.layout import Layout
from graphmill.ir.ops.examples import rand
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Refusal

from .cases import check_case
from .harness import check_native, make_node, run_kernel

OPS = [
    "gather",
    "gather_elements",
    "gather_nd",
    "scatter_elements",
    "scatter_nd",
    "tensor_scatter",
    "one_hot",
    "array_feature_extractor",
]


def numbered(shape: tuple[int, ...], dtype: object = np.float32) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


def some_indices(r: np.random.Generator, n: int, shape: tuple[int, ...]) -> np.ndarray:
    return r.integers(-n, n, shape).astype(r.choice([np.int32, np.int64]))


@pytest.mark.parametrize("name", OPS)
def test_examples(name):
    share = check_native(name)
    assert share.served and all("str" in r or "integers" in r for r in share.refused), share


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32, np.float64, np.complex128, ml_dtypes.uint4])
def test_gathers(dtype):
    r = np.random.default_rng(1)
    for _ in range(12):
        shape = tuple(r.integers(1, 6, r.integers(1, 5)).tolist())
        axis, x = int(r.integers(-len(shape), len(shape))), numbered(shape, dtype)
        check_case("gather", [x, some_indices(r, shape[axis], tuple(r.integers(0, 4, r.integers(0, 3))))], {"axis": axis})


@pytest.mark.parametrize("name", ["gather_elements", "scatter_elements"])
def test_elements(name):
    r = np.random.default_rng(2)
    for _ in range(30):
        shape = tuple(r.integers(1, 6, r.integers(1, 5)).tolist())
        axis = int(r.integers(-len(shape), len(shape)))
        inner = tuple(int(r.integers(0, 7)) if a == axis % len(shape) else int(r.integers(1, n + 1)) for a, n in enumerate(shape))
        x = numbered(shape, r.choice([np.uint8, np.float32, np.int64]))
        index = some_indices(r, shape[axis], inner)
        if name == "gather_elements":
            check_case(name, [x, index], {"axis": axis})
        else:
            # Distinct indices along the axis, so that the order of writing does not matter for the plain reduction.
            index = np.argsort(r.random((*inner[: axis % len(shape)], shape[axis], *inner[axis % len(shape) + 1 :])), axis)
            check_case(name, [x, index, numbered(index.shape, x.dtype) + 1], {"axis": axis})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint16, np.int64])
@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_reductions(reduction, dtype):
    r = np.random.default_rng(3)
    x, updates = r.integers(0, 4, (3, 4)).astype(dtype), r.integers(0, 4, (3, 9)).astype(dtype)
    check_case("scatter_elements", [x, r.integers(-4, 4, (3, 9)), updates], {"axis": 1, "reduction": reduction})
    check_case("scatter_nd", [x, r.integers(-3, 3, (9, 1)), r.integers(0, 4, (9, 4)).astype(dtype)], {"reduction": reduction})


@pytest.mark.parametrize("reduction", ["max", "min"])
def test_reductions_let_nan_through(reduction):
    x = np.array([1, np.nan, 3], np.float32)
    check_case("scatter_nd", [x, np.array([[0], [1], [2]]), np.array([np.nan, 1, 9], np.float32)], {"reduction": reduction})


def test_scatter_in_place():
    x, index, updates = rand(5, 6), np.array([[1], [4]]), rand(2, 6, seed=1)
    assert check_case("scatter_nd", [x, index, updates], in_place=0).in_place == {0}
    check_case("scatter_elements", [x, np.array([[3, 1]]), rand(1, 2, seed=2)], {"axis": 1}, in_place=0)
    check_case("tensor_scatter", [rand(2, 3, 5, 4), rand(2, 3, 2, 4, seed=1), np.array([1, 3])], in_place=0)


def test_slices_of_16_bytes():
    x = rand(4, 3) + 1j * rand(4, 3, seed=1)
    check_case("gather_nd", [x, np.array([[3], [-1]])])
    check_case("scatter_nd", [x, np.array([[3], [0]]), x[:2] * 2])


def test_gather_nd_in_batches():
    r = np.random.default_rng(4)
    x = numbered((2, 3, 4, 5))
    for batch in range(3):
        for depth in range(1, 4 - batch + 1):
            lead = x.shape[:batch]
            index = np.stack([r.integers(-n, n, (*lead, 3)) for n in x.shape[batch : batch + depth]], -1)
            check_case("gather_nd", [x, index], {"batch_dims": batch})


def test_empty_axes():
    check_case("gather", [np.zeros((0, 3), np.float32), np.zeros((0,), np.int64)])
    check_case("gather", [np.zeros((2, 0), np.float32), np.array([1, 0])])
    check_case("gather_elements", [rand(3, 3), np.zeros((0, 3), np.int64)])
    check_case("one_hot", [np.zeros((0,), np.int64), np.int64(3), np.array([0, 1], np.int8)])


@pytest.mark.parametrize(
    ("name", "operands"),
    [
        ("gather", [rand(3, 4), np.array([0, 3])]),
        ("gather", [np.zeros((0, 4), np.float32), np.array([0])]),
        ("gather", [rand(3, 4), np.array([-4])]),
        ("gather_elements", [rand(3, 2), np.array([[0, 5]])]),
        ("gather_nd", [rand(3, 2), np.array([[0, 2]])]),
        ("scatter_elements", [rand(3, 2), np.array([[-4, 0]]), rand(1, 2)]),
        ("scatter_nd", [rand(3, 2), np.array([[2**62]]), rand(1, 2)]),
        ("tensor_scatter", [rand(2, 3, 4), rand(2, 2, 4), np.array([0, 2])]),
        ("array_feature_extractor", [rand(2, 3), np.array([-1])]),
    ],
)
def test_an_index_out_of_range_is_reported(name, operands):
    node = make_node(name, operands)
    with pytest.raises(RunError, match=name):
        run_kernel(node, operands)


def test_layouts_are_refused():
    node = make_node("gather", [rand(3, 4), np.array([0])])
    node.operands[0].type = node.operands[0].tensor.with_(layout=Layout.of((1, 0)))
    answer = select(node)
    assert isinstance(answer, Refusal) and "row-major" in str(answer)
