"""Reading and writing by index on CUDA against the references; what happens to indices that are out of range."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.errors import RunError
from graphmill.ir.ops.examples import rand
from graphmill.kernels.boxes import Mover
from graphmill.kernels.cuda import shim
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import Call

from ..cpu.harness import make_node, to_memory
from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, launch, needs_nvrtc, needs_shim, run_kernel

OPS = [
    "gather",
    "gather_elements",
    "gather_nd",
    "array_feature_extractor",
    "one_hot",
    "trilu",
    "range",
    "reverse_sequence",
    "scatter_elements",
    "scatter_nd",
    "tensor_scatter",
]
DTYPES = [np.int8, np.float16, np.float32, np.float64, np.complex128, ml_dtypes.uint4]


def numbered(shape: tuple[int, ...], dtype: object = np.float32) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


def some(r: np.random.Generator, n: int, shape: tuple[int, ...]) -> np.ndarray:
    return r.integers(-n, n, shape).astype(r.choice([np.int32, np.int64]))


def gathers() -> list[Case]:
    r, found = np.random.default_rng(1), []
    for dtype in DTYPES:
        for _ in range(8):
            shape = tuple(r.integers(1, 6, r.integers(1, 5)).tolist())
            axis, indices = int(r.integers(-len(shape), len(shape))), tuple(r.integers(0, 4, r.integers(0, 3)))
            found.append(case("gather", [numbered(shape, dtype), some(r, shape[axis], indices)], {"axis": axis}))
    found.append(case("gather", [numbered((300, 96)), some(r, 300, (5, 40))]))
    found.append(case("gather", [numbered((3, 50, 20)), some(r, 50, (70,))], {"axis": 1}))
    found.append(case("gather", [np.zeros((0, 3), np.float32), np.zeros((0,), np.int64)]))
    found.append(case("gather", [np.zeros((2, 0), np.float32), np.array([1, 0])]))
    x = numbered((2, 3, 4, 5))
    for batch in range(3):
        for depth in range(1, 4 - batch + 1):
            index = np.stack([r.integers(-n, n, (*x.shape[:batch], 3)) for n in x.shape[batch : batch + depth]], -1)
            found.append(case("gather_nd", [x, index], {"batch_dims": batch}))
    return found


def elements() -> list[Case]:
    r, found = np.random.default_rng(2), []
    for _ in range(30):
        shape = tuple(r.integers(1, 6, r.integers(1, 5)).tolist())
        axis = int(r.integers(-len(shape), len(shape)))
        inner = tuple(int(r.integers(0, 7)) if a == axis % len(shape) else int(r.integers(1, n + 1)) for a, n in enumerate(shape))
        x = numbered(shape, r.choice([np.uint8, np.float32, np.int64]))
        found.append(case("gather_elements", [x, some(r, shape[axis], inner)], {"axis": axis}))
    found.append(case("gather_elements", [numbered((30, 40)), some(r, 40, (30, 70))], {"axis": 1}))
    return found


def others() -> list[Case]:
    found = []
    for upper in (0, 1):
        for k in (None, -(2**63), -3, 0, 2, 2**63 - 1):
            shift = None if k is None else np.int64(k)
            found += [case("trilu", [numbered(s) + 1, shift], {"upper": upper}) for s in ((3, 5), (2, 0, 4), (2, 6, 3), (70, 33))]
        found.append(case("trilu", [numbered((40, 40), np.uint8) + 1, None], {"upper": upper}))
    for t in (np.int16, np.int32, np.int64, np.float32, np.float64):
        found += [case("range", [np.asarray(v, t) for v in (3, stop, 2)]) for stop in (3, 4, 2071)]
    lens = np.array([0, 3, 7, 1], np.int64)
    for t in (np.int8, np.float32, np.complex128):
        found.append(case("reverse_sequence", [numbered((7, 4, 6), t), lens], {"time_axis": 0, "batch_axis": 1}))
        found.append(case("reverse_sequence", [numbered((4, 7, 16), t), lens], {"time_axis": 1, "batch_axis": 0}))
    for axis in (0, 1, -1):
        index = np.random.default_rng(4).integers(-12, 12, (7, 30))
        found.append(case("one_hot", [index, np.int64(9), np.array([0, 1], np.float16)], {"axis": axis}, constants=(1,)))
    return found


def scatters() -> list[Case]:
    r, found = np.random.default_rng(3), []
    for reduction in ("none", "add", "mul", "max", "min"):
        for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint16, np.int64):
            x, updates = r.integers(0, 4, (3, 4)).astype(dtype), r.integers(0, 4, (3, 9)).astype(dtype)
            attrs = {"axis": 1, "reduction": reduction}
            found.append(case("scatter_elements", [x, r.integers(-4, 4, (3, 9)), updates], attrs))
            rows = r.integers(0, 4, (9, 4)).astype(dtype)
            found.append(case("scatter_nd", [x, r.integers(-3, 3, (9, 1)), rows], {"reduction": reduction}))
        # Sums of floats show the order in which they were made.
        x, updates = rand(5, 7), rand(600, 7, seed=1)
        found.append(case("scatter_nd", [x, r.integers(0, 5, (600, 1)), updates], {"reduction": reduction}, rtol=0, atol=0))
        index = r.integers(-5, 5, (1000, 7))
        x, updates, attrs = rand(5, 7), rand(1000, 7, seed=1), {"axis": 0, "reduction": reduction}
        found.append(case("scatter_elements", [x, index, updates], attrs, rtol=0, atol=0))
    for reduction in ("max", "min"):
        x, updates = np.array([1, np.nan, 3], np.float32), np.array([np.nan, 1, 9], np.float32)
        found.append(case("scatter_nd", [x, np.array([[0], [1], [2]]), updates], {"reduction": reduction}))
    x = rand(4, 3) + 1j * rand(4, 3, seed=1)
    found.append(case("scatter_nd", [x, np.array([[3], [0]]), x[:2] * 2]))
    found.append(case("scatter_nd", [x, np.array([[2]]), x[:1] * 2]))
    found.append(case("scatter_nd", [rand(40, 70), r.integers(0, 40, (30, 1)), rand(30, 70, seed=1)]))
    found.append(case("scatter_nd", [rand(3, 0), np.array([[1], [2]]), rand(2, 0)]))
    for mode in ("linear", "circular"):
        for start in (None, np.array([1, 3])):
            operands = [rand(2, 3, 5, 4), rand(2, 3, 2, 4, seed=1), start]
            found.append(case("tensor_scatter", operands, {"mode": mode}))
    for t in (np.int8, np.float16, np.complex128):
        operands = [numbered((2, 3, 5, 4), t), numbered((2, 3, 13, 4), t), np.array([2**62, -7])]
        found.append(case("tensor_scatter", operands, {"mode": "circular"}))
    return found


@needs_shim
def test_one_constant_index_is_a_box() -> None:
    """It is copied as a slice is, or not at all."""
    x, found = numbered((3, 5, 4)), []
    for axis in (0, 1, -1):
        for index in (np.int64(2), np.array([-1]), np.array([[1]], np.int32)):
            node = make_node("gather", [x, index], {"axis": axis}, constants=(1,))
            want = np.take(x, index, axis)
            found.append(Case(f"gather {axis} {index}", node, select(node), [x, index], [want]))  # type: ignore[arg-type]
    assert all(isinstance(c.source, Mover) for c in found)
    check(found)
    assert not isinstance(select(make_node("gather", [x, np.array([0, 1])], {"axis": 0}, constants=(1,))), Mover)


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(OPS)
    assert not [r for r in refused if "str" not in r and "integers" not in r], refused
    check(cases)


@needs_shim
@pytest.mark.parametrize("make", [gathers, elements, others, scatters])
def test_sizes(make) -> None:
    check(make())


@needs_shim
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
        ("reverse_sequence", [rand(3, 2), np.array([1, 4])]),
    ],
)
def test_an_index_out_of_range_is_reported(name, operands) -> None:
    c = without_reference(name, operands)
    with pytest.raises(RunError, match=name):
        run_kernel(c, shim.load([c.source.text]))


def without_reference(name, operands) -> Case:
    node = make_node(name, operands)
    return Case(name, node, select(node), operands, [np.zeros(v.tensor.shape, v.tensor.dtype.np) for v in node.results])


@needs_shim
def test_scatter_in_place() -> None:
    x, rows = rand(5, 6), np.array([[1], [4], [1]])
    c = case("scatter_nd", [x, rows, rand(3, 6, seed=1)])
    assert c.source.in_place == {0}
    node, kernel = c.node, shim.load([c.source.text])[c.source.text]
    arrays = [to_memory(a, v.tensor) for a, v in zip(c.operands, node.operands, strict=True)]
    launch(c.source, Call([a.shape for a in arrays], [x.shape]), arrays, [arrays[0]], kernel)
    np.testing.assert_array_equal(arrays[0], c.want[0])


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in cases_of(OPS)[0]], arch)
