"""Along one axis on CUDA: places of extremes, hardmax, running sums and products."""

from __future__ import annotations

from typing import Any

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.errors import RunError
from graphmill.ir.op import OPS
from graphmill.ir.symbols import symbol
from graphmill.ir.types import BF16, TensorType, dtype_of
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import Call, Refusal

from ..cpu.harness import make_node, reference
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

NAMES = ["arg_max", "arg_min", "hardmax", "cum_sum", "cum_prod"]


def case(name: str, operands: list[Any], attrs: dict[str, Any], rtol: float | None = None, atol: float | None = None,
         symbolic: bool = False) -> Case:  # fmt: skip
    x = operands[0]
    shape = tuple(symbol(f"d{i}", 0) for i in range(x.ndim)) if symbolic else x.shape
    types = [TensorType(dtype_of(x), shape), *(TensorType(dtype_of(v), np.shape(v)) for v in operands[1:])]
    node = make_node(name, operands, attrs, types=types)
    source = select(node)
    assert not isinstance(source, Refusal), source
    what = f"{name} {x.dtype}{list(x.shape)} {operands[1:]} {attrs}"
    return Case(what, node, source, operands, reference(OPS[name], operands, attrs), rtol, atol)


def passes(c: Case) -> int:
    host = {i: np.asarray(c.operands[i]) for i in c.source.host}
    return len(c.source.bind(Call([np.shape(x) for x in c.operands], [w.shape for w in c.want], host)).passes)


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(NAMES)
    assert len(cases) > 40
    assert not refused
    check(cases)


SHAPES = ((3, 1), (3, 5), (2, 33), (4, 300), (3, 7, 5), (2, 9, 70), (2, 3, 130), (2, 70001), (30001, 2))


def extremes(name: str, dtype: Any) -> list[Case]:
    random, cases = np.random.default_rng(0), []
    for shape in SHAPES:
        x = random.integers(0, 20, shape).astype(dtype)
        if np.issubdtype(dtype, np.floating) and x.size > 40:
            x.ravel()[random.integers(0, x.size, 9)] = [np.nan, np.nan, np.inf, -np.inf, np.nan, 0, -0.0, np.inf, -np.inf]
        for axis in range(len(shape)):
            if name == "hardmax":
                cases += [case(name, [x], {"axis": axis}, symbolic=v) for v in (False, True)]
            else:
                cases += [case(name, [x], {"axis": axis, "select_last_index": last}, symbolic=bool(last)) for last in (0, 1)]
    return cases


@needs_shim
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int64])
def test_places_of_extremes(dtype: Any) -> None:
    names = ["arg_max", "arg_min"] + ["hardmax"] * np.issubdtype(dtype, np.floating)
    cases = [c for name in names for c in extremes(name, dtype)]
    assert {passes(c) for c in cases} == {1, 2}
    check(cases)


def test_an_empty_line_has_no_extreme() -> None:
    x = np.zeros((3, 0), np.float32)
    node = make_node("arg_max", [x], {"axis": 1}, types=[TensorType(dtype_of(x), (3, symbol("n", 0)))])
    source = select(node)
    assert not isinstance(source, Refusal)
    with pytest.raises(RunError, match="empty"):
        source.bind(Call([(3, 0)], [(3, 1)]))


@needs_shim
def test_running_sums() -> None:
    """Of integers the same bits; of floats in another order than one by one."""
    cases = []
    for shape in ((3, 4, 5), (1, 1, 1), (2, 1, 1030), (2, 1030, 3), (0, 2, 3), (2, 0, 3), (1, 40000, 1), (1, 9000, 2)):
        x = np.random.default_rng(shape).integers(-9, 9, shape)
        for axis in (0, -1, 1):
            for exclusive, reverse in ((0, 0), (1, 0), (0, 1), (1, 1)):
                attrs = {"exclusive": exclusive, "reverse": reverse}
                cases.append(case("cum_sum", [x, np.int64(axis)], attrs))
                if x.size < 5000:
                    cases.append(case("cum_sum", [x.astype(np.float64) / 8, np.int64(axis)], attrs, 1e-12, 1e-12))
                    cases.append(case("cum_prod", [x.astype(np.int32), np.int64(axis)], attrs))
    assert {passes(c) for c in cases} == {1, 2}
    y = np.random.default_rng(1).uniform(0, 1, (3, 3000)).astype(np.float32)
    cases += [case("cum_sum", [y, np.int64(1)], {}, 1e-5, 1e-5), case("cum_prod", [y[:, :30] + 0.5, np.int64(1)], {}, 1e-5, 1e-6)]
    cases += [case("cum_sum", [y[:, :50].astype(BF16.np), np.int64(a)], {}, 2e-2, 1e-2) for a in (0, 1)]
    check(cases)


def test_refused() -> None:
    assert "numbers along an axis" in str(select(make_node("cum_sum", [np.float32(1), np.int64(0)])))


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    cases = [*cases_of(NAMES)[0], *(c for n in ("arg_max", "hardmax") for c in extremes(n, np.float16))]
    check_compiles(list(dict.fromkeys(c.source.text for c in cases)), arch)
