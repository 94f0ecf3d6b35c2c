"""Attention over heads, its linear relative, and rotary positions."""

from __future__ import annotations

import math

import numpy as np

from ..limits import claim
from ..op import InferContext, Onnx, dtype_attrs, ex, op
from ..symbols import DimLike, exact_quotient, floordiv
from ..types import BF16, BOOL, F16, F32, F64, FLOATS, I64, NUMERIC, TensorType
from .common import expect_choice, expect_rank, expect_shape, same_dtype, wide
from .examples import rand

SMALL = frozenset({F32, F16, BF16})  # what the newer operators take: no f64


def split_heads(x: np.ndarray, heads: int | None) -> np.ndarray:
    """x[B,S,heads*D] as [B,heads,S,D]; a tensor of rank 4 as it is."""
    if x.ndim == 4 or heads is None:
        return x
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """x[B,heads,S,D] as [B,S,heads*D]."""
    b, h, s, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(b, s, h * d)


def _divided(c: InferContext, size: DimLike, heads: int, name: str) -> DimLike:
    if heads < 1 or (isinstance(size, int) and size % heads):
        raise c.error(f"input {name} has a last dimension of {size}, expected a multiple of its {heads} heads")
    q = exact_quotient(size, heads)
    return floordiv(size, heads) if q is None else q


# ---- attention --------------------------------------------------------------------------------------------------


def _heads_first(c: InferContext, i: int, heads: int | None) -> tuple[DimLike, ...]:
    """The shape of operand i as [B, heads, S, D]."""
    shape = c.shape(i)
    if shape is None:
        return tuple(c.symbol() for _ in range(4))
    if len(shape) == 4:
        return shape
    if not heads:
        raise c.error(f"input {c.op.operand_name(i)} has shape {c.t(i)}, expected rank 4 or q_num_heads and kv_num_heads")
    return shape[0], heads, shape[1], _divided(c, shape[2], heads, c.op.operand_name(i))


def infer_attention(c: InferContext) -> list[TensorType]:
    same_dtype(c, 0, 1, 4)
    same_dtype(c, 2, 5)
    expect_choice(c, "qk_matmul_output_mode", 0, 1, 2, 3)
    if c.has(4) != c.has(5) or (c.has(4) and c.has(6)):
        raise c.error("expected past_key and past_value together, and nonpad_kv_seqlen without them")
    for i in (0, 1, 2):
        expect_rank(c, i, 3, 4)
    if len({c.rank(i) for i in (0, 1, 2)} - {None}) > 1:
        raise c.error(f"q, k and v have types {c.t(0)}, {c.t(1)}, {c.t(2)}, expected one rank")
    expect_rank(c, 3, *range(5))
    kv = c.attr("kv_num_heads")
    (b, qh, s, d), (_, kh, t, _), (_, _, _, dv) = (
        _heads_first(c, i, heads) for i, heads in ((0, c.attr("q_num_heads")), (1, kv), (2, kv))
    )
    if c.rank(1) == 4:
        expect_shape(c, 1, (b, None, None, d), "batch and head size as in q")
        expect_shape(c, 2, (b, kh, t, None), "batch, heads and length as in k")
    if isinstance(qh, int) and isinstance(kh, int) and (kh == 0 or qh % kh):
        raise c.error(f"{qh} query heads and {kh} key heads, expected a multiple of these")
    past = expect_shape(c, 4, (b, kh, None, d), "batch, heads, past length, head size")
    expect_shape(c, 5, (b, kh, past[2] if past else None, dv), "batch, heads, past length, head size")
    expect_shape(c, 6, (b,), "one length a sequence")
    total = t if not c.has(4) else c.symbol() if past is None else past[2] + t
    rank = next((c.rank(i) for i in (0, 1, 2) if c.rank(i) is not None), None)
    y = (b, qh, s, dv) if rank == 4 else (b, s, qh * dv) if rank == 3 else None
    if rank is None:
        return [c.t(0), c.t(1).with_(shape=None), c.t(2).with_(shape=None), c.t(0).with_(shape=None)]
    shapes = (y, (b, kh, total, d), (b, kh, total, dv), (b, qh, s, total))
    return [c.t(i).with_(shape=shape) for i, shape in zip((0, 1, 2, 0), shapes, strict=True)]


