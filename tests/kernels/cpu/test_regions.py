"""Regions around a reduction, a softmax or a normalization against their operators one by one."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Refusal

from .harness import assert_close, run_kernel
from .regions import apply, by_references, fused


def rand(*shape: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(-2, 2, shape).astype(dtype)


def check(build, *arrays, kernel, rtol=None, atol=None, **kw):
    node = fused(build, *arrays, kernel=kernel, **kw)
    source = select(node)
    assert not isinstance(source, Refusal), source
    for got, want in zip(run_kernel(node, arrays, source=source), by_references(node, arrays), strict=True):
        assert_close(got, want, rtol, atol)


def axes_of(g, axes):
    return g.module.add_const("axes" + "_".join(map(str, axes)), np.array(axes, np.int64))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
@pytest.mark.parametrize("axes", [(1,), (0,), (0, 2), (2,), (0, 1, 2)])
@pytest.mark.parametrize("name", ["reduce_sum", "reduce_max", "reduce_mean", "reduce_log_sum_exp"])
def test_reductions(name, axes, dtype):
    if dtype is np.int32 and name == "reduce_log_sum_exp":
        pytest.skip("of floats only")
    x, y, s = rand(3, 5, 70, dtype=dtype), rand(3, 5, 70, seed=1, dtype=dtype), rand(1, seed=2, dtype=dtype)
    kept = rand(*(1 if a in axes else d for a, d in enumerate(x.shape)), seed=3, dtype=dtype)

    def build(g, i):
        inside = apply(g, "mul", apply(g, "abs", apply(g, "sub", i[0], i[1])), i[2])
        total = apply(g, name, inside, axes_of(g, axes))
        return [apply(g, "relu", apply(g, "sub", apply(g, "mul", total, i[2]), i[3]))]

    tolerance = 4e-3 if dtype is np.float16 else 1e-5
    check(build, x, y, s, kept, kernel="reduce", rtol=tolerance, atol=tolerance)


def test_a_reduction_to_bools_in_channels_last():
    x = rand(2, 40, 5, 6)

    def build(g, i):
        total = apply(g, "reduce_sum", apply(g, "mul", i[0], i[0]), axes_of(g, (2, 3)), keepdims=0)
        return [apply(g, "greater", total, g.module.add_const("c", np.float32(40)))]

    check(build, x, kernel="reduce", layout=channels_last(4))


def test_regions_that_no_reduction_serves():
    x, row = rand(3, 5), rand(5)

    def broadcast(g, i):
        return [apply(g, "reduce_sum", apply(g, "mul", i[0], i[1]), axes_of(g, (1,)))]

    def two(g, i):
        total = apply(g, "reduce_sum", i[0], axes_of(g, (1,)))
        return [apply(g, "reduce_sum", total, axes_of(g, (0,)))]

    assert "broadcast" in str(select(fused(broadcast, x, row, kernel="reduce")))
    assert isinstance(select(fused(two, x, kernel="reduce")), Refusal)
