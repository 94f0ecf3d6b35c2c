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


ROWS = [1, 3, 16, 70]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("n", ROWS)
def test_softmax_of_masked_scores(name, dtype, n):
    x, mask, scale = rand(2, 3, 4, n, dtype=dtype), rand(2, 1, 1, n, seed=1, dtype=dtype), rand(3, 1, 1, seed=2, dtype=dtype)
    seen = rand(4, n, seed=3) > -1

    def build(g, i):
        scores = apply(g, "add", apply(g, "mul", i[0], i[2]), i[1])
        return [apply(g, name, apply(g, "where", i[3], scores, g.module.add_const("low", np.array(-100, dtype))), axis=-1)]

    check(build, x, mask, scale, seen, kernel="rows", rtol=4e-3 if dtype is np.float16 else 5e-6)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("n", ROWS)
def test_a_residual_and_its_norm(name, n):
    x, residual, gate = rand(2, 5, n), rand(2, 5, n, seed=1), rand(2, 1, 1)
    bias, scale, shift = (rand(n, seed=k) for k in (2, 3, 4))

    def build(g, i):
        total = apply(g, "add", apply(g, "add", i[0], i[2]), i[1])
        norm = apply(g, name, *((total, i[3], i[4]) if name == "layer_norm" else (total, i[3])))
        return [total, apply(g, "add", apply(g, "mul", norm, i[5]), total)]

    def build_one(g, i):
        total = apply(g, "add", i[0], i[1])
        return [total, apply(g, name, total, i[2])]

    check(build, x, residual, bias, scale, shift, gate, kernel="rows", rtol=2e-5, atol=2e-5)
    check(build_one, x, residual, scale, kernel="rows", rtol=2e-5, atol=2e-5)


def test_rows_over_two_axes_and_none():
    def build(g, i):
        return [apply(g, "tanh", apply(g, "layer_norm", apply(g, "neg", i[0]), i[1], axis=1))]

    check(build, rand(3, 4, 5), rand(4, 5), kernel="rows", rtol=1e-5, atol=1e-5)
    check(build, rand(0, 4, 5), rand(4, 5), kernel="rows")


def test_regions_that_no_rows_serve():
    def middle(g, i):
        return [apply(g, "softmax", apply(g, "neg", i[0]), axis=1)]

    def within(g, i):
        return [apply(g, "layer_norm", apply(g, "add", i[0], i[1]), i[2], axis=1)]

    assert "last" in str(select(fused(middle, rand(2, 3, 4), kernel="rows")))
    assert "within the row" in str(select(fused(within, rand(2, 3, 4), rand(4), rand(3, 4), kernel="rows")))
