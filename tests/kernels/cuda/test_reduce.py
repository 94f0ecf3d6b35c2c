"""Reductions on CUDA: all examples, every set of axes, short, long and empty lines, lines that several blocks share."""

from __future__ import annotations

import itertools
from typing import Any

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, I64, TensorType, dtype_of
from graphmill.kernels.cuda.target import select
from graphmill.kernels.reductions import REDUCTIONS
from graphmill.kernels.spec import Call, Refusal

from ..cpu.harness import make_node, reference
from ..cpu.regions import apply, by_references, fused
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

NAMES = sorted(REDUCTIONS)


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).uniform(-2, 2, shape).astype(np.float32)


def reduced(name: str, x: np.ndarray, axes: tuple[int, ...], rtol: float | None = None, atol: float | None = None,
            symbolic: bool = False, layout: Any = None, **attrs: Any) -> Case:  # fmt: skip
    a = np.array(axes, np.int64)
    shape = tuple(symbol(f"d{i}", 0) for i in range(x.ndim)) if symbolic else x.shape
    types = [TensorType(dtype_of(x), shape, layout), TensorType(I64, a.shape)]
    node = make_node(name, [x, a], attrs, types=types, constants=(1,))
    if layout is not None:
        node.results[0].type = node.results[0].tensor.with_(layout=layout)
    source = select(node)
    assert not isinstance(source, Refusal), source
    what = f"{name} {x.dtype}{list(x.shape)} over {axes}"
    return Case(what, node, source, [x, a], reference(OPS[name], [x, a], attrs), rtol, atol)


def by_hand(build: Any, *arrays: np.ndarray, constants: tuple[int, ...] = (), kernel: str = "reduce", layout: Any = None,
            tolerance: tuple[float, float] = (2e-6, 1e-5)) -> Case:  # fmt: skip
    node = fused(build, *arrays, kernel=kernel, constants=constants, layout=layout)
    source = select(node)
    assert not isinstance(source, Refusal), source
    return Case("region", node, source, arrays, by_references(node, arrays), *tolerance)


def axes_of(g: Any, axes: tuple[int, ...]) -> Any:
    return g.module.add_const("axes" + "_".join(map(str, axes)), np.array(axes, np.int64))


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(NAMES)
    assert len(cases) > 150
    assert not refused
    check(cases)


AXES = [axes for n in range(1, 5) for axes in itertools.combinations(range(4), n)]


@needs_shim
def test_every_set_of_axes() -> None:
    shapes = ((3, 4, 5, 70), (2, 3, 2, 5), (1, 7, 1, 3), (4, 0, 2, 3))
    check([reduced("reduce_sum", rand(*s), axes, 1e-5, 1e-5, keepdims=k) for s in shapes for axes in AXES for k in (0, 1)])


LENGTHS = [(1, 200001), (200001, 1), (60001, 2), (3, 33000), (700, 45), (5, 4096), (513, 3), (40, 64), (1, 1), (0, 3), (3, 0)]


@needs_shim
def test_lengths() -> None:
    """Short and long lines, of known and unknown length, for which one kernel serves."""
    full = [np.full(s, 0.1, np.float32) for s in LENGTHS]
    cases = [reduced("reduce_sum", x, (axis,), 4e-6, 0, symbolic) for x in full for axis in (0, 1) for symbolic in (False, True)]
    assert len({c.source.text for c in cases}) == 5
    names = ("reduce_log_sum_exp", "reduce_l2", "reduce_max", "reduce_mean")
    cases += [reduced(n, rand(*s), (axis,), 1e-5, 1e-5, True) for n in names for s in LENGTHS[1:8] for axis in (0, 1)]
    split = [c for c in cases if len(c.source.bind(Call([x.shape for x in c.operands], [w.shape for w in c.want])).passes) > 1]
    assert len(split) > 10
    check(cases)


@needs_shim
def test_types() -> None:
    cases = []
    for dtype in (np.float16, np.float64, np.int64, np.int32, np.uint8, np.int8):
        x = (rand(6, 1030) * 20).astype(dtype)
        names = ["reduce_max", "reduce_min"] + ["reduce_sum", "reduce_mean", "reduce_l1"] * (x.itemsize > 1)
        rtol = 2e-3 if dtype is np.float16 else None
        cases += [reduced(n, x, (axis,), rtol, rtol and 1e-2) for n in names for axis in (0, 1)]
    check(cases)


@needs_shim
@pytest.mark.parametrize("name", ["reduce_max", "reduce_min"])
def test_nan_reaches_the_result(name: str) -> None:
    x = np.zeros((4, 700), np.float32)
    for row, column in ((1, 699), (2, 3)):
        x[row, column] = np.nan
    check([reduced(name, x, (axis,)) for axis in (0, 1)] + [reduced(name, x.astype(np.float64), (1,))])


@needs_shim
def test_channels_last() -> None:
    x = rand(2, 3, 4, 5)
    check([reduced("reduce_mean", x, axes, 1e-6, 1e-6, layout=channels_last(4)) for axes in AXES])


@needs_shim
def test_regions() -> None:
    """Elementwise nodes before and behind a reduction."""
    x, y, one, scale = rand(3, 5, 70), rand(3, 5, 70), np.float32([[[0.5]]]), rand(3, 5, 1)

    def rows(g: Any, i: Any) -> list[Any]:
        product = apply(g, "mul", apply(g, "sub", i[0], i[2]), i[1])
        return [apply(g, "exp", apply(g, "mul", apply(g, "reduce_mean", product, axes_of(g, (2,)), keepdims=1), i[3]))]

    def columns(axes: tuple[int, ...]) -> Any:
        def build(g: Any, i: Any) -> list[Any]:
            total = apply(g, "reduce_log_sum_exp", apply(g, "mul", i[0], i[1]), axes_of(g, axes), keepdims=0)
            return [apply(g, "sqrt", apply(g, "abs", total))]

        return build

    cases = [by_hand(rows, x, y, one, scale), by_hand(rows, *(a.astype(np.float64) for a in (x, y, one, scale)))]
    cases += [by_hand(columns(axes), x, y) for axes in ((0,), (1,), (0, 1), (0, 2), (0, 1, 2))]
    halves = [a.astype(np.float16) for a in (x, y, one, scale)]
    check([*cases, by_hand(rows, *halves, tolerance=(4e-3, 1e-3))])


def test_refused() -> None:
    assert "not constant" in str(select(make_node("reduce_sum", [rand(2, 3), np.array([0])])))
    node = make_node("reduce_sum", [rand(2, 3, 4, 5), np.array([0])],
                     types=[TensorType(F32, (2, 3, 4, 5), channels_last(4)), TensorType(I64, (1,))], constants=(1,))  # fmt: skip
    node.results[0].type = node.results[0].tensor.with_(layout=None)
    assert isinstance(select(node), Refusal)
    big = reduced("reduce_sum", rand(2, 2), (1,), symbolic=True)
    with pytest.raises(ValueError, match="2\\^31"):
        big.source.bind(Call([(1 << 16, 1 << 16), (1,)], [(1 << 16, 1)]))


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    cases = cases_of(NAMES)[0] + [
        reduced("reduce_log_sum_exp", rand(2, 3, 4), axes, symbolic=True) for axes in ((0, 2), (1,), (0, 1))
    ]
    check_compiles([c.source.text for c in cases], arch)