def _attention_examples() -> list:
    q, k, v = rand(2, 4, 3, 8), rand(2, 2, 5, 8, seed=1), rand(2, 2, 5, 6, seed=2)
    allowed = rand(3, 5, dtype=np.bool_, seed=3)
    allowed[1] = False
    pk, pv, lens = rand(2, 2, 4, 8, seed=4), rand(2, 2, 4, 6, seed=5), np.array([5, 2], np.int64)
    half = [a.astype(np.float16) for a in (q, k, v)]
    return [
        ex(q, k, v, name="grouped"),
        ex(q, k, v, allowed, results=4, qk_matmul_output_mode=3, name="masked_row"),
        ex(q, k, v, rand(2, 4, 3, 9), pk, pv, is_causal=1, results=3, name="past"),
        ex(q, k, v, softcap=2.0, scale=0.3, results=4, qk_matmul_output_mode=1, name="softcap"),
        ex(rand(2, 3, 32), rand(2, 5, 16), rand(2, 5, 12), q_num_heads=4, kv_num_heads=2, name="rank_3"),
        ex(q, k, v, None, None, None, lens, is_causal=1, name="nonpad"),
        ex(q, k, v, left_window_size=1, right_window_size=0, name="window"),
        ex(q, k, v, rand(3, 4), name="short_mask"),
        ex(*half, name="f16"),
        ex(q.astype(np.float64), k.astype(np.float64), v.astype(np.float64), name="f64"),
        ex(q[:0], k[:0], v[:0], name="empty_batch"),
        ex(rand(2, 3, 32), rand(2, 5, 32), rand(2, 5, 24), rand(3, 5), q_num_heads=4, kv_num_heads=4, name="rank_3_alike"),
    ]


@op("attention", onnx=Onnx("Attention", since=23, adapt=dtype_attrs("softmax_precision")), infer=infer_attention, results=None,
    traits=("anchor",), examples=_attention_examples,
    dtypes=dict.fromkeys(("q", "k", "v", "past_key", "past_value"), FLOATS)
    | {"attn_mask": NUMERIC | {BOOL}, "nonpad_kv_seqlen": {I64}})  # fmt: skip
def attention(q, k, v, attn_mask=None, past_key=None, past_value=None, nonpad_kv_seqlen=None, *, is_causal=0, kv_num_heads=None,
              left_window_size=-1, q_num_heads=None, qk_matmul_output_mode=0, right_window_size=-1, scale=None, softcap=0.0,
              softmax_precision=None):  # fmt: skip
    """softmax(Q K' * scale + mask) V for q[B,H,S,D], k[B,G,T,D], v[B,G,T,E] (or [B,S,H*D] and so on), H a multiple of G.

    Returns Y as q, the keys and values with the past in front, and the scores at the asked stage. A query that sees no key
    gives zeros. Everything is computed in at least f32, whatever softmax_precision says.
    """
    rank, dtype = q.ndim, q.dtype
    q, k, v = split_heads(q, q_num_heads), split_heads(k, kv_num_heads), split_heads(v, kv_num_heads)
    if past_key is not None:
        k, v = np.concatenate([past_key, k], axis=2), np.concatenate([past_value, v], axis=2)
    present = k, v
    groups = q.shape[1] // k.shape[1]
    q, k, v = wide(q), np.repeat(wide(k), groups, axis=1), np.repeat(wide(v), groups, axis=1)
    claim(5 * math.prod(q.shape[:3]) * k.shape[2] * 8)  # the stages, and what adds the mask
    root = q.dtype.type(math.sqrt(1 / math.sqrt(q.shape[3]) if scale is None else scale))
    stages = [np.matmul(q * root, (k * root).swapaxes(2, 3))]
    stages.append(np.tanh(stages[0] / softcap) * softcap if softcap else stages[0])
    past = 0 if past_key is None else past_key.shape[2]
    bias = _bias(stages[0].shape, q.dtype, attn_mask, nonpad_kv_seqlen, past, is_causal, left_window_size, right_window_size)
    stages.append(stages[1] + bias)
    blind = np.isneginf(bias.max(axis=-1, keepdims=True, initial=-np.inf))
    precise = stages[2].astype(np.float64) if softmax_precision is F64 else stages[2]
    stages.append(np.where(blind, 0, _softmax(precise)).astype(q.dtype))
    y = np.matmul(stages[3], v)
    y = (y if rank == 4 else merge_heads(y)).astype(dtype)
    return y, *present, stages[qk_matmul_output_mode].astype(dtype)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=-1, keepdims=True)


