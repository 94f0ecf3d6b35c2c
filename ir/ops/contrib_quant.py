"""Operators of quantized weights that only ONNX Runtime's domain com.microsoft has and that stay whole: a dynamically quantized
LSTM, products with weights of few bits, rows of a table of few bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..op import Example, InferContext, Onnx, ex, op
from ..symbols import DimLike, ceildiv, prove_ne
from ..types import F16, F32, I32, I64, U8, TensorType
from .common import drop_empty, expect_choice, expect_rank, expect_shape, same_dtype, wide
from .examples import rand
from .linalg import BYTES, shifted
from .quant import dynamic_quantize_linear
from .rnn import _activations, _check_activations

Array = np.ndarray
MICROSOFT = "com.microsoft"
SINGLE, HALVES = frozenset({F32}), frozenset({F32, F16})

# ---- dynamic_quantize_lstm --------------------------------------------------------------------------------------


def _infer_quantized_lstm(c: InferContext) -> list[TensorType]:
    same_dtype(c, 1, 2, 9, 11)
    missing = [c.op.operand_name(i) for i in (8, 9, 10, 11) if not c.has(i)]
    if missing:
        raise c.error(f"input {missing[0]} is missing; the operator needs the scales and zero points of both weights")
    expect_choice(c, "direction", "forward", "reverse", "bidirectional")
    _check_activations(c, 3)
    for i in (0, 1, 2):
        expect_rank(c, i, 3)
    directions = 2 if c.attr("direction") == "bidirectional" else 1
    x, r = c.shape(0), c.shape(2)
    hidden: DimLike = c.attr("hidden_size") or (r[1] if r is not None else c.symbol())
    seq, batch, size = (None, None, None) if x is None else x
    why = f"hidden_size = {hidden}"
    expect_shape(c, 1, (directions, size, 4 * hidden), f"input size, 4*hidden_size, {why}")
    expect_shape(c, 2, (directions, hidden, 4 * hidden), f"hidden_size, 4*hidden_size, {why}")
    expect_shape(c, 3, (directions, 8 * hidden), f"8*hidden_size, {why}")
    expect_shape(c, 4, (batch,), "one length a sequence")
    for i in (5, 6):
        expect_shape(c, i, (directions, batch, hidden), why)
    expect_shape(c, 7, (directions, 3 * hidden), f"3*hidden_size, {why}")
    for i in (8, 9, 10, 11):
        if expect_rank(c, i, 1, 2) is not None:
            expect_shape(c, i, (directions, 4 * hidden)[: c.rank(i)], "one a direction, or one a gate's column")
    seq, batch = (c.symbol() if d is None else d for d in (seq, batch))
    return [TensorType(F32, (seq, directions, batch, hidden)), *[TensorType(F32, (directions, batch, hidden))] * 2]


def _quantized_lstms() -> list[Example]:
    x, lens = rand(4, 3, 2), np.array([4, 1, 3], np.int32)

    def weights(directions: int, dtype: object, columns: bool) -> tuple[list, list]:
        scales = (directions, 20) if columns else (directions,)
        # No more than 63: on some hosts ONNX Runtime's sums of two products saturate beyond that.
        parts = [rand(directions, n, 20, dtype=dtype, lo=-63, hi=63) for n in (2, 5)]
        steps = [np.abs(rand(*scales, seed=i, lo=0.002, hi=0.02)) for i in (0, 1)]
        zeros = [np.full(scales, 7 * i, dtype) for i in (0, 1)]  # ONNX Runtime takes no zero points that differ by column
        return parts, [steps[0], zeros[0], steps[1], zeros[1]]

    w, q = weights(1, np.int8, False)
    w2, q2 = weights(2, np.uint8, True)
    b, b2, start = rand(1, 40, lo=-1, hi=1), rand(2, 40, lo=-1, hi=1), [rand(2, 3, 5, seed=i, lo=-1, hi=1) for i in (0, 1)]
    nothing = [None] * 4
    return [
        ex(x, *w, None, *nothing, *q, hidden_size=5, results=3, name="plain"),
        ex(x, *w, b, lens, None, None, None, *q, direction="reverse", hidden_size=5, results=3, name="reverse"),
        ex(x, *w2, b2, lens, *start, None, *q2, direction="bidirectional", hidden_size=5, results=3, name="bidirectional"),
        ex(x, *w, b, None, None, None, rand(1, 15), *q, clip=0.5, input_forget=1, hidden_size=5, results=3, name="peepholes"),
        ex(x, *w, b, *nothing, *q, activations=("HardSigmoid", "Softsign", "Tanh"), hidden_size=5, results=2, name="activations"),
        ex(np.zeros((0, 3, 2), np.float32), *w, b, *nothing, *q, hidden_size=5, results=2, name="no_steps"),
    ]


def _quantized_product(x: Array, w: Array, scale: Array, zero_point: Array) -> Array:
    """x quantized to u8 as a whole, times w - zero_point: exact sums, scaled in f32."""
    quantized, step, zero = dynamic_quantize_linear.reference(x)  # type: ignore[misc]
    return np.matmul(shifted(quantized, zero), shifted(w, zero_point)).astype(np.float32) * (step * scale)


@op("dynamic_quantize_lstm", onnx=Onnx("DynamicQuantizeLSTM", MICROSOFT, export=drop_empty), infer=_infer_quantized_lstm,
    results=None, examples=_quantized_lstms, traits=("anchor",),
    dtypes=dict.fromkeys(("x", "b", "initial_h", "initial_c", "p", "w_scale", "r_scale"), SINGLE)
    | dict.fromkeys(("w", "r", "w_zero_point", "r_zero_point"), BYTES) | {"sequence_lens": {I32}})  # fmt: skip
def dynamic_quantize_lstm(x, w, r, b=None, sequence_lens=None, initial_h=None, initial_c=None, p=None, w_scale=None,
                          w_zero_point=None, r_scale=None, r_zero_point=None, *, activation_alpha=(), activation_beta=(),
                          activations=(), clip=None, direction="forward", hidden_size=0, input_forget=0):  # fmt: skip
    """An LSTM (gates i, o, f, c) whose weights are bytes: x[seq, batch, input], w[directions, input, 4*hidden],
    r[directions, hidden, 4*hidden], scales and zero points one a direction or [directions, 4*hidden].

    All of x (of the steps that any sequence has) is quantized at once, the hidden states of a batch anew in each step, as
    `dynamic_quantize_linear` does; a sequence that is over counts as zeros there. Returns Y[seq, directions, batch, hidden], the
    last H and the last C, both zero for a sequence of length 0 (as ONNX Runtime has it).
    """
    seq, batch, _ = x.shape
    hidden, backward = r.shape[1], {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    lens = np.full(batch, seq) if sequence_lens is None else sequence_lens
    steps = int(lens.max(initial=0))
    functions = _activations(activations, ("Sigmoid", "Tanh", "Tanh"), len(w), activation_alpha, activation_beta, clip)
    y = np.zeros((seq, len(w), batch, hidden), np.float32)
    finals = np.zeros((2, len(w), batch, hidden), np.float32)
    for d, back in enumerate(backward):
        projected = _quantized_product(_turned(x, lens, back)[:steps], w[d], w_scale[d], w_zero_point[d])
        bias = np.float32(0) if b is None else b[d, : 4 * hidden] + b[d, 4 * hidden :]
        peepholes = None if p is None else np.split(p[d], 3)
        h, c = (np.zeros((batch, hidden), np.float32) if s is None else s[d] for s in (initial_h, initial_c))
        out = np.zeros((seq, batch, hidden), np.float32)
        for t in range(steps):
            live = (t < lens)[:, None]
            gates = projected[t] + _quantized_product(h, r[d], r_scale[d], r_zero_point[d]) + bias
            new, memory = _cell(gates, c, peepholes, functions[d], bool(input_forget))
            h, c = np.where(live, new, 0), np.where(live, memory, c)
            out[t] = h
            last = live & (t == lens - 1)[:, None]
            finals[:, d] = np.where(last, np.stack([h, c]), finals[:, d])
        y[:, d] = _turned(out, lens, back)
    return y, finals[0], finals[1]


def _cell(gates: Array, c: Array, peepholes: list[Array] | None, functions: Sequence, input_forget: bool) -> tuple[Array, Array]:
    """The hidden state and the memory after one step."""
    f, g, h = functions
    i, o, forget, new = np.split(gates, 4, axis=1)
    peep_i, peep_o, peep_f = peepholes or (np.float32(0),) * 3
    i = f(i + peep_i * c)
    keep = 1 - i if input_forget else f(forget + peep_f * c)
    c = keep * c + i * g(new)
    return f(o + peep_o * c) * h(c), c


def _turned(x: Array, lens: Array, back: bool) -> Array:
    """Each sequence of x[seq, batch, ...] reversed within its length, where asked."""
    if not back:
        return x
    t = np.arange(len(x))[:, None]
    return np.take_along_axis(x, np.where(t < lens, lens - 1 - t, t)[:, :, None], axis=0)


# ---- weights of few bits ----------------------------------------------------------------------------------------


def unpacked(x: Array, bits: int) -> Array:
    """The numbers of `bits` bits in the bytes of the last axis, the low ones first."""
    parts = (x[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
    return parts.reshape(*x.shape[:-1], x.shape[-1] * (8 // bits))


def _check_bits(c: InferContext) -> None:
    expect_choice(c, "bits", 2, 4, 8)
    block = c.attr("block_size")
    if block < 16 or block & (block - 1):
        raise c.error(f"block_size = {block}, expected a power of two of at least 16")


def _infer_matmul_nbits(c: InferContext) -> TensorType:
    _check_bits(c)
    expect_choice(c, "weight_prepacked", 0)
    same_dtype(c, 0, 2, 5)
    if c.has(4):
        raise c.error("g_idx is given; expected a model quantized without a reordering of its columns (act_order = False)")
    k, n, blocks = c.attr("K"), c.attr("N"), -(-c.attr("K") // c.attr("block_size"))
    a = c.shape(0)
    if a is not None and (not a or prove_ne(a[-1], k)):
        raise c.error(f"input a has type {c.t(0)}, expected K = {k} as its last dimension")
    expect_shape(c, 1, (n, blocks, c.attr("block_size") * c.attr("bits") // 8), "N, blocks of K, bytes of a block")
    _expect_size(c, 2, n * blocks, f"N * blocks of K = {n}*{blocks}")
    packed = -(-blocks * c.attr("bits") // 8)
    if c.has(3) and c.t(3).dtype is U8:
        _expect_size(c, 3, n * packed, f"N * bytes of the zero points of a row = {n}*{packed}")
    elif c.has(3):
        same_dtype(c, 0, 3)
        _expect_size(c, 3, n * blocks, f"N * blocks of K = {n}*{blocks}")
    expect_shape(c, 5, (n,), "N")
    return c.t(0).with_(shape=None if a is None else (*a[:-1], n))


def _expect_size(c: InferContext, i: int, size: int, why: str) -> None:
    """Raises InferenceError where operand i surely has another number of elements."""
    if c.has(i) and c.shape(i) is not None and prove_ne(c.t(i).size, size):
        raise c.error(f"input {c.op.operand_name(i)} has type {c.t(i)}, expected {size} elements ({why})")


def _nbits() -> list[Example]:
    def case(n: int, k: int, block: int, bits: int, *rest: object, dtype: object = np.float32, **attrs: Any) -> Example:
        blocks = -(-k // block)
        b = rand(n, blocks, block * bits // 8, dtype=np.uint8, hi=256)
        a, scales = rand(2, 3, k, dtype=dtype), rand(n, blocks, dtype=dtype, lo=0.01, hi=0.1)
        return ex(a, b, scales, *rest, K=k, N=n, block_size=block, bits=bits, **attrs)

    zeros = rand(5, 1, dtype=np.uint8, hi=256)
    return [
        case(5, 32, 16, 4),
        case(5, 32, 16, 4, zeros),
        case(5, 40, 16, 4, rand(5, 2, dtype=np.uint8, hi=256), None, rand(5)),
        case(5, 32, 16, 8, rand(5, 2, dtype=np.uint8, hi=256)),
        case(5, 32, 32, 2),
        case(5, 32, 16, 4, rand(5, 2, lo=5, hi=9)),
        case(5, 32, 16, 4, zeros, dtype=np.float16),
        case(5, 32, 16, 4, zeros, accuracy_level=4),
    ]


@op("matmul_nbits", onnx=Onnx("MatMulNBits", MICROSOFT), infer=_infer_matmul_nbits, examples=_nbits, traits=("anchor",),
    dtypes={"a": HALVES, "b": {U8}, "scales": HALVES, "zero_points": {U8, *HALVES}, "g_idx": {I32}, "bias": HALVES})  # fmt: skip
def matmul_nbits(a, b, scales, zero_points=None, g_idx=None, bias=None, *, K, N, accuracy_level=0, bits=4, block_size,
                 weight_prepacked=0):  # fmt: skip
    """a[..., K] times the transpose of weights[N, K] = (q - zero point) * scale, plus bias[N].

    q lies in b[N, blocks, bytes], `bits` bits a number, low bits first, each block of `block_size` along K with its scale and
    zero point (2**(bits - 1) where not given; bytes are packed as q is). Sums are held in at least f32 whatever
    accuracy_level allows.
    """
    blocks = b.shape[1]
    q = unpacked(b, bits).astype(np.float32)
    if zero_points is None:
        zero = np.float32(1 << (bits - 1))
    elif zero_points.dtype == np.uint8:
        zero = unpacked(zero_points.reshape(N, -1), bits)[:, :blocks, None].astype(np.float32)
    else:
        zero = wide(zero_points).reshape(N, blocks, 1)
    weight = ((q - zero) * wide(scales).reshape(N, blocks, 1)).reshape(N, -1)[:, :K]
    y = np.matmul(wide(a), weight.T)
    return (y if bias is None else y + wide(bias)).astype(a.dtype)


def _infer_gather_blocks(c: InferContext) -> TensorType:
    _check_bits(c)
    data, indices = c.shape(0), c.shape(1)
    if data is None or indices is None:
        return c.t(2).with_(shape=None)
    rank = len(data)
    gather, quantize = (c.axis(c.attr(n), rank) for n in ("gather_axis", "quantize_axis"))
    if gather != 0 or quantize != rank - 1 or gather == quantize:
        raise c.error(f"gather_axis = {gather}, quantize_axis = {quantize} for data of type {c.t(0)}; expected rows to be gathered "
                      f"(0) and blocks along the last axis ({rank - 1})")  # fmt: skip
    row = data[-1] * (8 // c.attr("bits"))
    expect_shape(c, 2, (*data[:-1], ceildiv(row, c.attr("block_size"))), "a scale for each block of the last axis")
    return c.t(2).with_(shape=(*indices, *data[1:-1], row))


def _gathers() -> list[Example]:
    data, scales, where = rand(6, 16, dtype=np.uint8, hi=256), rand(6, 2, lo=0.01, hi=0.1), np.array([[0, 5, -1]], np.int64)
    rows: dict[str, Any] = {"block_size": 16, "quantize_axis": 1}
    return [
        ex(data, where, scales, **rows),
        ex(data, where, scales, rand(6, 1, dtype=np.uint8, hi=256), **rows),
        ex(data, np.array(3, np.int32), rand(6, 1, lo=0.01, hi=0.1), rand(6, 1, dtype=np.uint8, hi=256), bits=8, **rows),
        ex(rand(6, 3, 8, dtype=np.uint8, hi=256), where, rand(6, 3, 1, dtype=np.float16), block_size=16, quantize_axis=2),
    ]


@op("gather_block_quantized", onnx=Onnx("GatherBlockQuantized", MICROSOFT), infer=_infer_gather_blocks, examples=_gathers,
    dtypes={"data": {U8}, "indices": {I32, I64}, "scales": HALVES, "zero_points": {U8}})  # fmt: skip
def gather_block_quantized(data, indices, scales, zero_points=None, *, bits=4, block_size=128, gather_axis=0, quantize_axis=1):
    """Rows of a table of few bits, as numbers: (q - zero point) * scale, each block of the last axis with its own.

    The bytes of data hold 8 / bits numbers each, low bits first, and so do those of zero_points; without them the zero point is
    2**(bits - 1). An index out of range gives zeros.
    """
    count = len(data)
    known = (indices >= -count) & (indices < count)
    at = np.where(known, indices, 0) % max(count, 1)
    q = unpacked(data[at], bits).astype(np.float32)
    step = wide(scales)[at]
    zero = np.float32(1 << (bits - 1)) if zero_points is None else unpacked(zero_points[at], bits)[..., : step.shape[-1]]
    spread = [np.repeat(np.broadcast_to(v, step.shape), block_size, axis=-1)[..., : q.shape[-1]] for v in (zero, step)]
    y = (q - spread[0]) * spread[1]
    return np.where(known.reshape(known.shape + (1,) * (data.ndim - 1)), y, 0).astype(scales.dtype)
