"""Padding and cropping, blocks of space and depth, reversing, triangles."""

from __future__ import annotations

import numpy as np

from ..op import InferContext, Onnx, OnnxCall, attr_to_input, ex, op
from ..shapes import normalize_axes
from ..symbols import DimLike, exact_quotient, floordiv
from ..types import I64, TensorType
from .contents import (
    COMMON,
    INDEX,
    MOVABLE,
    agree,
    checked,
    choice,
    entry,
    known_ints,
    length,
    same_dtype,
    symbols,
    want_rank,
)
from .examples import rand


def _ints(*values: int, dtype: object = np.int64) -> np.ndarray:
    return np.array(values, dtype)  # type: ignore[call-overload]


# ---- pad


def _pad_old(call: OnnxCall) -> None:
    """Before opset 11 the pads and the value were attributes."""
    attr_to_input("pads", 1)(call)
    value = call.attrs.pop("value", None)
    if value is not None and call.attrs.get("mode", "constant") == "constant":
        dtype = call.dtype(call.inputs[0])
        call.inputs += [None] * (3 - len(call.inputs))
        call.inputs[2] = call.const(np.asarray(value, np.float32 if dtype is None else dtype.np))


def _paddings(call: OnnxCall) -> None:
    if "paddings" in call.attrs:
        call.attrs["pads"] = call.attrs.pop("paddings")


def _infer_pad(c: InferContext) -> TensorType:
    x, pads = c.t(0), c.ints(1)
    mode = choice(c, "mode", ("constant", "reflect", "edge", "wrap"))
    same_dtype(c, 0, 2) if c.has(2) else None
    if x.shape is None:
        return x
    axes: tuple[int, ...] | None = tuple(range(len(x.shape)))
    if c.has(3):
        given = known_ints(c, 3)
        axes = None if given is None else normalize_axes(c, given, len(x.shape))
    if axes is None:
        return x.with_(shape=symbols(c, len(x.shape)))
    count = length(c, 1) if pads is None else len(pads)
    if isinstance(count, int) and count != 2 * len(axes):
        raise c.error(f"pads has {count} entries for {len(axes)} axes; expected two an axis")
    shape = list(x.shape)
    for k, axis in enumerate(axes):
        before, after = (None, None) if pads is None else (pads[k], pads[k + len(axes)])
        size = shape[axis]
        shape[axis] = c.symbol() if before is None or after is None else size + before + after
        if mode != "constant" and size == 0 and shape[axis] != 0:
            raise c.error(f"axis {axis} is empty and cannot be padded by its own elements (mode {mode})")
    return x.with_(shape=checked(c, shape))


def _pad_examples() -> list:
    x, v = rand(2, 3), np.float32(7)
    return [
        ex(x, _ints(1, 0, 0, 2), v),
        ex(x, _ints(0, 1, 0, 2)),
        ex(x, _ints(0, -1, 1, -1), v),
        ex(x, _ints(1, 2, 1, 2), mode="reflect"),
        ex(x, _ints(2, 4, 3, 5), mode="edge"),
        ex(x, _ints(2, 1), v, _ints(-1)),
        ex(x, _ints(1, 2, 1, 4), mode="wrap"),
        ex(np.array(["a"], object), _ints(1, 0)),
        ex(np.zeros((0, 2), np.int64), _ints(1, 0, 1, 0), np.int64(4)),
        ex(np.float32(1), _ints()),
        ex(np.array([True]), _ints(1, 2), None, _ints(0, dtype=np.int32)),
    ]


@op(
    "pad",
    onnx=Onnx("Pad", before={2: _paddings, 11: _pad_old}),
    infer=_infer_pad,
    examples=_pad_examples,
    dtypes={"data": MOVABLE, "pads": {I64}, "constant_value": MOVABLE, "axes": INDEX},
)
def pad(data, pads, constant_value=None, axes=None, *, mode="constant"):
    """`data` with `pads` (all at the starts, then all at the ends) put on; negative ones crop, before the others are put on."""
    axes = range(data.ndim) if axes is None else [int(a) % data.ndim for a in axes]
    before, after = [0] * data.ndim, [0] * data.ndim
    for k, axis in enumerate(axes):
        before[axis], after[axis] = int(pads[k]), int(pads[k + len(axes)])
    if any(b + n + a < 0 for b, n, a in zip(before, data.shape, after)):
        raise ValueError(f"pads {pads.tolist()} crop more than there is of {list(data.shape)}")
    if mode == "constant":
        return _pad_constant(data, before, after, constant_value)
    data = data[tuple(slice(max(-b, 0), n - max(-a, 0)) for b, n, a in zip(before, data.shape, after))]
    widths = [(max(b, 0), max(a, 0)) for b, a in zip(before, after)]
    return np.pad(data, widths, mode=mode) if widths else data


