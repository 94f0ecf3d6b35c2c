"""Operators of the domain com.microsoft that become several IR operators, by `frontends.registry.converter`.

What they mean is what ONNX Runtime's documentation of its contributed operators says; those that stay whole are IR operators of
`ir/ops/contrib_*.py`. This file has products, convolutions, activations and norms; the others are in the files beside it.
"""

from __future__ import annotations

import numpy as np

from ...ir.core import Value
from ...ir.types import F32, I32, I64
from . import contrib_attention as _attention  # noqa: F401  (registers converters)
from . import contrib_quant as _quant  # noqa: F401
from . import contrib_tensors as _tensors  # noqa: F401
from .contrib_site import Emitter, contrib, only

# ---- activations ------------------------------------------------------------------------------------------------

# What the fused operators call an activation: the IR operator and its attributes in the order of the parameters.
_ACTIVATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Relu": ("relu", ()), "Tanh": ("tanh", ()), "Sigmoid": ("sigmoid", ()), "LeakyRelu": ("leaky_relu", ("alpha",)),
    "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")), "Elu": ("elu", ("alpha",)), "Selu": ("selu", ("alpha", "gamma")),
    "Softplus": ("softplus", ()), "Softsign": ("softsign", ()), "ThresholdedRelu": ("thresholded_relu", ("alpha",)),
    "HardSwish": ("hard_swish", ()),
}  # fmt: skip


def _activated(e: Emitter, x: Value, name: str, given: dict[str, float | None]) -> Value:
    """x through the activation, which takes of `given` what it has."""
    if not name:
        return x
    if name not in _ACTIVATIONS:
        raise ValueError(f"the attribute activation = {name!r} is not supported; expected one of {', '.join(sorted(_ACTIVATIONS))}")
    op, names = _ACTIVATIONS[name]
    return e(op, x, **{n: given[n] for n in names if given.get(n) is not None})


@contrib("Gelu")
def gelu(e: Emitter, x: Value) -> Value:
    return e("gelu", x)


@contrib("FastGelu")
def fast_gelu(e: Emitter, x: Value, bias: Value | None = None) -> Value:
    return e("gelu", x if bias is None else e("add", x, bias), approximate="tanh")


@contrib("BiasGelu")
def bias_gelu(e: Emitter, a: Value, b: Value) -> Value:
    return e("gelu", e("add", a, b))


@contrib("QuickGelu")
def quick_gelu(e: Emitter, x: Value, *, alpha: float = float(np.float32(1.702))) -> Value:
    return e("swish", x, alpha=alpha)


@contrib("BiasSplitGelu")
def bias_split_gelu(e: Emitter, x: Value, bias: Value) -> Value:
    left, right = e("split", e("add", x, bias), axis=-1, num_outputs=2, n_results=2)
    return e("mul", left, e("gelu", right))


@contrib("BiasAdd")
def bias_add(e: Emitter, x: Value, bias: Value, skip: Value) -> Value:
    return e("add", e("add", x, bias), skip)


@contrib("BiasSoftmax")
def bias_softmax(e: Emitter, data: Value, bias: Value, *, axis: int = 1, is_inner_broadcast: int) -> Value:
    """The bias has the rank of the data, with sizes of 1 where it is broadcast, so that is_inner_broadcast says nothing new."""
    if e.rank(data, "data") != e.rank(bias, "bias"):
        raise ValueError("its inputs data and bias have different ranks; expected a bias with a size of 1 where it is broadcast")
    return e("softmax", e("add", data, bias), axis=axis, flatten=1)


# ---- products ---------------------------------------------------------------------------------------------------


def _oriented(e: Emitter, x: Value, name: str, trans: int, trans_batch: int) -> Value:
    """x as a stack of matrices: its first axis moved behind the batch, then the last two axes swapped, as asked."""
    if not trans and not trans_batch:
        return x
    rank = e.rank(x, name)
    perm = list(range(rank))
    if trans_batch and rank > 2:
        perm = [*perm[1:-1], perm[0], perm[-1]]
    if trans and rank > 1:
        perm[-2:] = perm[:-3:-1]
    return x if perm == list(range(rank)) else e("transpose", x, perm=tuple(perm))


@contrib("FusedMatMul", "TransposeMatMul")
def fused_matmul(e: Emitter, a: Value, b: Value, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0,
                 transBatchB: int = 0) -> Value:  # fmt: skip
    y = e("matmul", _oriented(e, a, "A", transA, transBatchA), _oriented(e, b, "B", transB, transBatchB))
    return y if alpha == 1 else e("mul", y, e.number(alpha, a, "A"))


@contrib("FusedMatMulActivation")
def fused_matmul_activation(e: Emitter, a: Value, b: Value, *, activation: str, activation_alpha: float | None = None,
                            activation_axis: int | None = None, activation_beta: float | None = None,
                            activation_gamma: float | None = None, alpha: float = 1.0, transA: int = 0, transB: int = 0,
                            transBatchA: int = 0, transBatchB: int = 0) -> Value:  # fmt: skip
    y = fused_matmul(e, a, b, alpha=alpha, transA=transA, transB=transB, transBatchA=transBatchA, transBatchB=transBatchB)
    if activation == "Softmax":
        return e("softmax", y, axis=-1 if activation_axis is None else activation_axis)
    return _activated(e, y, activation, {"alpha": activation_alpha, "beta": activation_beta, "gamma": activation_gamma})


