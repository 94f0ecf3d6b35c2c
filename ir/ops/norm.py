"""Normalizations by mean and variance, by a norm, and across channels."""

from __future__ import annotations

import numpy as np

from ..op import InferContext, Onnx, OnnxCall, drop_attrs, dtype_attrs, ex, op
from ..shapes import normalize_axes
from ..symbols import DimLike, prove_ne
from ..types import BF16, F32, FLOATS, DType, TensorType
from .common import expect_rank, expect_shape, same_dtype, wide
from .examples import rand

# ---- shared -----------------------------------------------------------------------------------------------------


def _standardized(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x - mean) / sqrt(variance + epsilon) over `axes`, the mean, and 1 / sqrt(variance + epsilon)."""
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + x.dtype.type(epsilon))
    return centred * inverse, mean, inverse


def _per_channel(v: np.ndarray, rank: int) -> np.ndarray:
    """v[C] shaped to broadcast along axis 1 of a tensor of the given rank."""
    return wide(v).reshape((-1,) + (1,) * max(rank - 2, 0))


def _channels(c: InferContext) -> DimLike | None:
    """The size of axis 1 of operand 0, 1 for a vector, None for an unknown rank."""
    x = c.shape(0)
    return None if x is None else x[1] if len(x) > 1 else 1


def _expect_broadcast(c: InferContext, i: int) -> None:
    """Raises InferenceError where operand i does not broadcast to the shape of operand 0."""
    x, s = c.shape(0), c.shape(i) if c.has(i) else None
    if x is None or s is None:
        return
    fits = len(s) <= len(x) and not any(d != 1 and prove_ne(d, e) for d, e in zip(reversed(s), reversed(x), strict=False))
    if not fits:
        raise c.error(f"input {c.op.operand_name(i)} has shape {c.t(i)}, expected one that broadcasts to {c.t(0)}")


# ---- batch_norm -------------------------------------------------------------------------------------------------


def infer_batch_norm(c: InferContext) -> list[TensorType]:
    channels = _channels(c)
    if c.attr("spatial"):
        for i in range(1, 5):
            expect_shape(c, i, (channels,), "one number a channel")
    elif c.attr("training_mode"):
        raise c.error("spatial = 0 with training_mode = 1, expected inference; non-spatial training is not supported")
    if c.n_results > 1 and not c.attr("training_mode"):
        raise c.error(f"{c.n_results} results with training_mode = 0, expected Y alone")
    stats = [c.t(i).with_(shape=c.shape(i) or (None if channels is None else (channels,))) for i in (3, 4)]
    return [c.t(0), *stats, *stats]


def _outputs_say_training(call: OnnxCall) -> None:
    """Before opset 14 asking for the statistics meant training, unless is_test (before opset 7) said otherwise."""
    is_test = call.attrs.pop("is_test", 0)
    call.attrs["training_mode"] = int(call.n_outputs > 1 and not is_test)


def _batch_norm_export(call: OnnxCall) -> None:
    if call.opset >= 9 and not call.attrs.pop("spatial", 1):
        raise ValueError("spatial = 0 has no form in opset 9 and above; export to opset 8 or below")


def _batch_norm_examples() -> list:
    x, s = rand(2, 3, 4, 5), [rand(3, seed=1), rand(3, seed=2), rand(3, seed=3), rand(3, seed=4, lo=0.5)]
    h = [a.astype(np.float16) for a in s]
    return [
        ex(x, *s, name="plain"),
        ex(x, *s, epsilon=0.1, name="epsilon"),
        ex(x, *s, training_mode=1, momentum=0.7, results=3, name="training"),
        ex(rand(4, 3), *s, name="matrix"),
        ex(x.astype(np.float64), *(a.astype(np.float64) for a in s), name="f64"),
        ex(x.astype(np.float16), *h, name="f16"),
        ex(x.astype(np.float16), *s, name="f16_by_f32"),
        ex(x[:0], *s, name="empty_batch"),
    ]


@op("batch_norm", results=None, infer=infer_batch_norm, examples=_batch_norm_examples,
    onnx=Onnx("BatchNormalization", before={6: drop_attrs("consumed_inputs"), 14: _outputs_say_training},
              export=_batch_norm_export),
    dtypes=dict.fromkeys(("x", "scale", "bias", "mean", "var"), FLOATS))  # fmt: skip
def batch_norm(x, scale, bias, mean, var, *, epsilon=1e-5, momentum=0.9, spatial=1, training_mode=0):
    """(x - mean) / sqrt(var + epsilon) * scale + bias along axis 1 of x[N,C,...].

    With training_mode the statistics are those of x, and the running ones (mean, var times momentum, plus the rest of x's own)
    and x's own are returned as well. `spatial=0` (before opset 9) has scale, bias, mean and var of the size C*d1*...*dn.
    """
    xw = np.asarray(wide(x), np.result_type(wide(x), wide(scale), wide(mean)))
    if not spatial:
        s, b, m, v = (wide(a).reshape(x.shape[1:]) for a in (scale, bias, mean, var))
        return ((xw - m) / np.sqrt(v + v.dtype.type(epsilon)) * s + b).astype(x.dtype)
    s, b, m, v = (_per_channel(a, x.ndim) for a in (scale, bias, mean, var))
    if not training_mode:
        return ((xw - m) / np.sqrt(v + v.dtype.type(epsilon)) * s + b).astype(x.dtype)
    axes = tuple(i for i in range(x.ndim) if i != 1)
    y, own_mean, _ = _standardized(xw, axes, epsilon)
    own = [a.reshape(mean.shape).astype(m.dtype) for a in (own_mean, xw.var(axis=axes))]
    running = [wide(old) * momentum + new * (1 - momentum) for old, new in zip((mean, var), own, strict=True)]
    return (y * s + b).astype(x.dtype), *(a.astype(mean.dtype) for a in (*running, *own))


# ---- instance_norm, group_norm ----------------------------------------------------------------------------------


def infer_instance_norm(c: InferContext) -> TensorType:
    same_dtype(c, 0, 1, 2)
    expect_rank(c, 0, at_least=3)
    for i in (1, 2):
        expect_shape(c, i, (_channels(c),), "one number a channel")
    return c.t(0)


def _instance_norm_examples() -> list:
    s, b = rand(3, seed=1), rand(3, seed=2)
    return [
        ex(rand(2, 3, 4, 5), s, b, name="plain"),
        ex(rand(2, 3, 7), s, b, epsilon=0.01, name="one_axis"),
        ex(rand(2, 3, 2, 2, 3, dtype=np.float64), s.astype(np.float64), b.astype(np.float64), name="f64"),
        ex(rand(2, 3, 4, 5, dtype=np.float16), s.astype(np.float16), b.astype(np.float16), name="f16"),
        ex(rand(0, 3, 4, 5), s, b, name="empty_batch"),
    ]


@op("instance_norm", onnx=Onnx("InstanceNormalization", before={6: drop_attrs("consumed_inputs")}), infer=infer_instance_norm,
    dtypes=dict.fromkeys(("x", "scale", "bias"), FLOATS), examples=_instance_norm_examples)  # fmt: skip
def instance_norm(x, scale, bias, *, epsilon=1e-5):
    """x[N,C,...] standardized over the spatial axes, times scale[C], plus bias[C]."""
    y, _, _ = _standardized(wide(x), tuple(range(2, x.ndim)), epsilon)
    return (y * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)).astype(x.dtype)


def infer_group_norm(c: InferContext) -> TensorType:
    same_dtype(c, 0, 1, 2)
    expect_rank(c, 0, at_least=2)
    groups, channels = c.attr("num_groups"), _channels(c)
    if groups < 1 or (isinstance(channels, int) and channels % groups):
        raise c.error(f"num_groups = {groups}, expected a divisor of the {channels} channels of {c.t(0)}")
    size, why = (groups, "one number a group") if c.attr("per_group") else (channels, "one number a channel")
    for i in (1, 2):
        expect_shape(c, i, (size,), why)
    return c.t(0)


def _scale_by_group(call: OnnxCall) -> None:
    """Before opset 21 scale and bias held one number a group."""
    call.attrs["per_group"] = 1


def _group_norm_export(call: OnnxCall) -> None:
    if call.attrs.pop("per_group", 0) and call.opset >= 21:
        raise ValueError("scale and bias by group have no form in opset 21 and above; export to opset 18, 19 or 20")


def _group_norm_examples() -> list:
    s, b = rand(4, seed=1), rand(4, seed=2)
    return [
        ex(rand(2, 4, 3, 5), s, b, num_groups=2, name="plain"),
        ex(rand(2, 4, 7), s, b, num_groups=4, epsilon=0.01, name="as_instance_norm"),
        ex(rand(2, 4, 7, dtype=np.float64), s.astype(np.float64), b.astype(np.float64), num_groups=1, name="f64"),
        ex(rand(2, 4, 3, 5, dtype=np.float16), s.astype(np.float16), b.astype(np.float16), num_groups=2, name="f16"),
        ex(rand(0, 4, 3), s, b, num_groups=2, name="empty_batch"),
    ]


@op("group_norm", infer=infer_group_norm, examples=_group_norm_examples,
    onnx=Onnx("GroupNormalization", since=18, before={21: _scale_by_group}, adapt=dtype_attrs("stash_type"),
              export=_group_norm_export),
    dtypes=dict.fromkeys(("x", "scale", "bias"), FLOATS))  # fmt: skip
def group_norm(x, scale, bias, *, epsilon=1e-5, num_groups, per_group=0, stash_type=F32):
    """x[N,C,...] standardized over groups of channels and all spatial axes, times scale[C], plus bias[C].

    `per_group=1` (before opset 21) has one number of scale and bias for each group. Sums are held in at least f32, whatever
    stash_type says.
    """
    n, c, *_ = x.shape
    y, _, _ = _standardized(wide(x).reshape(n, num_groups, c // num_groups, *x.shape[2:]), tuple(range(2, x.ndim + 1)), epsilon)
    s, b = (np.repeat(a, c // num_groups) if per_group else a for a in (scale, bias))
    return (y.reshape(x.shape) * _per_channel(s, x.ndim) + _per_channel(b, x.ndim)).astype(x.dtype)


# ---- layer_norm, rms_norm ---------------------------------------------------------------------------------------


def infer_layer_norm(c: InferContext) -> list[TensorType]:
    same_dtype(c, 0, 1, 2)
    stash: DType = c.attr("stash_type")
    if stash not in (F32, BF16):
        raise c.error(f"stash_type = {stash}, expected f32 or bf16")
    for i in (1, 2):
        _expect_broadcast(c, i)
    x = c.shape(0)
    if x is None:
        return [c.t(0), *[TensorType(stash, None)] * 2]
    axis = c.axis(c.attr("axis"), len(x))
    return [c.t(0), *[TensorType(stash, (*x[:axis], *(1 for _ in x[axis:])))] * 2]


def _layer_norm_examples() -> list:
    x, s, b = rand(2, 3, 4), rand(4, seed=1), rand(4, seed=2)
    return [
        ex(x, s, b, name="plain"),
        ex(x, s, results=3, name="statistics"),
        ex(x, rand(3, 4), rand(3, 4, seed=1), axis=1, epsilon=0.1, results=3, name="axis_1"),
        ex(x, rand(1, 3, 1), axis=-3, name="broadcast_scale"),
        ex(x.astype(np.float16), s.astype(np.float16), b.astype(np.float16), name="f16"),
        ex(x.astype(np.float64), s.astype(np.float64), b.astype(np.float64), name="f64"),
        ex(x[:0], s, b, name="empty_batch"),
    ]


@op("layer_norm", infer=infer_layer_norm, results=None, examples=_layer_norm_examples,
    onnx=Onnx("LayerNormalization", adapt=dtype_attrs("stash_type")),  # before opset 17 by ONNX Runtime alone, which fuses it
    dtypes=dict.fromkeys(("x", "scale", "bias"), FLOATS))  # fmt: skip
def layer_norm(x, scale, bias=None, *, axis=-1, epsilon=1e-5, stash_type=F32):
    """x standardized over the axes from `axis` on, times scale, plus bias; then the mean and 1 / standard deviation.

    Sums are held in at least f32 whatever stash_type says, which gives the type of the last two results alone.
    """
    y, mean, inverse = _standardized(wide(x), tuple(range(axis % x.ndim, x.ndim)), epsilon)
    y = y * wide(scale)
    if bias is not None:
        y = y + wide(bias)
    return y.astype(x.dtype), mean.astype(stash_type.np), inverse.astype(stash_type.np)


def infer_rms_norm(c: InferContext) -> TensorType:
    _expect_broadcast(c, 1)
    rank = c.rank(0)
    if rank is not None:
        c.axis(c.attr("axis"), rank)
    return c.t(1).with_(shape=c.shape(0))


def _rms_norm_examples() -> list:
    x, s = rand(2, 3, 4), rand(4, seed=1)
    return [
        ex(x, s, name="plain"),
        ex(x, rand(3, 4), axis=1, epsilon=0.1, name="axis_1"),
        ex(x, rand(1), axis=0, name="axis_0"),
        ex(x.astype(np.float16), s.astype(np.float16), name="f16"),
        ex(x.astype(np.float16), s, name="f16_by_f32"),
        ex(x[:0], s, name="empty_batch"),
    ]


@op("rms_norm", infer=infer_rms_norm, examples=_rms_norm_examples, dtypes={"x": FLOATS, "scale": FLOATS},
    onnx=Onnx("RMSNormalization", since=23, adapt=dtype_attrs("stash_type")))  # fmt: skip
def rms_norm(x, scale, *, axis=-1, epsilon=1e-5, stash_type=F32):
    """x / sqrt(mean(x * x) + epsilon) over the axes from `axis` on, times scale, in scale's type.

    Sums are held in at least f32 whatever stash_type says.
    """
    xw = wide(x)
    mean = (xw * xw).mean(axis=tuple(range(axis % x.ndim, x.ndim)), keepdims=True)
    return (xw / np.sqrt(mean + xw.dtype.type(epsilon)) * wide(scale)).astype(scale.dtype)


# ---- lp_norm, mean_variance_norm, lrn ---------------------------------------------------------------------------


def infer_lp_norm(c: InferContext) -> TensorType:
    if c.attr("p") not in (1, 2):
        raise c.error(f"p = {c.attr('p')}, expected 1 or 2")
    rank = c.rank(0)
    if rank is not None:
        c.axis(c.attr("axis"), rank)
    return c.t(0)


def _lp_norm_examples() -> list:
    x = rand(2, 3, 4)
    zeros = x.copy()
    zeros[0, 1] = 0
    return [ex(x), ex(x, p=1, axis=1), ex(zeros, axis=2, name="zeros"), ex(x.astype(np.float64), axis=0),
            ex(x.astype(np.float16)), ex(x[:0])]  # fmt: skip


@op("lp_norm", onnx="LpNormalization", infer=infer_lp_norm, dtypes={"x": FLOATS}, examples=_lp_norm_examples)
def lp_norm(x, *, axis=-1, p=2):
    """x divided by its p-norm along an axis; zero where the norm is zero."""
    xw = wide(x)
    norm = np.abs(xw).sum(axis=axis, keepdims=True) if p == 1 else np.sqrt((xw * xw).sum(axis=axis, keepdims=True))
    return np.where(norm == 0, 0, xw / np.where(norm == 0, 1, norm)).astype(x.dtype)


def infer_mean_variance_norm(c: InferContext) -> TensorType:
    rank = c.rank(0)
    if rank is not None:
        normalize_axes(c, c.attr("axes"), rank)
    return c.t(0)


def _mean_variance_norm_examples() -> list:
    x = rand(2, 3, 4, 5)
    return [ex(x), ex(x, axes=(1, -1)), ex(x.astype(np.float64), axes=(0, 1, 2, 3)), ex(rand(2, 3, 4), axes=(2,)),
            ex(x.astype(np.float16))]  # fmt: skip


@op("mean_variance_norm", onnx=Onnx("MeanVarianceNormalization", since=9), infer=infer_mean_variance_norm, dtypes={"x": FLOATS},
    examples=_mean_variance_norm_examples)  # fmt: skip
def mean_variance_norm(x, *, axes=(0, 2, 3)):
    """(x - mean) / (standard deviation + 1e-9) over `axes`, as ONNX's function body has it."""
    xw, over = wide(x), tuple(axes)
    return ((xw - xw.mean(axis=over, keepdims=True)) / (xw.std(axis=over, keepdims=True) + xw.dtype.type(1e-9))).astype(x.dtype)


def infer_lrn(c: InferContext) -> TensorType:
    if c.attr("size") < 1:
        raise c.error(f"size = {c.attr('size')}, expected at least 1")
    expect_rank(c, 0, at_least=2)
    return c.t(0)


def _lrn_examples() -> list:
    x = rand(2, 5, 3, 4)
    return [ex(x, size=3), ex(x, size=4, alpha=0.5, beta=0.3, bias=2.0, name="even"), ex(x, size=11, alpha=0.1, name="wide"),
            ex(x[:0], size=3, name="empty_batch")]  # fmt: skip


@op("lrn", onnx="LRN", infer=infer_lrn, dtypes={"x": FLOATS}, examples=_lrn_examples)
def lrn(x, *, alpha=1e-4, beta=0.75, bias=1.0, size):
    """x[N,C,...] / (bias + alpha / size * the sum of squares of the `size` channels around each) ** beta."""
    xw = wide(x)
    before, after = min((size - 1) // 2, x.shape[1]), min(size // 2, x.shape[1])  # behind the channels there are zeros only
    pads = [(before, after) if i == 1 else (0, 0) for i in range(x.ndim)]
    squares = np.lib.stride_tricks.sliding_window_view(np.pad(xw * xw, pads), before + after + 1, axis=1).sum(axis=-1)
    return (xw / (bias + alpha / size * squares) ** beta).astype(x.dtype)