def _pad_constant(data: np.ndarray, before: list[int], after: list[int], value: np.ndarray | None) -> np.ndarray:
    fill = (np.array("", object) if data.dtype == object else np.zeros((), data.dtype)) if value is None else np.asarray(value)
    out = np.full([b + n + a for b, n, a in zip(before, data.shape, after)], fill.reshape(-1)[0], data.dtype)
    source = [slice(max(-b, 0), max(n + min(a, 0), 0)) for b, n, a in zip(before, data.shape, after)]
    target = [slice(max(b, 0), max(b, 0) + max(n + min(a, 0) - max(-b, 0), 0)) for b, n, a in zip(before, data.shape, after)]
    out[tuple(target)] = data[tuple(source)]
    return out


# ---- blocks of space and depth


def _divided(c: InferContext, size: DimLike, by: int, what: str) -> DimLike:
    if isinstance(size, int) and size % by:
        raise c.error(f"{what} {size} is no multiple of {by}")
    exact = exact_quotient(size, by)
    return floordiv(size, by) if exact is None else exact


def _block(c: InferContext) -> int:
    choice(c, "mode", ("DCR", "CRD"))
    if c.attr("blocksize") < 1:
        raise c.error(f"blocksize = {c.attr('blocksize')}; expected at least 1")
    return c.attr("blocksize")


def _infer_depth_to_space(c: InferContext) -> TensorType:
    want_rank(c, 0, 4)
    x, b = c.t(0), _block(c)
    if x.shape is None:
        return x.with_(shape=symbols(c, 4))
    n, ch, h, w = x.shape
    return x.with_(shape=checked(c, (n, _divided(c, ch, b * b, "the number of channels"), h * b, w * b)))


def _d2s_examples() -> list:
    x = rand(1, 8, 2, 3)
    return [
        ex(x, blocksize=2),
        ex(x, blocksize=2, mode="CRD"),
        ex(x, blocksize=1),
        ex(np.zeros((0, 4, 1, 1), np.float32), blocksize=2),
    ]


