"""Attention and rotary positions on CUDA against the references: heads, masks, positions, past keys, element types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import Call, Refusal

from ..cpu.harness import make_node
from ..cpu.regions import by_references, packed_attention
from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

INF = np.inf
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12, np.float16: 4e-3, ml_dtypes.bfloat16: 3e-2}
OPS = ["attention", "rotary_embedding"]


def rand(*shape: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(-2, 2, shape).astype(dtype)


def qkv(b=2, heads=4, kv=2, s=3, t=5, d=8, e=6, dtype=np.float32) -> list[np.ndarray]:
    return [rand(b, heads, s, d, dtype=dtype), rand(b, kv, t, d, seed=1, dtype=dtype), rand(b, kv, t, e, seed=2, dtype=dtype)]


def attention(operands, attrs=None, results=1) -> Case:
    tolerance = TOLERANCE[operands[0].dtype.type]
    return case("attention", operands, attrs, results, rtol=tolerance, atol=tolerance)


def sizes(dtype) -> list[Case]:
    found = [attention(qkv(b=1, s=s, t=t, d=d, e=e, dtype=dtype)) for s, t, d, e in
             [(1, 1, 1, 1), (1, 130, 8, 33), (7, 33, 63, 16), (50, 70, 130, 20), (40, 64, 64, 64), (5, 9, 16, 140)]]  # fmt: skip
    found.append(attention(qkv(b=12, heads=6, kv=6, s=70, t=20, d=20, e=24, dtype=dtype)))
    return [*found, *(attention(qkv(**{empty: 0}, dtype=dtype), results=3) for empty in "bst")]


def attributes(dtype) -> list[Case]:
    found = []
    every = [{"is_causal": 1, "left_window_size": 20}, {"is_causal": 1}, {"left_window_size": 3}, {"right_window_size": 2},
             {"softcap": 1.5}, {"scale": 0.7}]  # fmt: skip
    for attrs in every[: 1 if dtype is ml_dtypes.bfloat16 else 6]:  # whose texts differ from f16's in two words
        for s, t in ((3, 5), (60, 60), (20, 9)):
            q = qkv(s=s, t=t, d=16, e=16, dtype=dtype)
            past = [rand(2, 2, 7, 16, seed=6, dtype=dtype), rand(2, 2, 7, 16, seed=7, dtype=dtype)]
            found.append(attention([*q, rand(1, 4, s, t, seed=5)], attrs, 3))
            found.append(attention([*q, rand(2, 1, 1, t + 7) > -1, *past], attrs, 3))
            found.append(attention([*q, None, None, None, np.array([t, max(t - 4, 0)], np.int64)], attrs))
    return found


def others() -> list[Case]:
    q, mask = qkv(s=6, t=20), rand(6, 20)
    mask[1], mask[2, 3:], mask[3, :] = -INF, -INF, np.float32(-3.4e38)
    found = [attention([*q, mask])]
    q = [a.copy() for a in q]
    q[1][0, 0, 3] = np.nan
    found.append(attention([*q, mask > 0]))
    q = [a.copy() for a in q]
    q[2][1, 1, 2] = INF
    found.append(attention(q))
    return found


@needs_shim
@pytest.mark.parametrize("name", OPS)
def test_examples(name) -> None:
    cases, refused = cases_of([name])
    assert len(cases) >= 5
    assert all("the scores are asked for as a result" in r for r in refused), refused
    for c in cases:
        if c.node.operands[0].tensor.dtype.name == "f16":
            c.rtol = c.atol = TOLERANCE[np.float16]
    check(cases)


@needs_shim
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("make", [sizes, attributes])
def test_sizes_and_attributes(make, dtype) -> None:
    check(make(dtype))


@needs_shim
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_few_queries_and_many_keys(dtype) -> None:
    """Parts of the keys by different blocks, some of them with nothing to do."""
    found = []
    for t in (511, 512, 1300):
        q = qkv(b=1, s=2, t=t, d=16, e=20, dtype=dtype)
        mask = rand(2, t) > 0
        mask[1] = False
        mask[0, 300:] = False
        found += [
            attention(q),
            attention(q, {"left_window_size": 100}),
            attention([*q, mask], results=3),
            attention(q, {"is_causal": 1}),
        ]
    check(found)


@needs_shim
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_heads_in_the_last_axis(dtype) -> None:
    found = []
    for s, t, heads, kv, d, e in ((1, 1, 1, 1, 1, 1), (7, 33, 2, 2, 63, 16), (70, 70, 4, 2, 64, 64), (2, 600, 3, 1, 16, 20)):
        operands = [
            rand(2, s, heads * d, dtype=dtype),
            rand(2, t, kv * d, seed=1, dtype=dtype),
            rand(2, t, kv * e, seed=2, dtype=dtype),
        ]
        found.append(attention([*operands, rand(2, 1, s, t, seed=3)], {"q_num_heads": heads, "kv_num_heads": kv}, 3))
    check(found)


def packed(heads, kv, projections, *more, results=1, **attrs) -> Case:
    node = packed_attention(heads, kv, projections, *more, results=results, **attrs)
    arrays = [x for x, _ in projections] + [x for x in more if x is not None]
    tolerance, source = TOLERANCE[arrays[0].dtype.type], select(node)
    assert not isinstance(source, Refusal), source
    what = f"columns of {[(x.shape, sizes) for x, sizes in projections]} {attrs}"
    return Case(what, node, source, arrays, by_references(node, arrays), tolerance, tolerance)


def columns(dtype) -> list[Case]:
    past = [rand(2, 2, 7, 64, seed=6, dtype=dtype), rand(2, 2, 7, 40, seed=7, dtype=dtype)]
    across = [(rand(2, 3, 16, dtype=dtype), [16]), (rand(2, 600, 28, seed=1, dtype=dtype), [16, 12])]
    return [
        packed(2, 2, [(rand(1, 70, 384, dtype=dtype), [128, 128, 128])]),
        packed(2, 2, [(rand(2, 5, 44, dtype=dtype), [16, 16, 12])], rand(2, 1, 5, 5), is_causal=1, results=3),
        packed(4, 2, [(rand(2, 70, 464, dtype=dtype), [256, 128, 80])], None, *past, results=3),
        packed(1, 1, [(rand(2, 9, 51, dtype=dtype), [17, 17, 17])]),
        packed(2, 2, across, results=3),
    ]


@needs_shim
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_columns_of_projections(dtype) -> None:
    check(columns(dtype))


def around_tiles() -> list[Case]:
    """Sizes around those of blocks, chunks and stages of tensor cores, with masks of each width; odd ones are not read in pairs."""
    found = []
    for s, t, d in ((1, 1, 8), (15, 17, 64), (16, 127, 64), (17, 128, 40), (63, 129, 64), (65, 197, 64), (129, 64, 128), (40, 70, 96),
                    (33, 300, 32)):  # fmt: skip
        q = qkv(b=1, heads=2, kv=2, s=s, t=t, d=d, e=d, dtype=np.float16)
        found += [
            attention(q),
            attention([*q, rand(1, 1, s, t, dtype=np.float16)]),
            attention([*q, rand(s, t) > 0], {"is_causal": 1}),
        ]
    q = qkv(heads=8, s=20, t=50, d=64, e=64, dtype=np.float16)
    found += [attention(q), attention([*q, rand(2, 8, 20, 50, dtype=np.float64)])]
    mask = rand(20, 50, dtype=np.float16)
    mask[3], mask[4] = -65504, -INF
    wide = mask.astype(np.float32)
    wide[5] = np.finfo(np.float32).min
    blind = np.full((1, 1, 50), -INF, np.float16)
    return [*found, attention([*q, mask]), attention([*q, wide]), attention([*q, blind])]


@needs_shim
def test_around_the_tiles_of_tensor_cores() -> None:
    check(around_tiles())


@needs_shim
def test_long_sequences_in_16_bits() -> None:
    """Several stages, some beyond what is seen; blocks of 64, 32 and 16 rows, keys cut and not; NaN and infinities as f32 has them."""
    found = [attention(qkv(b=1, heads=h, kv=1, s=s, t=1000, d=64, e=64, dtype=np.float16), a)
             for h, s, a in ((1, 1, {}), (1, 150, {"is_causal": 1}), (4, 40, {"left_window_size": 300, "is_causal": 1}))]  # fmt: skip
    found.append(attention(qkv(b=24, heads=2, kv=2, s=130, t=140, d=32, e=32, dtype=np.float16)))
    q = qkv(b=1, heads=2, kv=2, s=20, t=200, d=64, e=64, dtype=np.float16)
    q[1][0, 0, 3, 5], q[2][0, 1, 150, 2] = np.nan, INF
    check([*found, attention(q)])


@needs_shim
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_parts_of_few_queries_are_put_together_by_the_last_block(dtype) -> None:
    """One launch has blocks then; with more queries there is a second pass."""
    few = [
        attention(qkv(b=2, heads=h, kv=2, s=s, t=1500, d=64, e=e, dtype=dtype)) for h, s, e in ((2, 1, 64), (6, 1, 40), (2, 2, 33))
    ]
    many = attention(qkv(b=1, heads=2, kv=2, s=20, t=1500, d=64, e=64, dtype=dtype))
    found = [c.source.bind(Call([x.shape for x in c.operands], [w.shape for w in c.want])) for c in (*few, many)]
    assert all(launch.scratch for launch in found)
    assert [launch.passes[1] > 0 for launch in found] == [False, False, False, True]
    check([*few, many])


@needs_shim
def test_blind_rows_infinities_and_nan() -> None:
    check(others())


def test_scores_as_a_result_are_refused() -> None:
    assert isinstance(select(make_node("attention", qkv(), results=4)), Refusal)


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    cases = cases_of(OPS)[0] + [c for dtype in TOLERANCE for c in (*sizes(dtype)[:5], *columns(dtype))]
    check_compiles([c.source.text for c in cases], arch)
