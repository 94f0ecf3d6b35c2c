"""Grid sampling on CUDA against the reference: modes, padding, corners, types, positions that are no numbers, several channels a
thread."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from graphmill.ir.ops.examples import rand
from graphmill.kernels.cuda import grid_sample
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import Call, KernelSource, Refusal

from ..cpu.harness import make_node
from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

CLOSE = {"rtol": 2e-5, "atol": 5e-6}
MODES = list(itertools.product(("linear", "nearest"), ("zeros", "border", "reflection"), (0, 1)))


def modes() -> list[Case]:
    found = []
    for mode, padding, corners in MODES:
        attrs = {"mode": mode, "padding_mode": padding, "align_corners": corners}
        for shape, size in [((2, 3, 9, 7), (20, 31)), ((1, 2, 1, 4), (1, 5)), ((3, 1, 5, 1), (3, 3)), ((2, 9, 4, 6), (17, 16))]:
            found.append(case("grid_sample", [rand(*shape), rand(shape[0], *size, 2, lo=-3.5, hi=3.5)], attrs, **CLOSE))
    return found


def others() -> list[Case]:
    grid, found = rand(1, 4, 5, 2, lo=-1.3, hi=1.3), []
    for dtype in (np.float64, np.float16):
        x = rand(1, 2, 6, 5, dtype=dtype)
        found.append(case("grid_sample", [x, grid], {}, rtol=2e-3, atol=2e-3))
        found.append(case("grid_sample", [x, grid.astype(dtype)], {"padding_mode": "border"}, rtol=2e-3, atol=2e-3))
    for dtype in (np.uint8, np.int64, np.bool_):
        found.append(case("grid_sample", [rand(1, 2, 6, 5, dtype=dtype, hi=2), grid], {"mode": "nearest"}))
    wild = np.array([[[[np.nan, 0], [np.inf, 0], [0, -np.inf], [1e30, -1e30]]]], np.float32)
    for mode, padding in itertools.product(("linear", "nearest"), ("zeros", "border")):
        with np.errstate(invalid="ignore"):
            found.append(case("grid_sample", [rand(1, 2, 3, 4), wild], {"mode": mode, "padding_mode": padding}))
    for shape in ((1, 2, 0, 4), (1, 0, 3, 4)):
        found.append(case("grid_sample", [rand(*shape), rand(1, 2, 2, 2)], {}))
    found.append(case("grid_sample", [rand(1, 2, 3, 4), rand(1, 0, 2, 2)], {}))
    return found


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(["grid_sample"])
    assert cases and all("two axes only" in r for r in refused), refused
    for c in cases:
        c.rtol, c.atol = CLOSE["rtol"], CLOSE["atol"]
    check(cases)


@needs_shim
@pytest.mark.parametrize("few, many", [(grid_sample.FEWEST, grid_sample.MANY), (1, 1), (2, 1 << 30)])
def test_modes_and_types(few: int, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With four, all and two channels a thread."""
    monkeypatch.setattr(grid_sample, "FEWEST", few)
    monkeypatch.setattr(grid_sample, "MANY", many)
    check(modes() + others())


def test_threads() -> None:
    node = make_node("grid_sample", [rand(1, 2, 3, 4), rand(1, 2, 2, 2)], {})
    source = select(node)
    assert isinstance(source, KernelSource)
    few = source.bind(Call([(1, 64, 20, 20), (1, 10, 10, 2)], [(1, 64, 10, 10)]))
    many = source.bind(Call([(8, 64, 200, 200), (8, 300, 300, 2)], [(8, 64, 300, 300)]))
    assert few.ints[-1] == 4 and few.ints[0] == 100 * 16
    assert many.ints[-1] == 32 and many.ints[0] == 8 * 300 * 300 * 2
    with pytest.raises(ValueError, match="a grid for 2 images"):
        source.bind(Call([(1, 2, 3, 4), (2, 2, 2, 2)], [(1, 2, 2, 2)]))


def test_refused() -> None:
    node = make_node("grid_sample", [rand(1, 2, 3, 4), rand(1, 2, 2, 2)], {"mode": "cubic"})
    assert isinstance(select(node), Refusal)


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in modes() + others()], arch)