@op("depth_to_space", onnx="DepthToSpace", infer=_infer_depth_to_space, dtypes={"input": COMMON}, examples=_d2s_examples)
def depth_to_space(input, *, blocksize, mode="DCR"):
    """Blocks of channels become blocks of space. DCR: the block is the slow part of the channel axis; CRD: the fast one."""
    (n, ch, h, w), b = input.shape, blocksize
    depth = ch // (b * b)
    if mode == "DCR":
        x = input.reshape(n, b, b, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        x = input.reshape(n, depth, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, depth, h * b, w * b)


def _infer_space_to_depth(c: InferContext) -> TensorType:
    want_rank(c, 0, 4)
    x, b = c.t(0), _block(c)
    if x.shape is None:
        return x.with_(shape=symbols(c, 4))
    n, ch, h, w = x.shape
    return x.with_(shape=checked(c, (n, ch * (b * b), _divided(c, h, b, "the height"), _divided(c, w, b, "the width"))))


def _s2d_examples() -> list:
    x = rand(1, 2, 4, 6)
    return [
        ex(x, blocksize=2),
        ex(x, blocksize=2, mode="CRD"),
        ex(x, blocksize=1),
        ex(np.zeros((0, 1, 2, 2), np.int32), blocksize=2),
    ]


@op("space_to_depth", onnx="SpaceToDepth", infer=_infer_space_to_depth, dtypes={"input": COMMON}, examples=_s2d_examples)
def space_to_depth(input, *, blocksize, mode="DCR"):
    """Blocks of space become blocks of channels: what `depth_to_space` of the same mode undoes."""
    (n, ch, h, w), b = input.shape, blocksize
    x = input.reshape(n, ch, h // b, b, w // b, b)
    x = x.transpose(0, 3, 5, 1, 2, 4) if mode == "DCR" else x.transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(n, ch * b * b, h // b, w // b)


# ---- the rest


def _infer_reverse_sequence(c: InferContext) -> TensorType:
    x, time, batch = c.t(0), c.attr("time_axis"), c.attr("batch_axis")
    if x.shape is None:
        return x
    if len(x.shape) < 2 or {time, batch} != {0, 1}:
        raise c.error(f"time_axis = {time}, batch_axis = {batch} for {x}; expected 0 and 1 in some order, and rank >= 2")
    want_rank(c, 1, 1)
    if c.shape(1) is not None:
        agree(c, c.shape(1)[0], x.shape[batch], "sequence_lens and the batch axis")  # type: ignore[index]
    return x


def _reverse_examples() -> list:
    x = rand(4, 3, 2)
    return [
        ex(x, _ints(4, 2, 1)),
        ex(x, _ints(1, 2, 3, 2), time_axis=1, batch_axis=0),
        ex(rand(3, 2, dtype=np.int32, hi=9), _ints(0, 3)),
        ex(np.zeros((0, 2), np.float32), _ints(0, 0)),
        ex(np.array([["a"], ["b"]], object), _ints(2)),
    ]


@op(
    "reverse_sequence",
    onnx="ReverseSequence",
    infer=_infer_reverse_sequence,
    examples=_reverse_examples,
    dtypes={"input": COMMON, "sequence_lens": {I64}},
)
def reverse_sequence(input, sequence_lens, *, batch_axis=1, time_axis=0):
    """The first `sequence_lens[b]` steps of each batch entry b reversed, the others as they are."""
    steps = input.shape[time_axis]
    if np.any(sequence_lens < 0) or np.any(sequence_lens > steps):
        raise ValueError(f"sequence_lens {sequence_lens.tolist()} must lie in [0, {steps}]")
    time, lens = np.arange(steps)[:, None], sequence_lens[None, :]
    index = np.where(time < lens, lens - 1 - time, time)  # (time, batch)
    index = index if time_axis == 0 else index.T
    return np.take_along_axis(input, index.reshape(index.shape + (1,) * (input.ndim - 2)), time_axis)


def _infer_trilu(c: InferContext) -> TensorType:
    x = c.t(0)
    if x.shape is not None and len(x.shape) < 2:
        raise c.error(f"input has the type {x}; expected matrices, that is rank >= 2")
    entry(c, 1)
    return x


def _trilu_examples() -> list:
    x = rand(2, 3, 4)
    return [
        ex(x),
        ex(x, upper=0),
        ex(x, np.int64(1)),
        ex(x, np.int64(-1), upper=0),
        ex(x, np.int64(99)),
        ex(x, np.int64(-99), upper=0),
        ex(np.zeros((3, 0), np.int64)),
        ex(rand(3, 3, dtype=bool), np.int64(-1)),
    ]


@op("trilu", onnx="Trilu", infer=_infer_trilu, dtypes={"input": COMMON, "k": {I64}}, examples=_trilu_examples)
def trilu(input, k=None, *, upper=1):
    """The upper (or lower) triangle of each matrix with the k-th diagonal, zeros elsewhere."""
    rows, cols = input.shape[-2:]
    shift = 0 if k is None else max(-rows - 1, min(cols + 1, int(k.item())))
    row, col = np.arange(rows)[:, None], np.arange(cols)[None, :]
    keep = col - row >= shift if upper else col - row <= shift
    return np.where(keep, input, np.array("", object) if input.dtype == object else np.zeros((), input.dtype))


def _crop_axes(c: InferContext, rank: int) -> tuple[int, ...]:
    axes = c.attr("axes")
    return tuple(range(rank)) if axes is None else normalize_axes(c, axes, rank)


def _infer_center_crop_pad(c: InferContext) -> TensorType:
    x, target = c.t(0), c.ints(1)
    if x.shape is None:
        return x
    axes = _crop_axes(c, len(x.shape))
    count = length(c, 1) if target is None else len(target)
    if isinstance(count, int) and count != len(axes):
        raise c.error(f"shape has {count} entries for {len(axes)} axes; expected as many")
    shape = list(x.shape)
    for k, axis in enumerate(axes):
        size = None if target is None else target[k]
        shape[axis] = c.symbol() if size is None else size
    return x.with_(shape=checked(c, shape))


def _crop_examples() -> list:
    x = rand(4, 5, 3)
    return [
        ex(x, _ints(2, 7, 3)),
        ex(x, _ints(3, 2), axes=(0, 1)),
        ex(x, _ints(8), axes=(-1,)),
        ex(x, _ints(0, 4, dtype=np.int32), axes=(1, 2)),
        ex(np.zeros((0, 2), np.int32), _ints(3, 1)),
    ]


@op(
    "center_crop_pad",
    onnx="CenterCropPad",
    infer=_infer_center_crop_pad,
    dtypes={"input_data": COMMON, "shape": INDEX},
    examples=_crop_examples,
)
def center_crop_pad(input_data, shape, *, axes=None):
    """The middle of `input_data` in the given sizes; zeros around it where it is smaller. An odd rest goes to the end."""
    axes = range(input_data.ndim) if axes is None else axes
    before, after = [0] * input_data.ndim, [0] * input_data.ndim
    for axis, want in zip(axes, shape.tolist(), strict=True):
        more = want - input_data.shape[axis]
        before[axis] = more // 2 if more > 0 else -(-more // 2)
        after[axis] = more - before[axis]
    return _pad_constant(input_data, before, after, None)
