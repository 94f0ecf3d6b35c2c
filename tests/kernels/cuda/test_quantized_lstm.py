"""The LSTM of bytes on CUDA against its reference: sizes, lengths, directions, scales by column, one block and many, exact sums."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.ops.examples import rand
from graphmill.kernels.cuda import quantized_lstm
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import Refusal

from ..cpu.harness import make_node
from ..cpu.test_quantized_lstm import layer
from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

# One rounding of a state changes what it is quantized to.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
CONSTANT = (1, 2, 9, 11)


def lstm(operands: list, results: int = 3, close: dict[str, float] = CLOSE, **attrs: object) -> Case:
    return case(
        "dynamic_quantize_lstm", operands, {"hidden_size": operands[2].shape[1], **attrs}, results, constants=CONSTANT, **close
    )


def layers() -> list[Case]:
    found = [
        lstm(layer(*sizes, dtype=dtype))
        for sizes in [(3, 1, 1, 1), (5, 3, 7, 33), (2, 9, 300, 20), (40, 2, 5, 64), (0, 2, 3, 4), (3, 0, 3, 4), (4, 1, 600, 70)]
        for dtype in (np.int8, np.uint8)
    ]
    operands = layer(6, 11, 5, 24, 2, columns=True)
    operands[4] = np.array([0, 1, 6, 3, 6, 2, 4, 5, 6, 1, 2], np.int32)
    operands[5], operands[6] = (rand(2, 11, 24, seed=k) for k in (5, 6))
    found += [lstm(operands, results, direction="bidirectional") for results in (1, 2, 3)]
    for lens in (np.zeros(11, np.int32), np.minimum(operands[4], 3)):
        found.append(lstm([*operands[:4], lens, *operands[5:]], direction="bidirectional"))
    operands = layer(4, 3, 2, 10)
    operands[7] = rand(1, 30, seed=5)
    return found + [lstm(operands, **attrs) for attrs in ({}, {"input_forget": 1}, {"clip": 0.5}, {"direction": "reverse"})]


def extremes(inputs: int, dtype: type) -> Case:
    """Every product is 255 * 255 (u8), or 255 * -128 (i8): sums that saturate, or round in f32, would be far off."""
    info = np.iinfo(dtype)
    operands = layer(2, 2, inputs, 8, dtype=dtype)
    operands[0] = np.ones((2, 2, inputs), np.float32)
    operands[1] = np.full_like(operands[1], info.max if info.min == 0 else info.min)
    operands[1][:, 0] -= np.arange(32).astype(dtype) if info.min == 0 else -np.arange(32).astype(dtype)
    operands[8], operands[9], operands[3] = np.float32([1e-6 * 255 / inputs]), np.zeros(1, dtype), None
    return lstm(operands, close={"rtol": 2e-6, "atol": 1e-7})


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(["dynamic_quantize_lstm"])
    assert len(cases) == 6 and not refused, refused
    for c in cases:
        c.rtol, c.atol = CLOSE["rtol"], CLOSE["atol"]
    check(cases)


@needs_shim
@pytest.mark.parametrize("held", [quantized_lstm.HELD, 2])
@pytest.mark.parametrize("alone", [quantized_lstm.ALONE, -1])
def test_layers(alone: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one block for a direction and by many; with the states in shared memory as a whole and in parts."""
    monkeypatch.setattr(quantized_lstm, "ALONE", alone)
    monkeypatch.setattr(quantized_lstm, "HELD", held)
    check(layers())


@needs_shim
def test_sums_are_exact_at_the_extremes() -> None:
    check([extremes(inputs, dtype) for inputs in (255, 256, 257, 2000) for dtype in (np.int8, np.uint8)])


def test_sizes_are_not_compiled_in() -> None:
    texts = {c.source.text for c in (lstm(layer(2, 3, 4, h)) for h in (5, 50))}
    assert len(texts) == 1


def test_many_steps_are_many_launches_only_where_there_is_much_to_multiply() -> None:
    few, many = (lstm(layer(3, 2, 4, h)) for h in (8, 300))
    shapes = [[np.shape(x) for x in c.operands] for c in (few, many)]
    calls = [type("C", (), {"operands": s}) for s in shapes]
    assert [len(c.source.bind(call).passes) for c, call in zip((few, many), calls, strict=True)] == [4, 6]  # type: ignore[arg-type]


def test_what_is_refused() -> None:
    answer = select(make_node("dynamic_quantize_lstm", layer(2, 3, 4, 5), {"hidden_size": 5}, 2))
    assert isinstance(answer, Refusal) and "not constant" in str(answer)


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in layers()], arch)
