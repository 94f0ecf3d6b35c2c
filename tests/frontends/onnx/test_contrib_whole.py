"""Operators of the domain com.microsoft that are operators of the IR: their examples, imported, against ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir import ops as _families  # noqa: F401  (registers the operators)
from graphmill.ir.errors import ImportProblem, InferenceError
from graphmill.ir.op import OPS, Example, OpDef

sys.path.insert(0, str(Path(__file__).parent))
from contrib_peer import check, model, ours, theirs

WHOLE = [d for n in OPS if (d := OPS[n]).onnx and d.onnx[0].domain == "com.microsoft"]
# What is computed from, and so no initializer, where ONNX Runtime asks for constants among the operands.
REQUIRED: dict[str, dict] = {"tokenizer": {"mark": 0, "pad_value": "", "mincharnum": 1}}  # by ONNX Runtime; defaults here
COMPUTED = {"dynamic_quantize_lstm": {0, 4, 5, 6}, "matmul_nbits": {0}, "gather_block_quantized": {1}}


def node_of(d: OpDef, e: Example) -> dict:
    attrs = REQUIRED.get(d.name, {}) | {k: list(v) if isinstance(v, tuple) else v for k, v in e.attrs.items()}
    fixed = set(range(len(e.operands))) - COMPUTED[d.name] if d.name in COMPUTED else set()
    constant = tuple(i for i in sorted(fixed) if e.operands[i] is not None)
    return {"inputs": list(e.operands), "attrs": attrs, "outputs": tuple(range(e.results)), "constant": constant}


@pytest.mark.parametrize("d, index", [pytest.param(d, i, id=f"{d.name}-{i}") for d in WHOLE for i in range(len(d.examples()))])
def test_examples(d: OpDef, index: int) -> None:
    e = d.examples()[index]
    if e.name == "ragged_prompt":
        pytest.skip("rows of padding mean nothing: see below")
    if e.name == "no_texts":
        pytest.skip("ONNX Runtime returns an array without the axis of tokens, whose rank contradicts its own inference")
    coarse = {"rtol": 5e-3, "atol": 5e-3} if any(x is not None and x.dtype == np.float16 for x in e.operands) else {}
    if e.attrs.get("accuracy_level") == 4:
        coarse = {"atol": 0.05}  # ONNX Runtime rounds A to 8 bits, which that level allows
    check(d.onnx[0].op_type, **node_of(d, e), **coarse)


def test_a_prompt_with_shorter_sequences():
    """Up to where each sequence ends; the caches agree as a whole."""
    d = OPS["group_query_attention"]
    node = node_of(d, next(e for e in d.examples() if e.name == "ragged_prompt"))
    m = model("GroupQueryAttention", **node)
    mine, other = ours(m, node["inputs"]), theirs(m, node["inputs"])
    np.testing.assert_allclose(mine[0][0], other[0][0], 1e-5, 1e-5)
    np.testing.assert_allclose(mine[0][1, :2], other[0][1, :2], 1e-5, 1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(mine[1:], other[1:]))


def test_attention_takes_lengths_that_do_not_fit_as_an_error():
    d = OPS["group_query_attention"]
    node = node_of(d, d.examples()[0])
    node["inputs"][5] = np.array([9, 9], np.int32)
    with pytest.raises(Exception, match=r"seqlens_k = \[9, 9\] with 4 new tokens and total_sequence_length = 4"):
        ours(model("GroupQueryAttention", **node), node["inputs"])


@pytest.mark.parametrize("change, message", [
    ({"bits": 3}, "bits = 3, expected one of 2, 4, 8"), ({"block_size": 24}, "block_size = 24, expected a power of two"),
    ({"weight_prepacked": 1}, "weight_prepacked = 1, expected one of 0"), ({"K": 48}, "expected K = 48 as its last dimension"),
])  # fmt: skip
def test_weights_of_few_bits_refuse(change: dict, message: str) -> None:
    d = OPS["matmul_nbits"]
    node = node_of(d, d.examples()[0])
    node["attrs"] |= change
    with pytest.raises(InferenceError, match=message):
        ours(model("MatMulNBits", **node), node["inputs"])


def test_unknown_attributes_are_refused():
    d = OPS["inverse"]
    node = node_of(d, d.examples()[0])
    node["attrs"] = {"speed": 3}
    with pytest.raises(ImportProblem, match="the attribute speed = 3 is unknown"):
        read(model("Inverse", **node))


def test_sums_of_bytes_are_exact():
    """Two products of the largest bytes: 16-bit sums of neighbours, as some processors have them, would saturate."""
    x, h = np.full((1, 1, 2), 1, np.float32), 1
    w, r, zero = np.full((1, 2, 4), 127, np.int8), np.zeros((1, 1, 4), np.int8), np.zeros(1, np.int8)
    one = np.full(1, 0.01, np.float32)
    node = {"inputs": [x, w, r, *[None] * 5, one, zero, one, zero],
            "attrs": {"hidden_size": h, "activations": ["Affine", "Affine", "Affine"]}}  # fmt: skip
    (y,) = ours(model("DynamicQuantizeLSTM", **node), node["inputs"])
    gate = 2 * 1.27  # every gate; the memory is its square, the state its cube
    np.testing.assert_allclose(y.ravel(), [gate**3], rtol=1e-5)
