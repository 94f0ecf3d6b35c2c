"""Attention and rotary positions of the domain com.microsoft, by the IR operators `attention` and `rotary_embedding`.

What is masked gets mask_filter_value added to its score, as ONNX Runtime has it: a row in which all is masked alike still looks at
everything. The lengths of sequences that a mask gives become such a sum too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ...ir.core import Value
from ...ir.types import I64
from .contrib_quant import integer_product
from .contrib_site import Emitter, absent, contrib, only

FILTER = -10000.0
LOW = -1e30  # a mask_filter_value below this takes all of a score's digits


# ---- masks ------------------------------------------------------------------------------------------------------


def _padding(e: Emitter, mask: Value, q: Value, total: Value, fill: float) -> Value:
    """What the mask adds to the scores [B,H,S,T]; q has the batch as its first axis, `total` holds T as i64[1].

    The mask is [B,T], [B,S,T] or [B,1,L,L] of zeros and ones, or numbers: the lengths [B], or [2B]: the ends and then the starts.
    """
    rank = e.rank(mask, "mask")
    like = e.number(fill, q, "query"), e.number(0, q, "query")
    if rank == 1:
        seen = _between(e, mask, q, total)
    elif rank in (2, 3):
        seen = e("unsqueeze", e("greater", mask, e.number(0, mask, "mask")), np.array([1, 2] if rank == 2 else [1]))
    elif rank == 4:  # the whole square [L, L]: the last rows that there are, and as many columns
        length = e.sizes(q, 1)
        square = e("slice", mask, e("concat", e("sub", total, length), np.array([0]), axis=0), e("concat", total, total, axis=0),
                   np.array([2, 3]))  # fmt: skip
        seen = e("greater", square, e.number(0, mask, "mask"))
    else:
        raise ValueError(f"its mask has rank {rank}; expected 1 to 4")
    return e("where", seen, like[1], like[0])


def _between(e: Emitter, mask: Value, q: Value, total: Value) -> Value:
    """Whether the key T lies within the sequence of the batch: [B,1,1,T]."""
    batch, size = e.shape(q, "query")[0], e.shape(mask, "mask")[0]
    at = e("range", np.int64(0), e("reshape", total, np.zeros(0, np.int64)), np.int64(1))
    if size == batch:
        ends, starts = mask, None
    elif size == 2 * batch:
        ends, starts = e("split", mask, num_outputs=2, n_results=2)
    else:
        raise ValueError(f"its mask has {size} elements for a batch of {batch}; expected surely as many (the lengths), or twice as "
                         "many (the ends and the starts)")  # fmt: skip

    def column(v: Value) -> Value:
        return e("unsqueeze", e("cast", v, to=I64), np.array([1, 2, 3]))

    seen = e("less", at, column(ends))
    return seen if starts is None else e("and", seen, e("greater_or_equal", at, column(starts)))


def _in_order(e: Emitter, padding: Value, q: Value, total: Value, past: Value | None) -> Value:
    """The padding with the least number for keys behind the query: what ONNX Runtime writes there, and tells no longer from a
    mask_filter_value as low, so that a row in which all is masked looks at every key."""
    scalar = np.zeros(0, np.int64)
    queries = e("range", np.int64(0), e("reshape", e.sizes(q, 1 if e.rank(q, "query") == 3 else 2), scalar), np.int64(1))
    keys = e("range", np.int64(0), e("reshape", total, scalar), np.int64(1))
    last = e("unsqueeze", queries if past is None else e("add", queries, e.sizes(past, 2)), np.array([1]))
    least = float(ml_dtypes.finfo(e.dtype(q, "query").np).min)
    return e("where", e("greater_or_equal", last, keys), padding, e.number(least, q, "query"))


def _attended(e: Emitter, q: Value, k: Value, v: Value, heads: int, *, mask: Value | None, bias: Value | None, past: Sequence,
              fill: float, scale: float | None, causal: int, n_results: int = 1, **more: int) -> Any:  # fmt: skip
    """The IR operator over q, k and v [B,S,H*D] or [B,H,S,D] with the past and everything that is added to the scores."""
    length_axis = 1 if e.rank(k, "key") == 3 else 2
    if mask is not None:
        total = e.sizes(k, length_axis)
        if past[0] is not None:
            total = e("add", total, e.sizes(past[0], 2))
        padding = _padding(e, mask, q, total, fill)
        if causal and fill < LOW:
            padding, causal = _in_order(e, padding, q, total, past[0]), 0
        bias = padding if bias is None else e("add", padding, bias)
    named = more if e.rank(q, "query") == 4 else {"q_num_heads": heads, "kv_num_heads": heads, **more}
    return e("attention", q, k, v, bias, *past, is_causal=causal, scale=scale or None, n_results=n_results, **named)


def _halves(e: Emitter, past: Value | None) -> list[Value | None]:
    """The keys and the values of past[2,B,H,P,D]."""
    if past is None:
        return [None, None]
    return [e("gather", past, np.int64(i)) for i in (0, 1)]


def _joined(e: Emitter, present: Sequence[Value]) -> Value:
    return e("concat", *(e("unsqueeze", v, np.array([0])) for v in present), axis=0)


# ---- the operators ----------------------------------------------------------------------------------------------


def _projected(e: Emitter, qkv: Value, sizes: Sequence[int], heads: int, mask: Value | None, past: Value | None,
               bias: Value | None, fill: float, scale: float | None, causal: int) -> list[Value]:  # fmt: skip
    """Attention of q, k and v that lie side by side, then the keys and values with the past in front."""
    if any(n < 1 or n % heads for n in sizes):
        raise ValueError(f"q, k and v have {list(sizes)} columns; expected multiples of num_heads = {heads}")
    q, k, v = e("split", qkv, np.array(sizes), axis=-1, n_results=3)
    given: dict[str, Any] = {"mask": mask, "bias": bias, "past": _halves(e, past), "fill": fill, "scale": scale, "causal": causal}
    if e.n_outputs == 1:
        return [_attended(e, q, k, v, heads, **given)]
    y, *present = _attended(e, q, k, v, heads, n_results=3, **given)
    return [y, _joined(e, present)]


def _columns(e: Emitter, weights: Value) -> int:
    width = e.shape(weights, "weights")[-1]
    if not isinstance(width, int) or width % 3:
        raise ValueError(f"its weights have {width} columns; expected a known multiple of three, or the attribute qkv_hidden_sizes")
    return width // 3


@contrib("Attention")
def attention(e: Emitter, x: Value, weights: Value, bias: Value | None = None, mask_index: Value | None = None,
              past: Value | None = None, attention_bias: Value | None = None, past_sequence_length: Value | None = None, *,
              do_rotary: int = 0, mask_filter_value: float = FILTER, num_heads: int, past_present_share_buffer: int = 0,
              qkv_hidden_sizes: tuple = (), rotary_embedding_dim: int = 0, scale: float = 0.0,
              unidirectional: int = 0) -> list[Value]:  # fmt: skip
    only("do_rotary", do_rotary, 0)
    only("past_present_share_buffer", past_present_share_buffer, 0)
    absent(past_sequence_length=past_sequence_length)
    qkv = e("matmul", x, weights)
    qkv = qkv if bias is None else e("add", qkv, bias)
    sizes = qkv_hidden_sizes or (_columns(e, weights),) * 3
    if len(sizes) != 3:
        raise ValueError(f"the attribute qkv_hidden_sizes = {list(sizes)}; expected three sizes")
    return _projected(e, qkv, sizes, num_heads, mask_index, past, attention_bias, mask_filter_value, scale, unidirectional)


@contrib("QAttention")
def qattention(e: Emitter, x: Value, weight: Value, bias: Value, input_scale: Value, weight_scale: Value,
               mask_index: Value | None = None, input_zero_point: Value | None = None, weight_zero_point: Value | None = None,
               past: Value | None = None, *, do_rotary: int = 0, mask_filter_value: float = FILTER, num_heads: int,
               past_present_share_buffer: int = 0, scale: float = 0.0, unidirectional: int = 0) -> list[Value]:  # fmt: skip
    only("do_rotary", do_rotary, 0)
    only("past_present_share_buffer", past_present_share_buffer, 0)
    qkv = integer_product(e, x, input_scale, input_zero_point, weight, weight_scale, weight_zero_point, bias)
    sizes = (_columns(e, weight),) * 3
    return _projected(e, qkv, sizes, num_heads, mask_index, past, None, mask_filter_value, scale, unidirectional)


@contrib("MultiHeadAttention")
def multi_head_attention(e: Emitter, query: Value, key: Value | None = None, value: Value | None = None, bias: Value | None = None,
                         key_padding_mask: Value | None = None, attention_bias: Value | None = None, past_key: Value | None = None,
                         past_value: Value | None = None, past_sequence_length: Value | None = None,
                         cache_indirection: Value | None = None, *, mask_filter_value: float = FILTER, num_heads: int,
                         scale: float = 0.0, unidirectional: int = 0) -> list[Value]:  # fmt: skip
    """The scores (output 3) are those that the softmax gets, -inf for keys behind a query that must not look there."""
    absent(past_sequence_length=past_sequence_length, cache_indirection=cache_indirection)
    q, k, v = _separate(e, query, key, value)
    if bias is not None:
        q, k, v = _biased(e, (q, k, v), bias)
    if e.rank(k, "key") == 4 and e.rank(q, "query") == 3:  # keys of another sequence come head by head
        given = e("reshape", q, np.array([0, 0, num_heads, -1]))
        q = e("transpose", given, perm=(0, 2, 1, 3))
        y, *rest = _results(e, (q, k, v), num_heads, key_padding_mask, attention_bias, (past_key, past_value), mask_filter_value,
                            scale, unidirectional)  # fmt: skip
        merged = e("reshape", e("transpose", y, perm=(0, 2, 1, 3)), np.array([0, 0, -1]))
        return [merged, *rest]
    if key_padding_mask is not None and e.rank(key_padding_mask, "key_padding_mask") > 3:
        raise ValueError("its input key_padding_mask has more than 3 axes; expected [B], [B,T] or [B,S,T]")
    return _results(e, (q, k, v), num_heads, key_padding_mask, attention_bias, (past_key, past_value), mask_filter_value, scale,
                    unidirectional)  # fmt: skip


def _results(e: Emitter, qkv: tuple[Value, Value, Value], heads: int, mask: Value | None, bias: Value | None, past: Sequence,
             fill: float, scale: float, causal: int) -> list[Value]:  # fmt: skip
    q, k, v = qkv
    out = _attended(e, q, k, v, heads, mask=mask, bias=bias, past=past, fill=fill, scale=scale, causal=causal,
                    n_results=e.n_outputs, qk_matmul_output_mode=2)  # fmt: skip
    return [out] if isinstance(out, Value) else list(out)


def _separate(e: Emitter, query: Value, key: Value | None, value: Value | None) -> list[Value]:
    """q, k and v as [B,S,H*D] (or the keys and values [B,H,S,D] as they come), of [B,S,H,3,D] or [B,S,H,2,D] where packed."""
    if e.rank(query, "query") == 5:
        absent(key=key, value=value)
        return _unpacked(e, query, 3)
    if key is None:
        raise ValueError("its input key is missing; expected it, or a query of rank 5 that holds all three")
    if e.rank(key, "key") == 5:
        absent(value=value)
        return [query, *_unpacked(e, key, 2)]
    if value is None:
        raise ValueError("its input value is missing; expected it, or a key of rank 5 that holds both")
    return [query, key, value]


def _unpacked(e: Emitter, packed: Value, count: int) -> list[Value]:
    parts = [e("gather", packed, np.int64(i), axis=3) for i in range(count)]
    return [e("reshape", p, np.array([0, 0, -1])) for p in parts]


def _biased(e: Emitter, qkv: Sequence[Value], bias: Value) -> list[Value]:
    """Each of q, k and v with its part of the bias. Raises ValueError for keys that come head by head."""
    if any(e.rank(x, "key") != 3 for x in qkv):
        raise ValueError("its input bias is given with keys and values of rank 4; expected rank 3")
    widths = [e.shape(x, "query")[2] for x in qkv]
    if not all(isinstance(w, int) for w in widths):
        raise ValueError(f"its q, k and v have {widths} columns; expected known sizes where a bias is given")
    return [e("add", x, part) for x, part in zip(qkv, e("split", bias, np.array(widths), axis=0, n_results=3))]


@contrib("RotaryEmbedding")
def rotary_embedding(e: Emitter, x: Value, position_ids: Value, cos_cache: Value, sin_cache: Value, *, interleaved: int = 0,
                     is_packed_batching: int = 0, num_heads: int = 0, rotary_embedding_dim: int = 0,
                     scale: float = 1.0) -> Value:  # fmt: skip
    """position_ids [B,S], or one number: that of the first token of each sequence."""
    only("is_packed_batching", is_packed_batching, 0)
    only("scale", scale, 1.0)
    rank = e.rank(x, "input")
    if e.rank(position_ids, "position_ids") == 1:
        length = e.sizes(x, 1 if rank == 3 else 2)
        steps = e("range", np.int64(0), e("reshape", length, np.zeros(0, np.int64)), np.int64(1))
        position_ids = e("expand", e("add", steps, position_ids), e("concat", e.sizes(x, 0), length, axis=0))
    if rank == 3 and not num_heads:
        width, half = e.shape(x, "input")[2], e.shape(cos_cache, "cos_cache")[1]
        if rotary_embedding_dim or not isinstance(width, int) or not isinstance(half, int) or width % (2 * half):
            raise ValueError(f"num_heads is not given and {width} columns, cos_cache of {half}, do not say it; expected num_heads")
        num_heads = width // (2 * half)
    heads = {"num_heads": num_heads} if rank == 3 else {}
    return e("rotary_embedding", x, cos_cache, sin_cache, position_ids, interleaved=interleaved,
             rotary_embedding_dim=rotary_embedding_dim, **heads)  # fmt: skip
