"""Attention as ONNX Runtime's domain com.microsoft has it, where the ONNX operator cannot say it."""

from __future__ import annotations

import math

import numpy as np

from ..limits import claim
from ..op import InferContext, Onnx, ex, op
from ..symbols import DimLike, dim_max, prove_ne
from ..types import F16, F32, I32, I64, TensorType
from .attention import _divided, merge_heads, rotary_embedding, split_heads
from .common import expect_choice, expect_rank, expect_shape, same_dtype, wide
from .examples import rand

MICROSOFT = "com.microsoft"
HALVES = frozenset({F32, F16})


def _infer_group_query(c: InferContext) -> list[TensorType]:
    same_dtype(c, 0, 1, 2, 3, 4, 7, 8, 10, 11)
    for name in ("causal", "k_quant_type", "sliding_window_cache", "qk_output", "kv_cache_bit_width", "v_quant_type"):
        expect_choice(c, name, c.op.attrs[name].default)
    for i in range(12, 17):
        if c.has(i):
            raise c.error(f"input {c.op.operand_name(i)} is given; expected a cache that is not quantized and no norms of q and k")
    if not c.has(5) or not c.has(6):
        raise c.error("seqlens_k or total_sequence_length is missing; the operator needs both")
    heads, kv = c.attr("num_heads"), c.attr("kv_num_heads")
    if kv < 1 or heads < 1 or heads % kv:
        raise c.error(f"num_heads = {heads} and kv_num_heads = {kv}, expected a multiple of these")
    if c.has(1) != c.has(2) or c.has(3) != c.has(4):
        raise c.error("expected key and value together, and past_key and past_value together")
    if c.attr("do_rotary") and not (c.has(7) and c.has(8)):
        raise c.error("do_rotary = 1 without cos_cache and sin_cache, expected both")
    for i in (0, 1, 2):
        expect_rank(c, i, 3)
    q = c.shape(0)
    batch, s = (c.symbol(), c.symbol()) if q is None else q[:2]
    size: DimLike = c.symbol() if q is None else _divided(c, q[2], heads if c.has(1) else heads + 2 * kv, "query")
    for i in (1, 2):
        expect_shape(c, i, (batch, s, kv * size), "batch, length, kv_num_heads * head size")
    past = expect_shape(c, 3, (batch, kv, None, size), "batch, kv_num_heads, past length, head size")
    expect_shape(c, 4, (batch, kv, past[2] if past else None, size), "as past_key")
    if c.shape(5) is not None and prove_ne(c.t(5).size, batch):
        raise c.error(f"input seqlens_k has type {c.t(5)}, expected one number for each of the {batch} sequences")
    total = (c.ints(6) or [None])[0]
    cache: DimLike = c.symbol()
    if total is not None and (past is not None or not c.has(3)):
        cache = dim_max(total, past[2]) if past is not None else total
    present = c.t(0).with_(shape=(batch, kv, cache, size))
    return [c.t(0).with_(shape=(batch, s, heads * size)), present, present]


def _group_query_examples() -> list:
    lens, total, heads = np.array([3, 3], np.int32), np.array(4, np.int32), {"num_heads": 4, "kv_num_heads": 2}
    q, k, v = rand(2, 4, 32), rand(2, 4, 16, seed=1), rand(2, 4, 16, seed=2)
    past = [rand(2, 2, 5, 8, seed=i) for i in (3, 4)]
    step = [rand(2, 1, n, seed=i) for i, n in enumerate((32, 16, 16))]
    ragged, six = np.array([5, 3], np.int32), np.array(6, np.int32)
    turn, wide_q = [rand(9, 8, seed=i) for i in (5, 6)], rand(2, 4, 128)  # ONNX Runtime rotates heads of multiples of 16 alone
    big = [rand(2, 2, 5, 16, seed=i) for i in (3, 4)]
    return [
        ex(q, k, v, None, None, lens, total, results=3, name="prompt", **heads),
        ex(q, k, v, None, None, np.array([3, 1], np.int32), total, results=3, name="ragged_prompt", **heads),
        ex(rand(2, 4, 64), None, None, None, None, lens, total, results=3, name="packed", **heads),
        ex(*step, *past, ragged, six, results=3, name="decode", **heads),
        ex(wide_q[:, :1], None, None, *big, ragged, six, *turn, do_rotary=1, results=3, name="rotary", **heads),
        ex(wide_q, None, None, None, None, lens, total, *turn, do_rotary=1, rotary_interleaved=1, results=3, name="interleaved",
           **heads),
        ex(q, k, v, None, None, lens, total, local_window_size=2, softcap=2.0, scale=0.3, results=3, name="window", **heads),
        ex(q, k, v, None, None, lens, total, smooth_softmax=1, results=3, name="smooth", **heads),
        ex(*(rand(1, 2, n) for n in (32, 16, 16)), *(p[:1] for p in past), np.array([6], np.int32), np.array(7, np.int32),
           results=3, name="chunk", **heads),
        ex(q, k, v, None, None, lens, total, None, None, None, rand(2, 1, 4, 4), results=3, name="bias", **heads),
        ex(q, k, v, None, None, lens, total, None, None, None, None, rand(4), results=3, name="sink", **heads),
        ex(*(a.astype(np.float16) for a in (q, k, v)), None, None, lens, total, results=3, name="f16", **heads),
    ]  # fmt: skip