def _bias(shape: tuple[int, ...], dtype: np.dtype, mask: np.ndarray | None, lens: np.ndarray | None, past: int, causal: int,
          left: int, right: int) -> np.ndarray:  # fmt: skip
    """What is added to the scores [B,H,S,T]: -inf where a query must not look, and the mask's numbers."""
    _, _, s, t = shape
    # The position of each query among the keys: behind the past, or at the end of what is no padding.
    offset = np.array(past).reshape(1, 1, 1, 1) if lens is None else (lens - s).reshape(-1, 1, 1, 1)
    distance = np.arange(t) - (np.arange(s)[:, None] + offset)
    allowed = np.ones(distance.shape, bool)
    if causal:
        allowed &= distance <= 0
    if left >= 0:
        allowed &= distance >= -left
    if right >= 0:
        allowed &= distance <= right
    if lens is not None:
        allowed = allowed & (np.arange(t) < lens.reshape(-1, 1, 1, 1))
    bias = np.where(allowed, 0, -np.inf)
    if mask is not None:
        numbers = np.where(mask, 0, -np.inf) if mask.dtype == bool else wide(mask).astype(np.float64)
        short = [(0, 0)] * (mask.ndim - 1) + [(0, max(0, t - mask.shape[-1]))] if mask.ndim and mask.shape[-1] != 1 else None
        bias = bias + (numbers if short is None else np.pad(numbers, short, constant_values=-np.inf))
    return bias.astype(dtype)


# ---- rotary_embedding -------------------------------------------------------------------------------------------


def infer_rotary(c: InferContext) -> TensorType:
    same_dtype(c, 0, 1, 2)
    expect_rank(c, 0, 3, 4)
    x = c.shape(0)
    if x is None:
        return c.t(0)
    rank = len(x)
    if rank == 3 and not c.attr("num_heads"):
        raise c.error(f"input x has shape {c.t(0)}, expected rank 4 or the attribute num_heads")
    b, s = x[0], x[1] if rank == 3 else x[2]
    head = x[3] if rank == 4 else _divided(c, x[2], c.attr("num_heads"), "x")
    half = floordiv(c.attr("rotary_embedding_dim") or head, 2)
    for i in (1, 2):
        expect_shape(c, i, (None, half) if c.has(3) else (b, s, half), "positions, half of what is rotated")
    expect_shape(c, 3, (b, s), "batch, length")
    return c.t(0)


def _rotary_examples() -> list:
    x, where = rand(2, 3, 4, 8), np.array([[0, 1, 2, 3], [5, 4, 0, 0]], np.int64)
    cos, sin = rand(6, 4, seed=1), rand(6, 4, seed=2)
    return [
        ex(x, cos, sin, where, name="halves"),
        ex(x, cos, sin, where, interleaved=1, name="interleaved"),
        ex(x, rand(2, 4, 4), rand(2, 4, 4, seed=1), name="no_positions"),
        ex(rand(2, 4, 24), cos[:, :2], sin[:, :2], where, num_heads=3, rotary_embedding_dim=4, name="partial_rank_3"),
        ex(x.astype(np.float16), cos.astype(np.float16), sin.astype(np.float16), where, name="f16"),
        ex(x[:0], cos, sin, where[:0], name="empty_batch"),
    ]


@op("rotary_embedding", onnx=Onnx("RotaryEmbedding", since=23), infer=infer_rotary, examples=_rotary_examples,
    dtypes={"x": SMALL, "cos_cache": SMALL, "sin_cache": SMALL, "position_ids": {I64}})  # fmt: skip
