"""Recurrent layers against the references: directions, lengths, states, odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.ops.examples import rand
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Call, KernelSource, Refusal

from .cases import check_case
from .harness import check_native, make_node

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
CLOSE = {"rtol": 2e-5, "atol": 5e-6}


def layer(name: str, steps: int, batch: int, inputs: int, hidden: int, directions: int = 1, dtype: object = np.float32) -> list:
    """x, w, r, b with weights small enough to keep the recurrence from amplifying rounding errors."""
    n = GATES[name] * hidden
    x, b = rand(steps, batch, inputs, dtype=dtype), rand(directions, 2 * n, dtype=dtype)
    w, r = (rand(directions, n, k, dtype=dtype, lo=-1, hi=1) for k in (inputs, hidden))
    return [x, w, r / r.dtype.type(hidden**0.5), b]


@pytest.mark.parametrize("name", GATES)
def test_examples(name):
    share = check_native(name, **CLOSE)
    assert share.served and all("activations" in r or "f32 nor f64" in r for r in share.refused), share


SIZES = [(3, 1, 1, 1), (5, 3, 7, 33), (2, 20, 4, 64), (300, 9, 3, 40), (0, 2, 3, 4)]


@pytest.mark.parametrize(("steps", "batch", "inputs", "hidden"), SIZES)
@pytest.mark.parametrize("name", GATES)
def test_sizes(name, steps, batch, inputs, hidden):
    operands = layer(name, steps, batch, inputs, hidden)
    check_case(name, operands, {"hidden_size": hidden}, 3 if name == "lstm" else 2, constants=(1, 2, 3), **CLOSE)


@pytest.mark.parametrize("name", GATES)
def test_both_directions_with_lengths_and_states(name):
    states = [rand(2, 11, 24, seed=k) for k in range(2 if name == "lstm" else 1)]
    lens = np.array([0, 1, 6, 3, 6, 2, 4, 5, 6, 1, 2], np.int32)
    operands = [*layer(name, 6, 11, 5, 24, 2), lens, *states]
    attrs = {"hidden_size": 24, "direction": "bidirectional"}
    check_case(name, operands, attrs, 1 + len(states), constants=(1, 2, 3), **CLOSE)


def test_linear_before_reset():
    operands = layer("gru", 5, 4, 3, 17)
    for b in (operands[3], None):
        attrs = {"hidden_size": 17, "linear_before_reset": 1, "direction": "reverse"}
        check_case("gru", [*operands[:3], b], attrs, 2, constants=(1, 2, 3), **CLOSE)


def test_f64_and_batch_first():
    x, *weights = layer("lstm", 5, 3, 4, 9, dtype=np.float64)
    attrs = {"hidden_size": 9, "layout": 1, "clip": 0.7}
    check_case("lstm", [x, *weights], attrs, 3, constants=(1, 2, 3), rtol=1e-12, atol=1e-13)


def test_peepholes_and_coupled_gates():
    peep = rand(1, 3 * 10, seed=5)
    for attrs in ({}, {"input_forget": 1}):
        operands = [*layer("lstm", 4, 3, 2, 10), None, None, None, peep]
        check_case("lstm", operands, {"hidden_size": 10, **attrs}, 3, constants=(1, 2, 3, 7), **CLOSE)


def test_sizes_are_not_compiled_in():
    """One text for all sizes."""
    nodes = [make_node("rnn", layer("rnn", 2, 3, 4, h), {"hidden_size": h}, 2, constants=(1, 2, 3)) for h in (5, 50)]
    sources = [select(n) for n in nodes]
    assert all(isinstance(s, KernelSource) for s in sources) and sources[0].text == sources[1].text


def test_weights_must_be_constant():
    answer = select(make_node("rnn", layer("rnn", 2, 3, 4, 5), {"hidden_size": 5}, 2))
    assert isinstance(answer, Refusal) and "not constant" in str(answer)


def test_long_sequences_go_in_passes():
    """Between them a run can be stopped: no tile of the recurrence takes more than about ten milliseconds."""
    node = make_node("lstm", layer("lstm", 3000, 1, 8, 256), {"hidden_size": 256}, 3, constants=(1, 2, 3))
    source = select(node)
    assert isinstance(source, KernelSource)
    shapes = [None if v is None else v.tensor.shape for v in node.operands]
    launch = source.bind(Call(shapes, [r.tensor.shape for r in node.results]))
    assert len(launch.passes) >= 8 and launch.each()[-1] == ((*launch.ints, len(launch.passes) - 1), 1)
    assert source.bind(Call([(3, *shapes[0][1:]), *shapes[1:]], [r.tensor.shape for r in node.results])).passes[1:] == (1,)
