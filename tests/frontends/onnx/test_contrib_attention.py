"""Attention and rotary positions of the domain com.microsoft against ONNX Runtime over masks, pasts and layouts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir import interp
from graphmill.ir.errors import ImportProblem

sys.path.insert(0, str(Path(__file__).parent))
from contrib_peer import check, feeds_of, model, ours, theirs

RNG = np.random.default_rng(5)
I32 = np.int32


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test has the same numbers whichever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state


def rand(*shape: int) -> np.ndarray:
    return RNG.uniform(-1, 1, shape).astype(np.float32)


B, S, H, D, IN = 2, 4, 2, 8, 12  # batch, length, heads, size of a head, columns of the input
P = 3  # length of the past


# Scores of -10000 and more have few digits behind the point: a row in which all is masked.
COARSE = {"rtol": 0, "atol": 2e-3}


def masks(total: int) -> dict[str, np.ndarray | None]:
    return {
        "none": None,
        "lengths": np.array([total, 2], I32),
        "ends_and_starts": np.array([total, total - 1, 1, 0], I32),
        "rows": np.array([[1] * total, [0] + [1] * (total - 1)], I32),
        "blind": np.array([[0] * total, [1] * total], I32),
        "square": (RNG.random((B, S, total)) > 0.3).astype(I32),
    }


@pytest.mark.parametrize("mask", ["none", "lengths", "ends_and_starts", "rows", "blind", "square"])
@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_attention(mask: str, unidirectional: int, past: bool, bias: bool) -> None:
    if past and bias:
        pytest.skip("ONNX Runtime takes no bias beside a past")
    total = S + P if past else S
    inputs = [rand(B, S, IN), rand(IN, 3 * H * D), rand(3 * H * D), masks(total)[mask], rand(2, B, H, P, D) if past else None,
              rand(B, 1, S, total) if bias else None]  # fmt: skip
    check("Attention", inputs, {"num_heads": H, "unidirectional": unidirectional}, (0, 1), **(COARSE if mask == "blind" else {}))


def test_attention_with_other_sizes_scale_and_filter():
    sizes = [H * D, H * D, H * 5]
    inputs = [rand(B, S, IN), rand(IN, sum(sizes)), rand(sum(sizes)), masks(S)["rows"]]
    check("Attention", inputs, {"num_heads": H, "qkv_hidden_sizes": sizes, "scale": 0.7, "mask_filter_value": -1.5})


@pytest.mark.parametrize("past", [False, True])
def test_the_least_number_as_filter(past: bool) -> None:
    """In rows in which all is masked, keys behind the query and masked ones are alike."""
    total, attrs = S + P if past else S, {"num_heads": H, "unidirectional": 1, "mask_filter_value": float(np.finfo(np.float32).min)}
    rows = masks(total)["blind"]
    given = [rand(B, H, P, D), rand(B, H, P, D)] if past else []
    check("MultiHeadAttention", [*(rand(B, S, H * D) for _ in range(3)), None, rows, None, *given], attrs, (0, 1, 2))
    qkv = [rand(B, S, IN), rand(IN, 3 * H * D), rand(3 * H * D)]
    check("Attention", [*qkv, rows, *([np.stack(given)] if past else [])], attrs, (0, 1))


def test_attention_without_bias_over_a_symbolic_batch():
    inputs = [rand(B, S, IN), rand(IN, 3 * H * D), None, np.array([4, 3], I32)]
    for dims in ({0: ("n", "s", IN), 3: ("n",)}, {0: ("n", None, IN), 3: ("n",)}):
        check("Attention", inputs, {"num_heads": H}, dims=dims, constant=(1,))
    two = model("Attention", inputs, {"num_heads": H}, dims={0: ("n", "s", IN), 3: ("m",)}, constant=(1,))
    with pytest.raises(ImportProblem, match=r"its mask has \$?m elements for a batch of \$?n; expected surely as many"):
        read(two)


def test_attention_by_a_square_of_the_longest_sequence():
    """ONNX Runtime's CPU kernel asks for a past here."""
    square = np.tril(np.ones((1, 1, 16, 16), I32)).repeat(B, 0)
    inputs = [rand(B, S, IN), rand(IN, 3 * H * D), rand(3 * H * D), square, rand(2, B, H, P, D)]
    m = model("Attention", inputs, {"num_heads": H}, (0, 1))
    causal = model("Attention", [*inputs[:3], None, inputs[4]], {"num_heads": H, "unidirectional": 1}, (0, 1))
    for a, b in zip(ours(m, inputs), theirs(causal, [*inputs[:3], None, inputs[4]]), strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-5)


@pytest.mark.parametrize("attrs, message", [
    ({"do_rotary": 1}, "do_rotary = 1 is not supported; expected 0"),
    ({"past_present_share_buffer": 1}, "past_present_share_buffer = 1 is not supported"),
    ({"qkv_hidden_sizes": [16, 16]}, "expected three sizes"), ({"num_heads": 5}, "expected multiples of num_heads = 5"),
])  # fmt: skip
def test_attention_refuses(attrs: dict, message: str) -> None:
    with pytest.raises(ImportProblem, match=message):
        read(model("Attention", [rand(B, S, IN), rand(IN, 48), rand(48)], {"num_heads": H, **attrs}))


