"""Recurrent layers on random attributes, against ONNX Runtime; what it cannot run, against smaller runs of our own."""

from __future__ import annotations

import graphmill.ir.ops.rnn  # noqa: F401
import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.op import OPS, Example, InferContext
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, TensorType
from op_harness import check_infer, run_reference
from ort_peer import agrees

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
FUNCTIONS = ["Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign"]


def layer(rng: np.random.Generator, name: str, seq: int = 4, batch: int = 3) -> Example:
    gates, h, size = GATES[name], int(rng.integers(1, 5)), int(rng.integers(1, 4))
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    d = 2 if direction == "bidirectional" else 1

    def maybe(*shape: int) -> np.ndarray | None:
        return rng.uniform(-1, 1, shape).astype(np.float32) if rng.random() < 0.6 else None

    x, w, r = (rng.uniform(-1, 1, s).astype(np.float32) for s in ((seq, batch, size), (d, gates * h, size), (d, gates * h, h)))
    lens = rng.integers(1, seq + 1, batch).astype(np.int32) if seq and rng.random() < 0.6 else None
    operands = [x, w, r, maybe(d, 2 * gates * h), lens, maybe(d, batch, h)]
    attrs: dict = {"hidden_size": h, "direction": direction}
    if name == "lstm":
        operands += [maybe(d, batch, h), maybe(d, 3 * h)]
        attrs["input_forget"] = int(rng.integers(2))
    if name == "gru":
        attrs["linear_before_reset"] = int(rng.integers(2))
    if name != "lstm" and rng.random() < 0.4:  # ONNX Runtime does not clip what LSTM's h takes; ONNX's text clips all inputs
        attrs["clip"] = float(rng.uniform(0.2, 1))
    if rng.random() < 0.4:
        n = d * {"rnn": 1, "gru": 2, "lstm": 3}[name]
        attrs["activations"] = tuple(str(f) for f in rng.choice(FUNCTIONS, n))
        takes_alpha = [f for f in attrs["activations"] if f in FUNCTIONS[3:9]]
        attrs["activation_alpha"] = tuple(rng.uniform(0.1, 0.9, len(takes_alpha)).tolist())
        takes_beta = [f for f in takes_alpha if f in ("Affine", "ScaledTanh", "HardSigmoid")]
        attrs["activation_beta"] = tuple(rng.uniform(0.1, 0.9, len(takes_beta)).tolist())
    return Example(tuple(operands), attrs, 3 if name == "lstm" else 2)


@pytest.mark.parametrize("name", list(GATES))
def test_random_layers(name: str) -> None:
    rng = np.random.default_rng(7)
    assert sum(agrees(name, layer(rng, name)) for _ in range(120)) >= 100


@pytest.mark.parametrize("name", list(GATES))
@pytest.mark.parametrize("seq, batch", [(0, 3), (4, 0)])
def test_empty(name: str, seq: int, batch: int) -> None:
    """No steps hand the initial states on. (ONNX Runtime ends the process here.)"""
    e = layer(np.random.default_rng(8), name, seq, batch)
    results = run_reference(OPS[name], e)
    check_infer(OPS[name], e, results)
    if seq == 0:
        first = e.operands[5]
        np.testing.assert_array_equal(results[1], np.zeros_like(results[1]) if first is None else first)


@pytest.mark.parametrize("name", list(GATES))
def test_layout_1_swaps_batch_and_time(name: str) -> None:
    e = layer(np.random.default_rng(9), name)
    plain = run_reference(OPS[name], e)
    operands = [o if o is None or i not in (0, 5, 6) else o.swapaxes(0, 1) for i, o in enumerate(e.operands)]
    y, *states = run_reference(OPS[name], Example(tuple(operands), {**e.attrs, "layout": 1}, e.results))
    np.testing.assert_array_equal(y, plain[0].transpose(2, 0, 1, 3))
    for s, p in zip(states, plain[1:], strict=True):
        np.testing.assert_array_equal(s, p.swapaxes(0, 1))


@pytest.mark.parametrize("name", list(GATES))
def test_a_sequence_alone_is_the_sequence_in_a_batch(name: str) -> None:
    e = layer(np.random.default_rng(13), name)
    x, w, r, b, *_ = e.operands
    lens = np.array([4, 2, 0], np.int32)
    y, h, *_ = run_reference(OPS[name], Example((x, w, r, b, lens), e.attrs, e.results))
    for i, n in enumerate(lens):
        alone, last, *_ = run_reference(OPS[name], Example((x[:n, i : i + 1], w, r, b), e.attrs, e.results))
        np.testing.assert_allclose(y[:n, :, i], alone[:, :, 0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(h[:, i], last[:, 0], rtol=1e-5, atol=1e-6)
        assert not y[n:, :, i].any()


def infer(name: str, *shapes: tuple | None, **attrs: object) -> list:
    d = OPS[name]
    types = [None if s is None else TensorType(F32, s) for s in shapes]
    return [t.shape for t in d.infer(InferContext(d, types, {k: a.default for k, a in d.attrs.items()} | attrs, 1))]


def test_symbolic_lengths() -> None:
    n, b = symbol("n"), symbol("b")
    assert infer("lstm", (n, b, 64), (1, 1024, 64), (1, 1024, 256)) == [(n, 1, b, 256), (1, b, 256), (1, b, 256)]


@pytest.mark.parametrize("shapes, attrs, message", [
    ([(4, 2, 64), (1, 512, 64), (1, 1024, 256)], {"hidden_size": 256},
     r"input w has shape f32\[1,512,64\], expected f32\[1,1024,64\] \(4\*hidden_size, hidden_size = 256\)"),
    ([(4, 2, 64), (1, 1024, 64), (1, 1024, 256), (1, 1024)], {}, r"input b has shape f32\[1,1024\], expected f32\[1,2048\]"),
    ([(4, 2, 64), (1, 1024, 64), (1, 1024, 256)], {"direction": "backward"}, "direction = 'backward', expected one of 'forward'"),
    ([(4, 2, 64), (1, 1024, 64), (1, 1024, 256)], {"activations": ("Sigmoid", "Gelu", "Tanh")}, "activations name 'Gelu'"),
])  # fmt: skip
def test_wrong_operands_are_named(shapes: list, attrs: dict, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        infer("lstm", *shapes, **attrs)
