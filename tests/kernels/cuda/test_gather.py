"""Reading and writing by index on CUDA against the references; what happens to indices that are out of range."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.errors import RunError
from graphmill.ir.ops.examples import rand
from graphmill.kernels.cuda import shim

from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim, run_kernel

OPS = ["gather", "gather_elements", "gather_nd", "array_feature_extractor", "one_hot", "trilu", "range", "reverse_sequence"]
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


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(OPS)
    assert not [r for r in refused if "str" not in r and "integers" not in r], refused
    check(cases)


@needs_shim
@pytest.mark.parametrize("make", [gathers, elements, others])
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
def test_an_index_out_of_range_is_reported(name, operands, monkeypatch) -> None:
    c = case_without_reference(name, operands, monkeypatch)
    with pytest.raises(RunError, match=name):
        run_kernel(c, shim.load([c.source.text]))


def case_without_reference(name, operands, monkeypatch) -> Case:
    from graphmill.kernels.cuda.target import select

    from ..cpu.harness import make_node

    node = make_node(name, operands)
    return Case(name, node, select(node), operands, [np.zeros(v.tensor.shape, v.tensor.dtype.np) for v in node.results])


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in cases_of(OPS)[0]], arch)