@pytest.mark.parametrize("mask", ["none", "lengths", "rows", "blind", "square"])
@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_attention(mask: str, unidirectional: int, past: bool, bias: bool) -> None:
    if mask == "lengths" and past:
        pytest.skip("ONNX Runtime takes no lengths beside a past")
    total = S + P if past else S
    q, k, v = (rand(B, S, H * D) for _ in range(3))
    inputs = [q, k, v, rand(3 * H * D) if bias else None, masks(total)[mask], rand(1, H, S, total) if bias else None]
    inputs += [rand(B, H, P, D), rand(B, H, P, D)] if past else []
    attrs = {"num_heads": H, "unidirectional": unidirectional}
    check("MultiHeadAttention", inputs, attrs, (0, 1, 2), **(COARSE if mask == "blind" else {}))


@pytest.mark.parametrize("outputs", [(0,), (0, 3)])
def test_multi_head_attention_across(outputs: tuple) -> None:
    """Keys of another length, values of another size, and keys that come head by head."""
    inputs = [rand(B, S, H * D), rand(B, 6, H * D), rand(B, 6, H * 5), None, masks(6)["rows"]]
    check("MultiHeadAttention", inputs, {"num_heads": H, "scale": 0.5, "mask_filter_value": -7.0}, outputs, result=1)
    check("MultiHeadAttention", [rand(B, S, H * D), rand(B, H, 6, D), rand(B, H, 6, D)], {"num_heads": H}, outputs, result=1)


def test_multi_head_attention_of_packed_operands():
    """ONNX Runtime has these for GPUs alone: against the same numbers, unpacked."""
    q, k, v = (rand(B, S, H, D) for _ in range(3))
    flat = [x.reshape(B, S, H * D) for x in (q, k, v)]
    (expected,) = ours(model("MultiHeadAttention", flat, {"num_heads": H}), flat)
    for inputs in ([np.stack([q, k, v], axis=3)], [flat[0], np.stack([k, v], axis=3)]):
        (y,) = ours(model("MultiHeadAttention", inputs, {"num_heads": H}), inputs)
        np.testing.assert_allclose(y, expected, 1e-6, 1e-6)


def test_multi_head_attention_refuses():
    q = rand(B, S, H * D)
    with pytest.raises(ImportProblem, match="its input value is missing"):
        read(model("MultiHeadAttention", [q, q], {"num_heads": H}))
    buffers = [q, q, q, None, None, None, None, None, np.array([1], I32)]
    with pytest.raises(ImportProblem, match="its input past_sequence_length is not supported"):
        read(model("MultiHeadAttention", buffers, {"num_heads": H}))


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("mask", ["none", "lengths", "rows"])
@pytest.mark.parametrize("past", [False, True])
def test_qattention(columns: bool, mask: str, past: bool) -> None:
    n = 3 * H * D
    scale, zero = (RNG.uniform(0.001, 0.01, n).astype(np.float32), np.zeros(n, np.int8)) if columns else (
        np.asarray(np.float32(0.004)), np.asarray(np.int8(3)))  # fmt: skip
    x, w = RNG.integers(0, 256, (B, S, IN)).astype(np.uint8), RNG.integers(-63, 64, (IN, n)).astype(np.int8)
    given = masks(S + P if past else S)[mask]
    inputs = [x, w, rand(n), np.asarray(np.float32(0.01)), scale, given, np.asarray(np.uint8(120)), zero,
              rand(2, B, H, P, D) if past else None]  # fmt: skip
    outputs = (0, 1) if past else (0,)
    check("QAttention", inputs, {"num_heads": H, "unidirectional": 1}, outputs, constant=(1, 2, 3, 4, 6, 7), atol=1e-4)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", [np.array([3]), np.array([[0, 1, 2, 3], [5, 4, 0, 9]])])
@pytest.mark.parametrize("shape, attrs", [
    ((B, S, 32), {}), ((B, 2, S, 16), {}), ((B, S, 48), {"num_heads": 2, "rotary_embedding_dim": 16}),
])  # fmt: skip
def test_rotary_embedding(interleaved: int, positions: np.ndarray, shape: tuple, attrs: dict) -> None:
    inputs = [rand(*shape), positions.astype(np.int64), rand(12, 8), rand(12, 8)]
    check("RotaryEmbedding", inputs, {"interleaved": interleaved, **attrs})


def test_attention_of_an_empty_batch():
    inputs = [rand(0, S, IN), rand(IN, 3 * H * D), rand(3 * H * D)]
    m = model("Attention", inputs, {"num_heads": H})
    assert next(iter(interp.run(read(m), feeds_of(m, inputs)).values())).shape == (0, S, H * D)
