"""Recurrent layers: RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..limits import tick
from ..op import InferContext, Onnx, OnnxCall, drop_attrs, ex, op
from ..symbols import DimLike
from ..types import FLOATS, I32, TensorType
from .common import drop_empty, expect_choice, expect_rank, expect_shape, same_dtype, wide
from .examples import rand

Array = np.ndarray
Activation = Callable[[Array], Array]
Step = Callable[..., tuple[Array, ...]]

# ---- activations ------------------------------------------------------------------------------------------------

# What each function takes of activation_alpha and activation_beta, with the defaults of the ONNX operators of that name.
_PARAMETERS: dict[str, dict[str, float]] = {
    "affine": {"alpha": 1.0, "beta": 0.0}, "leakyrelu": {"alpha": 0.01}, "thresholdedrelu": {"alpha": 1.0},
    "scaledtanh": {"alpha": 1.0, "beta": 1.0}, "hardsigmoid": {"alpha": 0.2, "beta": 0.5}, "elu": {"alpha": 1.0},
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 0.5 * np.tanh(0.5 * x) + 0.5,
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "leakyrelu": lambda x, alpha: np.where(x >= 0, x, alpha * x),
    "thresholdedrelu": lambda x, alpha: np.where(x >= alpha, x, 0),
    "scaledtanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "hardsigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "elu": lambda x, alpha: np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.logaddexp(x, 0),
}


def named_activations(names: Sequence[str], defaults: Sequence[str], directions: int, alpha: Sequence[float],
                      beta: Sequence[float]) -> list[tuple[str, dict[str, float]]]:  # fmt: skip
    """The activation functions of all directions by their names in lower case, with their parameters: functions that have some take
    theirs in turn."""
    names = list(names or tuple(defaults) * directions)[: len(defaults) * directions]
    left = {"alpha": list(alpha), "beta": list(beta)}
    given = [{k: left[k].pop(0) if left[k] else v for k, v in _PARAMETERS.get(n.lower(), {}).items()} for n in names]
    return list(zip([n.lower() for n in names], given, strict=True))


def _activations(names: Sequence[str], defaults: Sequence[str], directions: int, alpha: Sequence[float],
                 beta: Sequence[float], clip: float | None) -> list[list[Activation]]:  # fmt: skip
    """The activation functions of each direction. The inputs of all are clipped."""
    found = named_activations(names, defaults, directions, alpha, beta)
    made = [_activation(_FUNCTIONS[name], given, clip) for name, given in found]
    return [made[i : i + len(defaults)] for i in range(0, len(made), len(defaults))]


def _activation(fn: Callable[..., Array], parameters: dict[str, float], clip: float | None) -> Activation:
    return lambda x: fn(x if clip is None else np.clip(x, -clip, clip), **parameters).astype(x.dtype)


# ---- inference --------------------------------------------------------------------------------------------------


def _infer(c: InferContext, gates: int, states: Sequence[int], peephole: int | None = None) -> list[TensorType]:
    """Y and one final state for each initial one (operand numbers), after all operands were checked."""
    same_dtype(c, *(i for i in range(len(c.types)) if i != 4))
    expect_choice(c, "direction", "forward", "reverse", "bidirectional")
    expect_choice(c, "layout", 0, 1)
    _check_activations(c, 1 if gates == 1 else 2 if gates == 3 else 3)
    for i in (0, 1, 2):
        expect_rank(c, i, 3)
    directions = 2 if c.attr("direction") == "bidirectional" else 1
    x, r = c.shape(0), c.shape(2)
    hidden: DimLike = c.attr("hidden_size") or (r[2] if r is not None else c.symbol())
    seq, batch, size = (None, None, None) if x is None else x if c.attr("layout") == 0 else (x[1], x[0], x[2])
    why, n = f"hidden_size = {hidden}", "" if gates == 1 else f"{gates}*"
    expect_shape(c, 1, (directions, gates * hidden, size), f"{n}hidden_size, {why}")
    expect_shape(c, 2, (directions, gates * hidden, hidden), f"{n}hidden_size, {why}")
    expect_shape(c, 3, (directions, 2 * gates * hidden), f"{2 * gates}*hidden_size, {why}")
    expect_shape(c, 4, (batch,), "one length a sequence")
    by_batch = c.attr("layout") == 1
    for i in states:
        expect_shape(c, i, (batch, directions, hidden) if by_batch else (directions, batch, hidden), why)
    if peephole is not None:
        expect_shape(c, peephole, (directions, 3 * hidden), f"3*hidden_size, {why}")
    seq, batch = (c.symbol() if d is None else d for d in (seq, batch))
    y = (batch, seq, directions, hidden) if by_batch else (seq, directions, batch, hidden)
    state = (batch, directions, hidden) if by_batch else (directions, batch, hidden)
    return [c.t(0).with_(shape=y), *(c.t(0).with_(shape=state) for _ in states)]


def _check_activations(c: InferContext, count: int) -> None:
    names, directions = c.attr("activations"), 2 if c.attr("direction") == "bidirectional" else 1
    for name in names:
        if name.lower() not in _FUNCTIONS:
            raise c.error(f"activations name {name!r}, expected one of {', '.join(sorted(_FUNCTIONS))}")
    if names and len(names) < count * directions:
        raise c.error(f"activations = {list(names)}, expected {count * directions} of them")


# ---- the loop over time -----------------------------------------------------------------------------------------


def _layer(cell: Callable[[int], Step], x: Array, w: Array, r: Array, b: Array | None, lens: Array | None,
           initial: Sequence[Array | None], direction: str, layout: int) -> tuple[Array, ...]:  # fmt: skip
    """Runs cell(d), a function of (x[t] @ W.T + Wb, *states) that returns the new states, over time in every direction d.

    A sequence that is over keeps its states and gives zeros. Returns Y and the final states in the asked layout.
    """
    dtype, hidden = x.dtype, r.shape[2]
    x = wide(x if layout == 0 else x.swapaxes(0, 1))
    seq, batch, _ = x.shape
    live = np.arange(seq)[:, None, None] < (seq if lens is None else lens.reshape(1, batch, 1))
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    initial = [None if s is None else wide(s if layout == 0 else s.swapaxes(0, 1)) for s in initial]
    y = np.zeros((seq, len(backward), batch, hidden), x.dtype)
    finals = [np.zeros((len(backward), batch, hidden), x.dtype) for _ in initial]
    for d, back in enumerate(backward):
        projected = x @ wide(w[d]).T
        if b is not None:
            projected = projected + wide(b[d])[: w.shape[1]]
        states, step = [np.zeros((batch, hidden), x.dtype) if s is None else s[d] for s in initial], cell(d)
        for t in range(seq - 1, -1, -1) if back else range(seq):
            tick()
            new = step(projected[t], *states)
            states = [np.where(live[t], n, s) for n, s in zip(new, states, strict=True)]
            y[t, d] = np.where(live[t], new[0], 0)
        for final, s in zip(finals, states, strict=True):
            final[d] = s
    if layout == 1:
        y, finals = y.transpose(2, 0, 1, 3), [s.swapaxes(0, 1) for s in finals]
    return y.astype(dtype), *(s.astype(dtype) for s in finals)


def _recurrent_bias(b: Array | None, d: int, size: int, dtype: np.dtype) -> Array:
    return np.zeros(size, dtype) if b is None else wide(b[d])[size:]


# ---- the operators ----------------------------------------------------------------------------------------------


def _correct_direction(call: OnnxCall) -> None:
    """Opset 1 of GRU misspelled its default."""
    if call.attrs.get("direction") == "foward":
        call.attrs["direction"] = "forward"


def _onnx(op_type: str) -> Onnx:
    return Onnx(op_type, before={3: _correct_direction, 7: drop_attrs("output_sequence")}, export=drop_empty)


def _dtypes(*names: str) -> dict:
    return dict.fromkeys(names, FLOATS) | {"sequence_lens": {I32}}


def _examples(gates: int, *more: object, results: int) -> list:
    """Examples that all three operators share: seq 4, batch 3, input 2, hidden 5."""
    h, x, lens = 5, rand(4, 3, 2), np.array([4, 1, 3], np.int32)

    def weights(directions: int, dtype: object = np.float32) -> list:
        return [rand(directions, gates * h, 2, dtype=dtype, lo=-1, hi=1), rand(directions, gates * h, h, dtype=dtype, lo=-1, hi=1)]

    b, b2 = rand(1, 2 * gates * h, lo=-1, hi=1), rand(2, 2 * gates * h, lo=-1, hi=1)
    start = [rand(2, 3, h, seed=i) for i in range(results - 1)]
    return [
        ex(x, *weights(1), hidden_size=h, results=results, name="forward"),
        ex(x, *weights(1), b, lens, direction="reverse", hidden_size=h, results=results, name="reverse"),
        ex(x, *weights(2), b2, lens, *start, direction="bidirectional", hidden_size=h, results=results, name="bidirectional"),
        ex(x, *weights(1), b, clip=0.5, hidden_size=h, results=results, name="clip"),
        ex(rand(3, 4, 2), *weights(1), b, layout=1, hidden_size=h, results=results, name="layout_1"),
        ex(x.astype(np.float64), *weights(1, np.float64), hidden_size=h, results=results, name="f64"),
        ex(x.astype(np.float16), *weights(1, np.float16), hidden_size=h, results=1, name="f16"),
        *more,
    ]


def infer_rnn(c: InferContext) -> list[TensorType]:
    return _infer(c, 1, (5,))


def _rnn_examples() -> list:
    w, given = (rand(1, 5, 2), rand(1, 5, 5)), {"activation_alpha": (0.3,), "activation_beta": (0.4,), "hidden_size": 5}
    more = [ex(rand(4, 3, 2), *w, activations=(a,), results=2, name=a, **given) for a in ("Relu", "Affine", "HardSigmoid")]
    return _examples(1, *more, results=2)


@op("rnn", onnx=_onnx("RNN"), infer=infer_rnn, results=None, examples=_rnn_examples,
    dtypes=_dtypes("x", "w", "r", "b", "initial_h"))  # fmt: skip
def rnn(x, w, r, b=None, sequence_lens=None, initial_h=None, *, activation_alpha=(), activation_beta=(), activations=(),
        clip=None, direction="forward", hidden_size=0, layout=0):  # fmt: skip
    """A simple recurrent layer: H = f(X W' + H R' + b). Returns Y[seq, directions, batch, hidden] and the last H.

    x[seq, batch, input], w[directions, hidden, input], r[directions, hidden, hidden], b[directions, 2*hidden]; with layout 1
    the batch comes first.
    """
    functions = _activations(activations, ("Tanh",), len(w), activation_alpha, activation_beta, clip)

    def cell(d: int) -> Step:
        (f,), recurrent, bias = functions[d], wide(r[d]).T, _recurrent_bias(b, d, w.shape[1], wide(w).dtype)
        return lambda xt, h: (f(xt + h @ recurrent + bias),)

    return _layer(cell, x, w, r, b, sequence_lens, [initial_h], direction, layout)


def infer_gru(c: InferContext) -> list[TensorType]:
    return _infer(c, 3, (5,))


def _gru_examples() -> list:
    x, w = rand(4, 3, 2), (rand(1, 15, 2), rand(1, 15, 5), rand(1, 30))
    more = [ex(x, *w, linear_before_reset=1, hidden_size=5, results=2, name="linear_before_reset"),
            ex(x, *w, activations=("HardSigmoid", "Softsign"), hidden_size=5, results=2, name="activations")]  # fmt: skip
    return _examples(3, *more, results=2)


@op("gru", onnx=_onnx("GRU"), infer=infer_gru, results=None, examples=_gru_examples,
    dtypes=_dtypes("x", "w", "r", "b", "initial_h"))  # fmt: skip
def gru(x, w, r, b=None, sequence_lens=None, initial_h=None, *, activation_alpha=(), activation_beta=(), activations=(),
        clip=None, direction="forward", hidden_size=0, layout=0, linear_before_reset=0):  # fmt: skip
    """A gated recurrent layer (gates z, r, h in w, r and b). Returns Y[seq, directions, batch, hidden] and the last H.

    x[seq, batch, input], w[directions, 3*hidden, input], r[directions, 3*hidden, hidden], b[directions, 6*hidden]; with
    layout 1 the batch comes first.
    """
    functions = _activations(activations, ("Sigmoid", "Tanh"), len(w), activation_alpha, activation_beta, clip)
    hidden = r.shape[2]

    def cell(d: int) -> Step:
        (f, g), recurrent = functions[d], wide(r[d]).T
        gates, last = recurrent[:, : 2 * hidden], recurrent[:, 2 * hidden :]
        bias = _recurrent_bias(b, d, w.shape[1], wide(w).dtype)

        def step(xt: Array, h: Array) -> tuple[Array, ...]:
            z, reset = np.split(f(xt[:, : 2 * hidden] + h @ gates + bias[: 2 * hidden]), 2, axis=1)
            if linear_before_reset:
                inner = reset * (h @ last + bias[2 * hidden :])
            else:
                inner = (reset * h) @ last + bias[2 * hidden :]
            return ((1 - z) * g(xt[:, 2 * hidden :] + inner) + z * h,)

        return step

    return _layer(cell, x, w, r, b, sequence_lens, [initial_h], direction, layout)


def infer_lstm(c: InferContext) -> list[TensorType]:
    return _infer(c, 4, (5, 6), 7)


def _lstm_examples() -> list:
    w, p = (rand(1, 20, 2), rand(1, 20, 5), rand(1, 40)), rand(1, 15)
    x = rand(4, 3, 2)
    more = [ex(x, *w, None, None, None, p, hidden_size=5, results=3, name="peepholes"),
            ex(x, *w, input_forget=1, hidden_size=5, results=3, name="input_forget"),
            ex(x, *w, activations=("HardSigmoid", "ScaledTanh", "Softsign"), activation_alpha=(0.3, 0.9),
               activation_beta=(0.4, 1.1), hidden_size=5, results=3, name="activations")]  # fmt: skip
    return _examples(4, *more, results=3)


@op("lstm", onnx=_onnx("LSTM"), infer=infer_lstm, results=None, examples=_lstm_examples,
    dtypes=_dtypes("x", "w", "r", "b", "initial_h", "initial_c", "p"))  # fmt: skip
def lstm(x, w, r, b=None, sequence_lens=None, initial_h=None, initial_c=None, p=None, *, activation_alpha=(), activation_beta=(),
         activations=(), clip=None, direction="forward", hidden_size=0, input_forget=0, layout=0):  # fmt: skip
    """A long short-term memory layer (gates i, o, f, c). Returns Y[seq, directions, batch, hidden], the last H and the last C.

    x[seq, batch, input], w[directions, 4*hidden, input], r[directions, 4*hidden, hidden], b[directions, 8*hidden], peepholes
    p[directions, 3*hidden] (i, o, f); with layout 1 the batch comes first. input_forget makes the forget gate 1 - i.
    """
    functions = _activations(activations, ("Sigmoid", "Tanh", "Tanh"), len(w), activation_alpha, activation_beta, clip)

    def cell(d: int) -> Step:
        (f, g, h), recurrent = functions[d], wide(r[d]).T
        bias = _recurrent_bias(b, d, w.shape[1], wide(w).dtype)
        peep_i, peep_o, peep_f = (0, 0, 0) if p is None else np.split(wide(p[d]), 3)

        def step(xt: Array, hidden: Array, memory: Array) -> tuple[Array, ...]:
            i, o, forget, c = np.split(xt + hidden @ recurrent + bias, 4, axis=1)
            i = f(i + peep_i * memory)
            keep = 1 - i if input_forget else f(forget + peep_f * memory)
            memory = keep * memory + i * g(c)
            return f(o + peep_o * memory) * h(memory), memory

        return step

    return _layer(cell, x, w, r, b, sequence_lens, [initial_h, initial_c], direction, layout)
