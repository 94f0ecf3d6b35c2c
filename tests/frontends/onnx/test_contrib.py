"""Products, convolutions, activations and norms of the domain com.microsoft against ONNX Runtime; what is refused, and how."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir.errors import ImportProblem

sys.path.insert(0, str(Path(__file__).parent))
from contrib_peer import check, model, ours

RNG = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test has the same numbers whichever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state


def rand(*shape: int, dtype: type = np.float32, lo: float = -2.0, hi: float = 2.0) -> np.ndarray:
    return RNG.uniform(lo, hi, shape).astype(dtype)


@pytest.mark.parametrize("op_type, inputs", [
    ("Gelu", [rand(2, 3, lo=-6, hi=6)]), ("FastGelu", [rand(2, 3)]), ("FastGelu", [rand(2, 3), rand(3)]),
    ("BiasGelu", [rand(2, 3), rand(3)]), ("QuickGelu", [rand(2, 3)]),
])  # fmt: skip
def test_gelus(op_type: str, inputs: list) -> None:
    check(op_type, inputs)


def test_quick_gelu_by_another_factor():
    check("QuickGelu", [rand(4)], {"alpha": 0.7})


@pytest.mark.parametrize("a, b, attrs", [
    ((2, 3), (3, 4), {"alpha": 0.5}), ((3, 2), (3, 4), {"transA": 1}), ((2, 3), (4, 3), {"transB": 1}),
    ((5, 3, 2), (5, 4, 3), {"transA": 1, "transB": 1, "alpha": -2.0}), ((2, 5, 3), (5, 3, 4), {"transBatchA": 1}),
    ((5, 2, 3), (3, 5, 4), {"transBatchB": 1}), ((2, 5, 6, 3), (4, 5, 6, 3), {"transBatchA": 1, "transBatchB": 1, "transB": 1}),
    ((3, 5, 2), (5, 3, 4), {"transBatchA": 1, "transA": 1}), ((3,), (3, 4), {"transA": 1}), ((2, 3), (3,), {"transB": 1}),
    ((2, 3), (4, 5, 3, 2), {}),
])  # fmt: skip
def test_fused_matmul(a: tuple, b: tuple, attrs: dict) -> None:
    check("FusedMatMul", [rand(*a), rand(*b)], attrs)


def test_fused_matmul_of_doubles():
    check("FusedMatMul", [rand(2, 3, dtype=np.float64), rand(3, 2, dtype=np.float64)], {"alpha": 0.3})


def test_transpose_matmul():
    check("TransposeMatMul", [rand(3, 2), rand(4, 3)], {"transA": 1, "transB": 1, "alpha": 3.0})


@pytest.mark.parametrize("attrs", [
    {"activation": "Relu", "alpha": 0.5, "beta": 2.0}, {"activation": "LeakyRelu", "activation_alpha": 0.3},
    {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.4}, {"activation": "Elu", "activation_alpha": 2.0},
    {"activation": "Tanh"}, {"activation": "Sigmoid"}, {"activation": "Softplus"}, {"activation": "Softsign"},
    {"activation": "ThresholdedRelu", "activation_alpha": 0.4},
    {"activation": "Selu", "activation_alpha": 1.5, "activation_gamma": 1.1},
])  # fmt: skip
def test_fused_gemm(attrs: dict) -> None:
    check("FusedGemm", [rand(2, 3), rand(4, 3), rand(4)], {"transB": 1, **attrs})


@pytest.mark.parametrize("attrs", [
    {}, {"activation": "Relu"}, {"activation": "Tanh"}, {"activation": "Sigmoid"},
    {"activation": "LeakyRelu", "activation_params": [0.2]}, {"activation": "Clip", "activation_params": [-0.5, 1.0]},
    {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]},
])  # fmt: skip
@pytest.mark.parametrize("parts", [0, 1, 2])
def test_fused_conv(attrs: dict, parts: int) -> None:
    inputs = [rand(2, 4, 5, 5), rand(6, 2, 3, 3), rand(6), rand(2, 6, 5, 5)][: 2 + parts]
    check("FusedConv", inputs, {"group": 2, "pads": [1, 1, 1, 1], "kernel_shape": [3, 3], **attrs})


def test_fused_conv_adds_without_bias():
    check("FusedConv", [rand(1, 2, 4, 4), rand(3, 2, 1, 1), None, rand(1, 3, 4, 4)], {"activation": "Relu", "kernel_shape": [1, 1]})


def test_softmax_of_a_sum_and_split_gelu():
    """ONNX Runtime has these for GPUs alone: against their formulas."""
    x, bias = rand(2, 3, 4), rand(2, 1, 4)
    (y,) = ours(model("BiasSoftmax", [x, bias], {"axis": 2, "is_inner_broadcast": 1}), [x, bias])
    e = np.exp(x + bias)
    np.testing.assert_allclose(y, e / e.sum(-1, keepdims=True), rtol=1e-5)
    (y,) = ours(model("BiasSplitGelu", [x, bias[0, 0]], {}), [x, bias[0, 0]])
    (right,) = check("Gelu", [(x + bias[0, 0])[..., 2:]])
    np.testing.assert_allclose(y, (x + bias[0, 0])[..., :2] * right, rtol=1e-5)


# ---- norms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [(0,), (0, 3)])
def test_skip_layer_norms(dtype: type, bias: bool, outputs: tuple) -> None:
    x, skip, gamma, beta, b = (rand(*s, dtype=dtype) for s in ((2, 3, 8), (2, 3, 8), (8,), (8,), (8,)))
    loose = {"rtol": 5e-3, "atol": 5e-3} if dtype is np.float16 else {}
    check("SkipLayerNormalization", [x, skip, gamma, beta, b if bias else None], {"epsilon": 1e-3}, outputs, **loose)
    check("SkipLayerNormalization", [x, skip, gamma, None, b if bias else None], {}, outputs, **loose)
    check("SkipSimplifiedLayerNormalization", [x, skip, gamma, b if bias else None], {"epsilon": 1e-3}, outputs, **loose)


@pytest.mark.parametrize("skip", [(1, 3, 8), (3, 8)])
def test_skip_layer_norm_broadcasts(skip: tuple) -> None:
    check("SkipLayerNormalization", [rand(2, 3, 8), rand(*skip), rand(8), rand(8)])


def test_statistics_of_norms():
    """ONNX Runtime leaves these outputs of the CPU's kernels unwritten: against their formulas."""
    x, skip, gamma = rand(2, 3, 8), rand(2, 3, 8), rand(8)
    total = (x + skip).astype(np.float64)
    m = model("SkipLayerNormalization", [x, skip, gamma], {"epsilon": 1e-3}, (0, 1, 2, 3))
    _, mean, inverse, added = ours(m, [x, skip, gamma])
    np.testing.assert_allclose(mean[..., 0], total.mean(-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(inverse[..., 0], 1 / np.sqrt(total.var(-1) + 1e-3), rtol=1e-5)
    np.testing.assert_array_equal(added, x + skip)
    m = model("SkipSimplifiedLayerNormalization", [x, skip, gamma], {"epsilon": 1e-3}, (0, 2))
    np.testing.assert_allclose(ours(m, [x, skip, gamma])[1][..., 0], 1 / np.sqrt((total**2).mean(-1) + 1e-3), rtol=1e-5)
    with pytest.raises(ImportProblem, match=r"SkipSimplifiedLayerNormalization.*its output o1 is not computed"):
        read(model("SkipSimplifiedLayerNormalization", [x, skip, gamma], {}, (0, 1)))


@pytest.mark.parametrize("axis", [-1, 1])
def test_simplified_layer_norm(axis: int) -> None:
    scale = rand(*(2, 3, 8)[axis:])
    check("SimplifiedLayerNormalization", [rand(2, 3, 8), scale], {"axis": axis, "epsilon": 1e-3}, (0, 1), domain="")


def test_layer_norm_of_fused_models():
    """ONNX Runtime's optimizer writes it into models whose opset is older than the operator."""
    check("LayerNormalization", [rand(2, 3, 8), rand(8), rand(8)], {"axis": -1, "epsilon": 1e-3}, (0,), domain="", opset=11)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("positions", [None, (2, 4), (1, 4)])
def test_embed_layer_norm(segments: bool, mask: bool, positions: tuple | None) -> None:
    def ids(*shape: int, below: int) -> np.ndarray:
        return RNG.integers(0, below, shape).astype(np.int32)

    tables = [rand(9, 8), rand(6, 8), rand(2, 8) if segments else None]
    inputs = [ids(2, 4, below=9), ids(2, 4, below=2) if segments else None, *tables, rand(8), rand(8),
              ids(2, 4, below=2) if mask else None, ids(*positions, below=6) if positions else None]  # fmt: skip
    check("EmbedLayerNormalization", inputs, {"epsilon": 1e-6, "mask_index_type": 1}, (0, 1, 2))


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op_type, inputs, attrs, message", [
    ("FusedConv", [rand(1, 1, 3, 3), rand(1, 1, 1, 1)], {"activation": "Swish"}, "activation = 'Swish' is not supported; expected"),
    ("FusedConv", [rand(1, 1, 3, 3), rand(1, 1, 1, 1)], {"activation": "Clip"}, r"activation_params = \[\]; expected 2 numbers"),
    ("Gelu", [rand(3), rand(3)], {}, "2 inputs are given; expected at most 1"),
    ("BiasGelu", [rand(3)], {}, r"its input 1 \(b\) is missing"),
    ("FusedMatMul", [rand(2, 2), rand(2, 2)], {"beta": 1.0}, "the attribute beta is not supported; expected only alpha, transA"),
    ("FusedMatMul", [rand(2, 2), rand(2, 2)], {"alpha": 1}, "alpha = 1 is of another type; expected one like 1.0"),
    ("BiasSoftmax", [rand(2, 2), rand(2, 2)], {}, "is_inner_broadcast is missing"),
])  # fmt: skip
def test_refusals(op_type: str, inputs: list, attrs: dict, message: str) -> None:
    with pytest.raises(ImportProblem, match=rf"node node \(com.microsoft.{op_type}, opset 1\): .*{message}"):
        read(model(op_type, inputs, attrs))


def test_too_many_outputs_are_refused():
    with pytest.raises(ImportProblem, match="2 outputs are asked for; expected at most 1"):
        read(model("Gelu", [rand(3)], {}, (0, 1)))