@contrib("FusedGemm")
def fused_gemm(e: Emitter, a: Value, b: Value, c: Value | None = None, *, activation: str = "",
               activation_alpha: float | None = None, activation_beta: float | None = None, activation_gamma: float | None = None,
               alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> Value:  # fmt: skip
    y = e("gemm", a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return _activated(e, y, activation, {"alpha": activation_alpha, "beta": activation_beta, "gamma": activation_gamma})


@contrib("GemmFastGelu")
def gemm_fast_gelu(e: Emitter, x: Value, w: Value, bias: Value | None = None) -> Value:
    return fast_gelu(e, e("matmul", x, w), bias)


@contrib("FusedConv")
def fused_conv(e: Emitter, x: Value, w: Value, b: Value | None = None, z: Value | None = None, *, activation: str = "",
               activation_params: tuple = (), auto_pad: str = "NOTSET", dilations: tuple = (), group: int = 1,
               kernel_shape: tuple = (), pads: tuple = (), strides: tuple = ()) -> Value:  # fmt: skip
    y = e("conv", x, w, b, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads,
          strides=strides)  # fmt: skip
    y = y if z is None else e("add", y, z)
    names = ("min", "max") if activation == "Clip" else _ACTIVATIONS.get(activation, ("", ()))[1]
    if len(activation_params) != len(names):
        raise ValueError(f"the attribute activation_params = {list(activation_params)}; expected {len(names)} numbers "
                         f"for {activation or 'no activation'}")  # fmt: skip
    if activation == "Clip":
        return e("clip", y, *(e.number(p, x, "X") for p in activation_params))
    return _activated(e, y, activation, dict(zip(names, activation_params)))


# ---- norms ------------------------------------------------------------------------------------------------------


@contrib("SimplifiedLayerNormalization", domain="")
@contrib("SimplifiedLayerNormalization")
def simplified_layer_norm(e: Emitter, x: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5,
                          stash_type: int = 1) -> list:  # fmt: skip
    only("stash_type", stash_type, 1)
    return [e("rms_norm", x, scale, axis=axis, epsilon=epsilon), *([_inverse_root(e, x, axis, epsilon)] if e.n_outputs > 1 else [])]


def _inverse_root(e: Emitter, x: Value, axis: int, epsilon: float) -> Value:
    """1 / sqrt(mean(x * x) + epsilon) over the axes from `axis` on, in f32."""
    rank = e.rank(x, "X")
    x = e("cast", x, to=F32)
    mean = e("reduce_mean", e("mul", x, x), np.arange(axis % rank, rank))
    return e("reciprocal", e("sqrt", e("add", mean, np.float32(epsilon))))


def _summed(e: Emitter, x: Value, skip: Value, bias: Value | None) -> Value:
    total = e("add", x, skip)
    return total if bias is None else e("add", total, bias)


@contrib("SkipLayerNormalization")
def skip_layer_norm(e: Emitter, x: Value, skip: Value, gamma: Value, beta: Value | None = None, bias: Value | None = None, *,
                    epsilon: float = float(np.float32(1e-12))) -> list:  # fmt: skip
    total = _summed(e, x, skip, bias)
    if e.n_outputs == 1:
        return [e("layer_norm", total, gamma, beta, epsilon=epsilon, n_results=1)]
    return [*e("layer_norm", total, gamma, beta, epsilon=epsilon, n_results=3), total]


@contrib("SkipSimplifiedLayerNormalization")
def skip_simplified_layer_norm(e: Emitter, x: Value, skip: Value, gamma: Value, bias: Value | None = None, *,
                               epsilon: float = float(np.float32(1e-12))) -> list:  # fmt: skip
    """The mean (output 1) is no part of this norm, and not computed."""
    total = _summed(e, x, skip, bias)
    inverse = _inverse_root(e, total, -1, epsilon) if e.n_outputs > 2 else None
    return [e("rms_norm", total, gamma, epsilon=epsilon), None, inverse, total]


@contrib("EmbedLayerNormalization")
def embed_layer_norm(e: Emitter, input_ids: Value, segment_ids: Value | None, word_embedding: Value, position_embedding: Value,
                     segment_embedding: Value | None, gamma: Value, beta: Value, mask: Value | None = None,
                     position_ids: Value | None = None, *, epsilon: float = float(np.float32(1e-12)),
                     mask_index_type: int | None = None) -> list:  # fmt: skip
    """mask_index counts the ones of each row of the mask; without a mask it is zero. mask_index_type is a hint alone."""
    if position_ids is None:
        length = e.sizes(input_ids, 1)
        positions = e("slice", position_embedding, np.array([0]), length, np.array([0]))
    else:
        positions = e("gather", position_embedding, position_ids)
    total = e("add", e("gather", word_embedding, input_ids), positions)
    if segment_ids is not None and segment_embedding is not None:
        total = e("add", total, e("gather", segment_embedding, segment_ids))
    elif segment_ids is not None or segment_embedding is not None:
        raise ValueError("expected the inputs segment_ids and segment_embedding together")
    normal = e("layer_norm", total, gamma, beta, epsilon=epsilon, n_results=1)
    if e.n_outputs < 2:
        return [normal]
    if mask is None:
        index = e("expand", np.int32(0), e.sizes(input_ids, 0))
    else:
        ones = e("cast", e("equal", mask, e.number(1, mask, "mask")), to=I64)
        index = e("cast", e("reduce_sum", ones, np.array([1]), keepdims=0), to=I32)
    return [normal, index, total]