def rotary_embedding(x, cos_cache, sin_cache, position_ids=None, *, interleaved=0, num_heads=None, rotary_embedding_dim=0):
    """Rotates pairs of elements of each head of x[B,H,S,D] or x[B,S,H*D] by the angles of their positions (RoFormer).

    The caches are [positions, D/2] with position_ids[B,S], else [B,S,D/2]. Pairs are the two halves, or neighbours if
    interleaved; with rotary_embedding_dim only so many elements of each head are rotated.
    """
    heads, last = wide(split_heads(x, num_heads)), len(cos_cache) - 1
    if position_ids is not None and position_ids.size and not 0 <= position_ids.min() <= position_ids.max() <= last:
        raise ValueError(f"positions from {position_ids.min()} to {position_ids.max()}, expected 0 to {last}")
    n = rotary_embedding_dim or heads.shape[3]
    turned, rest = heads[..., :n], heads[..., n:]
    cos, sin = (wide(cache if position_ids is None else cache[position_ids])[:, None] for cache in (cos_cache, sin_cache))
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else (turned[..., : n // 2], turned[..., n // 2 :])
    pair = cos * a - sin * b, sin * a + cos * b
    turned = np.stack(pair, axis=-1).reshape(turned.shape) if interleaved else np.concatenate(pair, axis=-1)
    y = np.concatenate([turned, rest], axis=-1)
    return (y if x.ndim == 4 else merge_heads(y)).astype(x.dtype)


# ---- linear_attention -------------------------------------------------------------------------------------------


def infer_linear_attention(c: InferContext) -> list[TensorType]:
    same_dtype(c, 0, 1, 2, 4, 5)
    rule, qh, kh = c.attr("update_rule"), c.attr("q_num_heads"), c.attr("kv_num_heads")
    expect_choice(c, "update_rule", "linear", "gated", "delta", "gated_delta")
    if kh < 1 or qh < 1 or qh % kh:
        raise c.error(f"q_num_heads = {qh} and kv_num_heads = {kh}, expected a multiple of these")
    for i, name, rules in ((4, "decay", ("gated", "gated_delta")), (5, "beta", ("delta", "gated_delta"))):
        if rule in rules and not c.has(i):
            raise c.error(f"update_rule = {rule!r} without {name}, expected that input")
    for i in (0, 1, 2, 4, 5):
        expect_rank(c, i, 3)
    q, v = c.shape(0), c.shape(2)
    b = q[0] if q else c.symbol()
    dk = _divided(c, q[2], qh, "query") if q else c.symbol()
    dv = _divided(c, v[2], kh, "value") if v else c.symbol()
    expect_shape(c, 1, (b, q[1] if q else None, kh * dk), "batch, length, kv_num_heads * head size")
    expect_shape(c, 3, (b, kh, dk, dv), "batch, kv_num_heads, head sizes of key and value")
    state = c.t(3) if c.has(3) else c.t(0)
    return [c.t(0).with_(shape=(b, q[1] if q else c.symbol(), qh * dv)), state.with_(shape=(b, kh, dk, dv))]


def _linear_examples() -> list:
    q, k, v = rand(2, 3, 8), rand(2, 3, 8, lo=-0.5, hi=0.5), rand(2, 3, 6)
    heads = {"q_num_heads": 2, "kv_num_heads": 2, "results": 2}
    decay, beta, state = rand(2, 3, 2, lo=-1, hi=0), rand(2, 3, 2, lo=0, hi=1), rand(2, 2, 4, 3)
    half = [a.astype(np.float16) for a in (q, k, v)]
    return [
        ex(q, k, v, update_rule="linear", name="linear", **heads),
        ex(q, k, v, state, decay, update_rule="gated", name="gated", **heads),
        ex(q, k, v, None, None, beta, update_rule="delta", scale=0.7, name="delta", **heads),
        ex(q, k, v, state, rand(2, 3, 8, lo=-1, hi=0), beta[:, :, :1], name="gated_delta", **heads),
        ex(rand(2, 3, 16), k, v, update_rule="linear", q_num_heads=4, kv_num_heads=2, results=2, name="grouped"),
        ex(*half, update_rule="linear", name="f16", **heads),
    ]


@op("linear_attention", onnx=Onnx("LinearAttention", since=27), infer=infer_linear_attention, results=2, examples=_linear_examples,
    dtypes=dict.fromkeys(("query", "key", "value", "past_state", "decay", "beta"), SMALL))  # fmt: skip
def linear_attention(query, key, value, past_state=None, decay=None, beta=None, *, chunk_size=64, kv_num_heads, q_num_heads,
                     scale=0.0, update_rule="gated_delta"):  # fmt: skip
    """Attention by a state S[B,G,D,E] that each token updates; query[B,T,H*D], key[B,T,G*D], value[B,T,G*E] -> [B,T,H*E], S.

    S decays by exp(decay) (gated), and takes in k v' or, of the part of v that it does not hold yet, beta as much (delta).
    chunk_size is a hint alone.
    """
    q, k, v = (split_heads(wide(a), h) for a, h in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads)))
    b, g, t, d = k.shape
    state = np.zeros((b, g, d, v.shape[3]), q.dtype) if past_state is None else wide(past_state)
    fade = None if decay is None or "gated" not in update_rule else np.exp(wide(decay)).reshape(b, t, g, -1, 1)
    rate = None if beta is None or "delta" not in update_rule else wide(beta)[..., None]
    y = np.zeros((b, q_num_heads, t, v.shape[3]), q.dtype)
    for i in range(t):
        if fade is not None:
            state = state * fade[:, i]
        new = v[:, :, i]
        if rate is not None:
            new = rate[:, i] * (new - np.einsum("bgde,bgd->bge", state, k[:, :, i]))
        state = state + k[:, :, i, :, None] * new[:, :, None, :]
        y[:, :, i] = np.einsum("bhde,bhd->bhe", np.repeat(state, q_num_heads // g, axis=1), q[:, :, i])
    y = merge_heads(y) * q.dtype.type(scale or 1 / math.sqrt(d))
    return y.astype(query.dtype), state.astype(query.dtype if past_state is None else past_state.dtype)