@op("group_query_attention", onnx=Onnx("GroupQueryAttention", MICROSOFT), infer=_infer_group_query, results=None,
    traits=("anchor",), examples=_group_query_examples,
    dtypes=dict.fromkeys(("query", "key", "value", "past_key", "past_value", "cos_cache", "sin_cache", "attention_bias",
                          "head_sink"), HALVES)
    | {"seqlens_k": {I32}, "total_sequence_length": {I32}, "position_ids": {I64}})  # fmt: skip
def group_query_attention(query, key=None, value=None, past_key=None, past_value=None, seqlens_k=None, total_sequence_length=None,
                          cos_cache=None, sin_cache=None, position_ids=None, attention_bias=None, head_sink=None, k_scale=None,
                          v_scale=None, q_norm_weight=None, k_norm_weight=None, query_seqlens=None, *, causal=1, do_rotary=0,
                          k_norm_epsilon=None, k_quant_type="NONE", kv_cache_bit_width=0, kv_num_heads, local_window_size=-1,
                          num_heads, q_norm_epsilon=None, qk_norm_epsilon=1e-6, qk_output=0, rotary_interleaved=0, scale=0.0,
                          sliding_window_cache=0, smooth_softmax=-1, softcap=0.0, v_quant_type="NONE"):  # fmt: skip
    """Causal attention of query[B,S,H*D] over a cache of keys and values [B,G,C,D]; query may hold all three, heads of q first.

    Sequence b has seqlens_k[b] + 1 tokens in all, the new ones behind those of the past: returns the output [B,S,H*D] and the
    caches, max(C of the past, total_sequence_length) long and zero behind what they hold. A first prompt (S equal to
    total_sequence_length) has no past; its sequences may be shorter than S, and output rows behind their end mean nothing.
    """
    dtype, (batch, s, _) = query.dtype, query.shape
    if key is None:
        size = query.shape[2] // (num_heads + 2 * kv_num_heads)
        query, key, value = np.split(query, [num_heads * size, (num_heads + kv_num_heads) * size], axis=2)
    q, k, v = split_heads(query, num_heads), split_heads(key, kv_num_heads), split_heads(value, kv_num_heads)
    whole, total = int(total_sequence_length.reshape(-1)[0]), seqlens_k.reshape(-1).astype(np.int64) + 1
    before = np.zeros(batch, np.int64) if s == whole else total - s
    if (total < 1).any() or (before < 0).any() or (total > whole).any():
        raise ValueError(f"seqlens_k = {seqlens_k.tolist()} with {s} new tokens and total_sequence_length = {whole}")
    if do_rotary:
        where = before[:, None] + np.arange(s) if position_ids is None else position_ids
        turn = {"cos_cache": cos_cache, "sin_cache": sin_cache, "position_ids": np.minimum(where, len(cos_cache) - 1),
                "interleaved": rotary_interleaved}  # fmt: skip
        q, k = (rotary_embedding.reference(x, **turn) for x in (q, k))
    keys, values = (_appended(p, x, before, whole) for p, x in ((past_key, k), (past_value, v)))
    groups, length = num_heads // kv_num_heads, min(whole, keys.shape[2])
    claim(5 * 4 * math.prod(q.shape[:3]) * length)
    scores = np.matmul(wide(q), np.repeat(wide(keys[:, :, :length]), groups, axis=1).swapaxes(2, 3))
    scores = scores * np.float32(scale or 1 / math.sqrt(q.shape[3]))
    if softcap:
        scores = np.tanh(scores / np.float32(softcap)) * np.float32(softcap)
    if attention_bias is not None:
        scores = scores + wide(attention_bias)[..., :length]
    at = before[:, None, None, None] + np.arange(s)[:, None]
    distance = at - np.arange(length)
    seen = (distance >= 0) & ((distance < local_window_size) if local_window_size > 0 else True)
    sink = head_sink if head_sink is not None else np.zeros(num_heads, np.float32) if smooth_softmax == 1 else None
    weights = _softmax(np.where(seen, scores, -np.inf), None if sink is None else wide(sink).reshape(-1, 1, 1))
    y = np.matmul(weights, np.repeat(wide(values[:, :, :length]), groups, axis=1))
    return merge_heads(y).astype(dtype), keys, values


def _appended(past: np.ndarray | None, new: np.ndarray, before: np.ndarray, whole: int) -> np.ndarray:
    """The cache [B,G,C,D] with the new tokens behind the `before[b]` that each sequence has."""
    size = whole if past is None else max(whole, past.shape[2])
    out = np.zeros((*new.shape[:2], size, new.shape[3]), new.dtype)
    for b, n in enumerate(before):
        if past is not None:
            out[b, :, :n] = past[b, :, :n]
        out[b, :, n : n + new.shape[2]] = new[b]
    return out


def _softmax(x: np.ndarray, sink: np.ndarray | None) -> np.ndarray:
    """Softmax of the last axis; exp(sink) counts in the sum alone."""
    top = x.max(axis=-1, keepdims=True, initial=-np.inf)
    top = top if sink is None else np.maximum(top, sink)
    e = np.exp(x - top)
    total = e.sum(axis=-1, keepdims=True)
    return e / (total if sink is None else total + np.exp(sink - top))
