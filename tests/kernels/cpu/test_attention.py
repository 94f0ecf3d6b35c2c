"""Attention against its reference: heads, masks, positions, past keys, element types."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Refusal

from .cases import check_case
from .harness import assert_close, check_native, make_node, run_kernel
from .regions import by_references, packed_attention

NAN, INF = np.nan, np.inf


def rand(*shape: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(-2, 2, shape).astype(dtype)


def qkv(b=2, heads=4, kv=2, s=3, t=5, d=8, e=6, dtype=np.float32) -> list[np.ndarray]:
    return [rand(b, heads, s, d, dtype=dtype), rand(b, kv, t, d, seed=1, dtype=dtype), rand(b, kv, t, e, seed=2, dtype=dtype)]


def test_examples():
    share = check_native("attention")
    assert share.served >= 9
    assert set(share.refused) <= {"the scores are asked for as a result"}


@pytest.mark.parametrize("s", [1, 5, 6, 7, 49, 100])
@pytest.mark.parametrize("t", [1, 15, 33, 130])
def test_sizes(s, t):
    for d, e in ((1, 1), (8, 33), (63, 16)):
        check_case("attention", qkv(s=s, t=t, d=d, e=e), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_more_keys_than_a_stage_and_more_scores_than_a_block(dtype):
    tolerance = {np.float16: 4e-3, np.float32: 2e-5, np.float64: 1e-12}[dtype]
    for s, t in ((50, 700), (3, 256), (7, 257), (13, 12000)):
        check_case("attention", qkv(b=1, kv=1, s=s, t=t, d=16, e=20, dtype=dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("attrs", [{"is_causal": 1}, {"left_window_size": 3}, {"right_window_size": 2}, {"softcap": 1.5},
                                   {"scale": 0.7}, {"is_causal": 1, "left_window_size": 20}])  # fmt: skip
@pytest.mark.parametrize("sizes", [(3, 5), (60, 60), (20, 9)])
def test_attributes(attrs, sizes):
    s, t = sizes
    case = qkv(s=s, t=t, d=16, e=16)
    mask = rand(1, 4, s, t, seed=5)
    past = [rand(2, 2, 7, 16, seed=6), rand(2, 2, 7, 16, seed=7)]
    lens = np.array([t, max(t - 4, 0)], np.int64)
    for operands, results in (
        (case, 1),
        ([*case, mask], 3),
        ([*case, rand(2, 1, 1, t + 7) > -1, *past], 3),
        ([*case, None, None, None, lens], 1),
    ):
        check_case("attention", operands, attrs, results, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_element_types(dtype):
    tolerance = 4e-3 if dtype is np.float16 else 1e-12
    case = qkv(s=50, t=40, d=32, e=20, dtype=dtype)
    check_case("attention", [*case, rand(50, 40, dtype=dtype)], {"is_causal": 1}, rtol=tolerance, atol=tolerance)


def test_blind_rows_infinities_and_nan():
    case, mask = qkv(s=6, t=20), rand(6, 20)
    mask[1], mask[2, 3:], mask[3, :] = -INF, -INF, np.float32(-3.4e38)
    check_case("attention", [*case, mask], rtol=2e-5, atol=2e-5)
    case[1][0, 0, 3], case[2][1, 1, 2] = NAN, INF
    check_case("attention", [*case, mask > 0], rtol=2e-5, atol=2e-5)


def test_heads_in_the_last_axis():
    q, k, v = rand(2, 50, 32), rand(2, 20, 16, seed=1), rand(2, 20, 12, seed=2)
    check_case("attention", [q, k, v], {"q_num_heads": 4, "kv_num_heads": 2}, 3, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("empty", ["b", "s", "t"])
def test_empty(empty):
    check_case("attention", qkv(**{empty: 0}), results=3)


def test_scores_as_a_result_are_refused():
    case = qkv()
    assert isinstance(select(make_node("attention", case, results=4)), Refusal)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_columns_of_projections(dtype):
    tolerance = {np.float16: 4e-3, np.float32: 2e-5, np.float64: 1e-12}[dtype]
    lens, past = np.array([5, 2], np.int64), [rand(2, 2, 7, 8, seed=6, dtype=dtype), rand(2, 2, 7, 6, seed=7, dtype=dtype)]
    for heads, projections, more, results, attrs in (
        (2, [(rand(2, 5, 44, dtype=dtype), [16, 16, 12])], [], 1, {}),
        (2, [(rand(2, 50, 48, dtype=dtype), [16, 16, 16])], [rand(2, 1, 50, 50)], 3, {"is_causal": 1}),
        (4, [(rand(2, 5, 60, dtype=dtype), [32, 16, 12])], [None, *past], 3, {}),
        (4, [(rand(2, 5, 60, dtype=dtype), [32, 16, 12])], [None, None, None, lens], 1, {"is_causal": 1}),
        (2, [(rand(2, 3, 16, dtype=dtype), [16]), (rand(2, 9, 28, seed=1, dtype=dtype), [16, 12])], [], 3, {}),
        (2, [(rand(0, 5, 44, dtype=dtype), [16, 16, 12])], [], 3, {}),
    ):
        node = packed_attention(heads, 2, projections, *more, results=results, **attrs)
        arrays = [x for x, _ in projections] + [x for x in more if x is not None]
        want = by_references(node, arrays)
        for got, w in zip(run_kernel(node, arrays, [w.shape for w in want]), want, strict=True):
            assert_close(got, w, tolerance, tolerance)


def test_regions_that_are_no_columns_are_refused():
    projection = rand(2, 4, 12)
    node = packed_attention(1, 1, [(projection, [4, 4, 4])])
    split = node.regions[0].nodes[0]
    split.set_attr("axis", 1)
    assert "cut from one along its last axis" in select(node).reason
    split.set_attr("axis", 2)
    node.regions[0].set_outputs(split.results[:1])
    assert "ends in one" in select(node).reason
