"""Attention: forms that must agree with each other."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.op import InferContext
from graphmill.ir.ops.attention import attention, linear_attention, merge_heads, rotary_embedding
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, TensorType

RNG = np.random.default_rng(0)
Q, K, V = (RNG.normal(size=s).astype(np.float32) for s in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 6)))


def run(*operands: np.ndarray | None, **attrs: object) -> tuple[np.ndarray, ...]:
    with np.errstate(all="ignore"):
        return attention.reference(*operands, **attrs)


def test_rank_3_is_rank_4_with_merged_heads() -> None:
    y = run(merge_heads(Q), merge_heads(K), merge_heads(V), q_num_heads=4, kv_num_heads=2)[0]
    np.testing.assert_array_equal(y, merge_heads(run(Q, K, V)[0]))


def test_groups_are_repeated_heads() -> None:
    np.testing.assert_array_equal(run(Q, K, V)[0], run(Q, K.repeat(2, axis=1), V.repeat(2, axis=1))[0])


def test_past_is_concatenation() -> None:
    y, k, v, _ = run(Q, K[:, :, 3:], V[:, :, 3:], None, K[:, :, :3], V[:, :, :3])
    np.testing.assert_array_equal(y, run(Q, K, V)[0])
    np.testing.assert_array_equal(k, K)
    np.testing.assert_array_equal(v, V)


def test_a_window_is_a_mask() -> None:
    i, j = np.arange(3)[:, None], np.arange(5)
    mask = (j >= i - 1) & (j <= i + 2)
    np.testing.assert_array_equal(run(Q, K, V, left_window_size=1, right_window_size=2)[0], run(Q, K, V, mask)[0])


def test_queries_before_all_keys_give_zeros() -> None:
    """Two valid keys for three queries: the first sees none, the others one and two."""
    y = run(Q, K, V, None, None, None, np.array([2, 5], np.int64), is_causal=1)[0]
    assert not y[0, :, 0].any()
    np.testing.assert_allclose(y[0, :, 1], V[0, :, 0].repeat(2, axis=0), rtol=1e-6)


def test_many_equal_bf16_keys_are_summed_in_f32() -> None:
    q, k = np.zeros((1, 1, 1, 4), ml_dtypes.bfloat16), np.zeros((1, 1, 4096, 4), ml_dtypes.bfloat16)
    y = run(q, k, np.ones_like(k))[0]
    np.testing.assert_array_equal(y, np.ones_like(q))


def test_rotation_keeps_lengths() -> None:
    angle = RNG.uniform(0, 6, (6, 4)).astype(np.float32)
    y = rotary_embedding.reference(Q, np.cos(angle), np.sin(angle), np.array([[0, 3, 5]] * 2))
    np.testing.assert_allclose(np.hypot(y[..., :4], y[..., 4:]), np.hypot(Q[..., :4], Q[..., 4:]), rtol=1e-5)
    with pytest.raises(ValueError, match="positions from -1 to 5, expected 0 to 5"):
        rotary_embedding.reference(Q, np.cos(angle), np.sin(angle), np.array([[0, -1, 5]] * 2))


def test_linear_attention_continues_from_its_state() -> None:
    heads = {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "gated_delta"}
    q, k, v = (RNG.normal(size=(1, 6, 8)).astype(np.float32) * 0.5 for _ in range(3))
    decay, beta = -RNG.random((1, 6, 2)).astype(np.float32), RNG.random((1, 6, 2)).astype(np.float32)
    whole, state = linear_attention.reference(q, k, v, None, decay, beta, **heads)
    a, half = linear_attention.reference(q[:, :4], k[:, :4], v[:, :4], None, decay[:, :4], beta[:, :4], **heads)
    b, end = linear_attention.reference(q[:, 4:], k[:, 4:], v[:, 4:], half, decay[:, 4:], beta[:, 4:], **heads)
    np.testing.assert_allclose(np.concatenate([a, b], axis=1), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(end, state, rtol=1e-5, atol=1e-6)


def infer(*shapes: tuple | None, **attrs: object) -> list:
    types = [None if s is None else TensorType(F32, s) for s in shapes]
    return attention.infer(InferContext(attention, types, {k: a.default for k, a in attention.attrs.items()} | attrs, 4))


def test_symbolic_cache() -> None:
    b, s, p = symbol("b"), symbol("s"), symbol("p")
    new, past = (b, s, 128), (b, 4, p, 32)
    types = infer((b, s, 256), new, new, None, past, past, q_num_heads=8, kv_num_heads=4)
    assert [t.shape for t in types] == [(b, s, 256), (b, 4, p + s, 32), (b, 4, p + s, 32), (b, 8, s, p + s)]


@pytest.mark.parametrize("shapes, attrs, message", [
    ([(1, 2, 4), (1, 2, 4), (1, 2, 4)], {}, r"input q has shape f32\[1,2,4\], expected rank 4 or q_num_heads and kv_num_heads"),
    ([(1, 3, 2, 4), (1, 2, 5, 4), (1, 2, 5, 4)], {}, "3 query heads and 2 key heads, expected a multiple"),
    ([(1, 2, 2, 4), (1, 2, 5, 4), (1, 2, 5, 4), None, (1, 2, 3, 4)], {}, "expected past_key and past_value together"),
])  # fmt: skip
def test_wrong_operands_are_named(shapes: list, attrs: dict, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        infer(*shapes, **attrs)
