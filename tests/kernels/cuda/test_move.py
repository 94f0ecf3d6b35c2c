"""Data movement on CUDA against the references: every item size, layouts, tiles, many boxes, empty and scalar tensors."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.layout import Layout
from graphmill.ir.ops.examples import rand
from graphmill.kernels.boxes import Mover
from graphmill.kernels.moves import movers

from ..cpu import harness as cpu_harness
from . import harness
from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

DTYPES = [np.uint8, np.float16, np.float32, np.int64, np.complex128, np.bool_, ml_dtypes.int4, ml_dtypes.float8_e4m3fn]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def random_bytes(shape: tuple[int, ...], dtype: object = np.float32) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.random.default_rng((1, *shape)).integers(0, 120, size, np.uint8).view(np.dtype(dtype)).reshape(shape)


def transposes() -> list[Case]:
    shapes = [(), (1,), (70, 130), (3, 67, 33), (1000, 3), (3, 1000), (40, 5, 64), (2, 3, 4, 5), (0, 3), (33, 2, 18, 4)]
    return [
        case("transpose", [random_bytes(shape, dtype)], {"perm": perm})
        for dtype in (np.uint8, np.uint16, np.float32, np.float64, np.complex128)
        for shape in shapes
        for perm in itertools.permutations(range(len(shape)))
        if len(shape) < 4 or dtype is np.float32
    ]


def slices() -> list[Case]:
    x, found = random_bytes((6, 7, 40), np.int32), []
    for bounds in itertools.product(
        [(0, 6, 1), (5, -9, -2)], [(1, 7, 3)], [(0, 40, 1), (3, 36, 1), (4, 40, 1), (39, -99, -1), (1, 2, 5)]
    ):
        starts, ends, steps = (ints(*b) for b in zip(*bounds, strict=True))
        found += [case("slice", [y, starts, ends, ints(0, 1, 2), steps]) for y in (x, x.astype(np.int8), x.astype(np.complex128))]
    return found


def pads() -> list[Case]:
    found = []
    for mode, (shape, amounts) in itertools.product(
        ("constant", "reflect", "edge", "wrap"),
        (((5, 6), (1, 2, 3, 4)), ((3, 32), (0, 16, 1, 0)), ((4, 4, 4), (3, 3, 3, 3, 3, 3)), ((5, 6), (-1, 2, 0, -3))),
    ):
        for dtype in (np.uint8, np.float32, np.complex128):
            value = np.asarray(7, dtype) if mode == "constant" and dtype is not np.float32 else None
            found.append(case("pad", [random_bytes(shape, dtype), ints(*amounts), value], {"mode": mode}))
    return found


def others() -> list[Case]:
    r = random_bytes
    found = [case("concat", [r((3, n), t) for n in (1, 4, 8, 3)], {"axis": 1}) for t in DTYPES]
    found += [case("concat", [r((n, 5)) for n in range(9)], {"axis": 0}), case("concat", [r((40, 3, 1))] * 5, {"axis": 2})]
    found += [case("split", [r((6, 64), t), ints(16, 40, 8)], {"axis": 1}, results=3) for t in DTYPES]
    found += [
        case("expand", [r(a, t), ints(*b)]) for t in DTYPES for a, b in [((1,), (1000,)), ((7, 1), (3, 7, 65)), ((5,), (9, 5))]
    ]
    found += [case("tile", [r(a, t), ints(*b)]) for t in DTYPES for a, b in [((3, 5), (2, 3)), ((4, 1), (1, 100)), ((2,), (0,))]]
    found += [case("constant_of_shape", [ints(*s)], {"value": np.array([v], t)})
              for t, v in [(np.int8, -5), (np.int16, -5), (np.float32, 0.5), (np.float64, 1), (np.complex128, 1 + 2j)]
              for s in [(3, 0, 2), (300, 500), (), (1031,)]]  # fmt: skip
    found += [case("eye_like", [np.zeros((5, 7), t)], {"k": k}) for k in (-7, -2, 0, 1, 3, 9) for t in (np.float16, np.float64)]
    return found


def layouts() -> list[Case]:
    found, x, amounts = [], rand(2, 3, 4, 5), ints(0, 0, 1, 2, 0, 0, 3, 1)
    for perm in ((0, 2, 3, 1), (3, 1, 0, 2)):
        layout = Layout.of(perm)
        found.append(case("transpose", [x], {"perm": (1, 0, 3, 2)}, layouts=[layout]))
        found.append(case("to_layout", [x], {"layout": str(layout)}, result_layout=layout))
        found.append(case("to_layout", [rand(2, 64, 9, 9)], {"layout": str(layout)}, result_layout=layout))
        found.append(case("to_layout", [rand(2, 64, 9, 9)], {}, layouts=[layout]))
        found.append(case("concat", [x, x[:, :1], x], {"axis": 1}, layouts=[layout, None, layout], result_layout=layout))
        found.append(case("pad", [x, amounts], {"mode": "reflect"}, constants=(1,), layouts=[layout], result_layout=layout))
    return found


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(movers())
    assert len(cases) > 50
    assert not [r for r in refused if "str" not in r], refused
    check(cases)


@needs_shim
@pytest.mark.parametrize("make", [transposes, slices, pads, others, layouts])
def test_moves(make) -> None:
    check(make())


@needs_shim
def test_unaligned_memory(monkeypatch) -> None:
    """Operands and results lie at any multiple of their item size."""

    def shifted(shape, dtype):
        size = math.prod(shape)
        return place((size + 1,), dtype)[1:].reshape(shape)

    cases, place = [c for c in [*slices(), *transposes(), *others()] if c.want[0].size], cpu_harness.aligned_empty
    for module in (harness, cpu_harness):
        monkeypatch.setattr(module, "aligned_empty", shifted)
    check(cases)


def test_one_text_serves_all_of_a_size() -> None:
    """Texts depend on the item size and on how many operands and results there are, on nothing else."""
    first = case("transpose", [rand(2, 3, 4)], {"perm": (2, 0, 1)}).source
    assert isinstance(first, Mover)
    assert first.text == case("transpose", [rand(5, 6, dtype=np.int32)]).source.text
    assert first.text == case("depth_to_space", [rand(1, 8, 2, 3)], {"blocksize": 2}).source.text
    assert first.text != case("transpose", [rand(5, 6, dtype=np.float64)]).source.text


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([case("transpose", [random_bytes((2, 3), t)]).source.text for t in DTYPES[:5]], arch)
