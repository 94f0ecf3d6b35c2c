"""The LSTM of bytes against its reference: sizes, lengths, directions, scales by column, sums at the ends of their range."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.ops.examples import rand
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import KernelSource, Refusal

from .cases import check_case
from .harness import check_native, make_node

# One rounding of a state changes what it is quantized to: numbers are compared to a few hundredths of their largest.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def test_examples():
    share = check_native("dynamic_quantize_lstm", **CLOSE)
    assert share.served >= 5 and all("activations" in r for r in share.refused), share


def layer(
    steps: int, batch: int, inputs: int, hidden: int, directions: int = 1, dtype: object = np.int8, columns: bool = False
) -> list:
    """x, w, r, b, then (by position) scales and zero points. The states are quantized exactly where they stay at 0 and 1: gates saturate."""
    low, high = (-128, 128) if dtype is np.int8 else (0, 256)
    n = 4 * hidden
    w, r = (rand(directions, k, n, dtype=dtype, lo=low, hi=high) for k in (inputs, hidden))
    shape = (directions, n) if columns else (directions,)
    scales = [np.abs(rand(*shape, seed=i, lo=0.0005, hi=0.002)) for i in (0, 1)]
    zeros = [rand(*shape, dtype=dtype, lo=low, hi=high, seed=2 + i) for i in (0, 1)]
    return [
        rand(steps, batch, inputs),
        w,
        r,
        rand(directions, 2 * n),
        None,
        None,
        None,
        None,
        scales[0],
        zeros[0],
        scales[1],
        zeros[1],
    ]


SIZES = [(3, 1, 1, 1), (5, 3, 7, 33), (2, 9, 300, 20), (40, 2, 5, 64), (0, 2, 3, 4), (4, 1, 600, 70)]


@pytest.mark.parametrize(("steps", "batch", "inputs", "hidden"), SIZES)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_sizes(steps, batch, inputs, hidden, dtype):
    operands = layer(steps, batch, inputs, hidden, dtype=dtype)
    source = check_case("dynamic_quantize_lstm", operands, {"hidden_size": hidden}, 3, constants=(1, 2, 9, 11), **CLOSE)
    assert source.variant == "lstm.i32"


def test_both_directions_with_lengths_and_states():
    operands = layer(6, 11, 5, 24, 2, columns=True)
    operands[4] = np.array([0, 1, 6, 3, 6, 2, 4, 5, 6, 1, 2], np.int32)
    operands[5], operands[6] = (rand(2, 11, 24, seed=k) for k in (5, 6))
    attrs = {"hidden_size": 24, "direction": "bidirectional"}
    for results in (1, 2, 3):
        check_case("dynamic_quantize_lstm", operands, attrs, results, constants=(1, 2, 9, 11), **CLOSE)
    operands[4] = np.zeros(11, np.int32)
    check_case("dynamic_quantize_lstm", operands, attrs, 3, constants=(1, 2, 9, 11))


def test_peepholes_clip_and_coupled_gates():
    operands = layer(4, 3, 2, 10)
    operands[7] = rand(1, 30, seed=5)
    for attrs in ({}, {"input_forget": 1}, {"clip": 0.5}, {"direction": "reverse"}):
        check_case("dynamic_quantize_lstm", operands, {"hidden_size": 10, **attrs}, 3, constants=(1, 2, 9, 11), **CLOSE)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("inputs", [255, 256, 257, 2000])
def test_sums_are_exact_at_the_extremes(inputs, dtype):
    """Every product is 255 * 255 (u8), or 255 * -128 (i8): saturating sums of pairs, or f32 sums that round, would be far off."""
    info = np.iinfo(dtype)
    operands = layer(2, 2, inputs, 8, dtype=dtype)
    operands[0] = np.ones((2, 2, inputs), np.float32)
    operands[1] = np.full_like(operands[1], info.max if info.min == 0 else info.min)
    operands[1][:, 0] -= np.arange(32).astype(dtype) if info.min == 0 else -np.arange(32).astype(dtype)
    operands[8] = np.float32([1e-6 * 255 / inputs])
    operands[9] = np.zeros(1, dtype)
    operands[3] = None
    check_case("dynamic_quantize_lstm", operands, {"hidden_size": 8}, 3, constants=(1, 2, 9, 11), rtol=2e-6, atol=1e-7)


def test_sizes_are_not_compiled_in():
    nodes = [make_node("dynamic_quantize_lstm", layer(2, 3, 4, h), {"hidden_size": h}, 2, constants=(1, 2, 9, 11)) for h in (5, 50)]
    sources = [select(n) for n in nodes]
    assert all(isinstance(s, KernelSource) for s in sources) and sources[0].text == sources[1].text


def test_what_is_refused():
    answer = select(make_node("dynamic_quantize_lstm", layer(2, 3, 4, 5), {"hidden_size": 5}, 2))
    assert isinstance(answer, Refusal) and "not constant" in str(answer)
    attrs = {"hidden_size": 5, "activations": ("HardSigmoid", "Tanh", "Tanh")}
    answer = select(make_node("dynamic_quantize_lstm", layer(2, 3, 4, 5), attrs, 2, constants=(1, 2, 9, 11)))
    assert isinstance(answer, Refusal) and "activations" in str(answer)
