"""Recurrent layers on CUDA against the references: directions, lengths, states, odd sizes, one block and many."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.ops.examples import rand
from graphmill.kernels.cuda import rnn

from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
CLOSE = {"rtol": 2e-5, "atol": 5e-6}


def layer(name: str, steps: int, batch: int, inputs: int, hidden: int, directions: int = 1, dtype: object = np.float32) -> list:
    """x, w, r, b with weights small enough to keep the recurrence from amplifying rounding errors."""
    n = GATES[name] * hidden
    x, b = rand(steps, batch, inputs, dtype=dtype), rand(directions, 2 * n, dtype=dtype)
    w, r = (rand(directions, n, k, dtype=dtype, lo=-1, hi=1) for k in (inputs, hidden))
    return [x, w, r / r.dtype.type(hidden**0.5), b]


def layers() -> list[Case]:
    found = []
    for name in GATES:
        results = 3 if name == "lstm" else 2
        for steps, batch, inputs, hidden in [
            (3, 1, 1, 1),
            (5, 3, 7, 33),
            (2, 20, 4, 64),
            (40, 9, 3, 40),
            (0, 2, 3, 4),
            (3, 0, 3, 4),
        ]:
            found.append(case(name, layer(name, steps, batch, inputs, hidden), {"hidden_size": hidden}, results, **CLOSE))
        states = [rand(2, 11, 24, seed=k) for k in range(results - 1)]
        lens = np.array([0, 1, 6, 3, 6, 2, 4, 5, 6, 1, 2], np.int32)
        attrs = {"hidden_size": 24, "direction": "bidirectional"}
        found.append(case(name, [*layer(name, 6, 11, 5, 24, 2), lens, *states], attrs, results, **CLOSE))
        found.append(case(name, [*layer(name, 0, 11, 5, 24, 2), None, *states], attrs, results, **CLOSE))
    for b in (True, False):
        x, w, r, bias = layer("gru", 5, 4, 3, 17)
        attrs = {"hidden_size": 17, "linear_before_reset": 1, "direction": "reverse"}
        found.append(case("gru", [x, w, r, bias if b else None], attrs, 2, **CLOSE))
    attrs = {"hidden_size": 9, "layout": 1, "clip": 0.7}
    found.append(case("lstm", layer("lstm", 5, 3, 4, 9, dtype=np.float64), attrs, 3, rtol=1e-12, atol=1e-13))
    for more in ({}, {"input_forget": 1}):
        operands = [*layer("lstm", 4, 3, 2, 10), None, None, None, rand(1, 3 * 10, seed=5)]
        found.append(case("lstm", operands, {"hidden_size": 10, **more}, 3, **CLOSE))
    both = {"hidden_size": 6, "direction": "bidirectional", "activations": ("Elu", "Softplus", "LeakyRelu", "ThresholdedRelu")}
    found.append(case("gru", layer("gru", 3, 2, 4, 6, 2), {**both, "activation_alpha": (0.5, 0.1)}, 2, **CLOSE))
    return found


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(list(GATES))
    assert len(cases) > 20 and not refused, refused
    for c in cases:
        if c.node.operands[0].tensor.dtype.name != "f16":
            c.rtol, c.atol = 2e-5, 5e-6
    check(cases)


@needs_shim
@pytest.mark.parametrize("chunk", [rnn.CHUNK_BYTES, 4000])
@pytest.mark.parametrize("alone", [rnn.ALONE, 0])
def test_layers(alone, chunk, monkeypatch) -> None:
    """By one block for each few rows and by all; in one chunk of steps and in several."""
    monkeypatch.setattr(rnn, "ALONE", alone)
    monkeypatch.setattr(rnn, "CHUNK_BYTES", chunk)
    check(layers())


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for name in GATES for c in cases_of([name])[0][2::5]], arch)
