"""Data movement: everything that is a list of boxes (see boxes.py), and the few operators that are not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from ...ir.core import Node
from ...ir.ops.move import slice_ends
from ...ir.types import DType, dtype_of
from ..spec import Call, Dims, KernelSource, Launch, Refusal
from .boxes import Box, Mover, copy_text, dense, launch, runs
from .operands import fill_in, first_int, first_result, host_value, refuse_layouts, refuse_strings, slot_of, tiles_for
from .target import serves

MakeBoxes = Callable[[Call], Sequence[Box]]


def copier(node: Node, boxes: MakeBoxes, host: set[int] | frozenset[int] = frozenset()) -> KernelSource | Refusal:
    """The kernel source of a node that copies boxes of elements of its result's type."""
    refusal = refuse_strings(node)
    if refusal:
        return refusal
    at, item = first_int(node), node.results[0].tensor.dtype.itemsize

    def copy(some: Sequence[Box]) -> Launch:
        return launch(some, at, item)

    return Mover(copy_text(at, item), lambda call: copy(boxes(call)), host=frozenset(host), boxes=boxes, copy=copy)


def literal(value: object, dtype: DType) -> bytes:
    """The bytes of one element, repeated to at least 8."""
    raw = np.asarray(value, dtype.np).reshape(()).tobytes()
    return raw * max(1, 8 // len(raw))


def permuted(xs: Sequence[int], order: Sequence[int]) -> Dims:
    return tuple(xs[i] for i in order)


@serves("transpose")
def transpose(node: Node) -> KernelSource | Refusal:
    x, y = node.operands[0], node.results[0]
    perm = node.attr("perm") or tuple(reversed(range(x.tensor.rank)))
    perm, out = tuple(a % len(perm) for a in perm), first_result(node)

    def boxes(call: Call) -> list[Box]:
        return [Box(call.results[0], 0, permuted(dense(x, call.operands[0]), perm), out, dense(y, call.results[0]))]

    return copier(node, boxes)


@serves("to_layout")
def to_layout(node: Node) -> KernelSource | Refusal:
    x, y, out = node.operands[0], node.results[0], first_result(node)
    return copier(node, lambda call: [Box(call.results[0], 0, dense(x, call.operands[0]), out, dense(y, call.results[0]))])


@serves("expand")
def expand(node: Node) -> KernelSource | Refusal:
    x, y, out = node.operands[0], node.results[0], first_result(node)

    def boxes(call: Call) -> list[Box]:
        shape, dims = call.operands[0], call.results[0]
        new = (0,) * (len(dims) - len(shape))
        strides = new + tuple(0 if n == 1 else s for n, s in zip(shape, dense(x, shape), strict=True))
        return [Box(dims, 0, strides, out, dense(y, dims))]

    return copier(node, boxes)


@serves("tile")
def tile(node: Node) -> KernelSource | Refusal:
    x, y, out = node.operands[0], node.results[0], first_result(node)

    def boxes(call: Call) -> list[Box]:
        shape, dims = call.operands[0], call.results[0]
        if 0 in dims:
            return []
        ys = dense(y, dims)
        repeats = tuple(m // n for m, n in zip(dims, shape, strict=True))
        steps = tuple(n * s for n, s in zip(shape, ys, strict=True))
        return [Box(repeats + shape, 0, (0,) * len(shape) + dense(x, shape), out, steps + ys)]

    return copier(node, boxes)


@serves("concat")
def concat(node: Node) -> KernelSource | Refusal:
    y, out = node.results[0], first_result(node)
    axis = node.attr("axis") % max(y.tensor.rank, 1)

    def boxes(call: Call) -> list[Box]:
        ys, at, made = dense(y, call.results[0]), 0, []
        for i, (v, shape) in enumerate(zip(node.operands, call.operands, strict=True)):
            made.append(Box(shape, i, dense(v, shape), out, ys, 0, at * ys[axis]))
            at += shape[axis]
        return made

    return copier(node, boxes)


@serves("split")
def split(node: Node) -> KernelSource | Refusal:
    x, out = node.operands[0], first_result(node)
    axis = node.attr("axis") % max(x.tensor.rank, 1)

    def boxes(call: Call) -> list[Box]:
        xs, at, made = dense(x, call.operands[0]), 0, []
        for i, (v, shape) in enumerate(zip(node.results, call.results, strict=True)):
            made.append(Box(shape, 0, xs, out + i, dense(v, shape), at * xs[axis]))
            at += shape[axis]
        return made

    return copier(node, boxes)


@serves("slice")
def slice_(node: Node) -> KernelSource | Refusal:
    x, y, out, host = node.operands[0], node.results[0], first_result(node), set()
    starts, ends, axes, steps = (host_value(node, i, host) for i in range(1, 5))

    def boxes(call: Call) -> list[Box]:
        shape, xs = call.operands[0], dense(x, call.operands[0])
        first = starts(call).tolist()
        which, step = axes(call), steps(call)
        which = range(len(first)) if which is None else which.tolist()
        step = [1] * len(first) if step is None else step.tolist()
        at, strides = 0, list(xs)
        for a, b, e, s in zip(which, first, ends(call).tolist(), step, strict=True):
            a %= len(shape)
            at += slice_ends(b, e, s, shape[a])[0] * xs[a]
            strides[a] = s * xs[a]
        return [Box(call.results[0], 0, tuple(strides), out, dense(y, call.results[0]), at)]

    return copier(node, boxes, host)


# ---- padding and cropping


Runs = list[tuple[int, int, int, int]]  # see boxes.runs


def padded_runs(mode: str, n: int, begin: int, end: int) -> Runs:
    """For a padded axis the runs of positions that it copies; -1 where it takes the fill value. Negative pads crop first."""
    first, kept = max(-begin, 0), max(n + min(begin, 0) + min(end, 0), 0)
    if mode == "constant" or (begin <= 0 and end <= 0):
        before, after = min(max(begin, 0), n + begin + end), max(end, 0)
        parts = [(0, before, -1, 0), (before, kept, first, 1), (before + kept, min(after, n + begin + end - before), -1, 0)]
        return [part for part in parts if part[1] > 0]
    i = np.arange(-begin - first, n + end - first)
    if mode == "edge":
        i = np.clip(i, 0, kept - 1)
    elif mode == "wrap":
        i %= max(kept, 1)
    else:  # reflect, around the first and last element
        period = max(2 * (kept - 1), 1)
        i %= period
        i = np.where(i >= kept, period - i, i)
    return runs((i + first).tolist())


def indexed_boxes(maps: Sequence[Runs], dims: Dims, xs: Dims, ys: Dims, out: int,
                  fill: tuple[int | bytes, int]) -> list[Box]:  # fmt: skip
    """The boxes of y[i, j, ...] = x[maps[0][i], maps[1][j], ...], each map in `runs`; where any of them says -1, y is filled."""
    boxes, done = [], []
    src, src_at = fill
    for k, runs_k in enumerate(maps):
        # Filled along axis k, copied along those before it; those after it do not matter.
        for first, n, start, _ in runs_k:
            if start < 0:
                for before in itertools.product(*done):
                    sizes = (*(r[1] for r in before), n, *dims[k + 1 :])
                    at = sum(r[0] * s for r, s in zip(before, ys, strict=False)) + first * ys[k]
                    boxes.append(Box(sizes, src, (0,) * len(dims), out, ys, src_at, at))
        done.append([r for r in runs_k if r[2] >= 0])
    for part in itertools.product(*done):
        steps = tuple(r[3] * s for r, s in zip(part, xs, strict=True))
        start, to = (sum(r[k] * s for r, s in zip(part, strides, strict=True)) for k, strides in ((2, xs), (0, ys)))
        boxes.append(Box(tuple(r[1] for r in part), 0, steps, out, ys, start, to))
    return boxes


@serves("pad")
def pad(node: Node) -> KernelSource | Refusal:
    x, y, out, host = node.operands[0], node.results[0], first_result(node), set()
    pads, axes, mode = host_value(node, 1, host), host_value(node, 3, host), node.attr("mode")
    fill = (literal(0, x.tensor.dtype), 0) if node.operand(2) is None else (slot_of(node, 2), 0)

    def boxes(call: Call) -> list[Box]:
        shape, dims, amounts = call.operands[0], call.results[0], pads(call).ravel().tolist()
        if 0 in dims:
            return []
        which = axes(call)
        which = range(len(shape)) if which is None else [a % len(shape) for a in which.tolist()]
        begin_end = dict(zip(which, zip(amounts[: len(which)], amounts[len(which) :], strict=True), strict=True))
        maps = [padded_runs(mode, n, *begin_end.get(a, (0, 0))) for a, n in enumerate(shape)]
        return indexed_boxes(maps, dims, dense(x, shape), dense(y, dims), out, fill)

    return copier(node, boxes, host)


@serves("center_crop_pad")
def center_crop_pad(node: Node) -> KernelSource | Refusal:
    x, y, out = node.operands[0], node.results[0], first_result(node)

    def boxes(call: Call) -> list[Box]:
        shape, dims = call.operands[0], call.results[0]
        maps = []
        for n, m in zip(shape, dims, strict=True):
            begin = (m - n) // 2 if m >= n else -((n - m) // 2)
            maps.append(padded_runs("constant", n, begin, m - n - begin))
        return indexed_boxes(maps, dims, dense(x, shape), dense(y, dims), out, (literal(0, x.tensor.dtype), 0))

    return copier(node, boxes)


# ---- blocks of pixels


@serves("depth_to_space")
def depth_to_space(node: Node) -> KernelSource | Refusal:
    x, y, out, b = node.operands[0], node.results[0], first_result(node), node.attr("blocksize")
    crd = node.attr("mode") == "CRD"

    def boxes(call: Call) -> list[Box]:
        (n, c, h, w), (sn, sc, sh, sw), (tn, tc, th, tw) = call.operands[0], dense(x, call.operands[0]), dense(y, call.results[0])
        depth = c // (b * b)
        channel, block = (b * b * sc, sc) if crd else (sc, depth * sc)
        return [Box((n, depth, h, b, w, b), 0, (sn, channel, sh, b * block, sw, block), out, (tn, tc, b * th, th, b * tw, tw))]

    return copier(node, boxes)


@serves("space_to_depth")
def space_to_depth(node: Node) -> KernelSource | Refusal:
    x, y, out, b = node.operands[0], node.results[0], first_result(node), node.attr("blocksize")
    crd = "mode" in node.op.attrs and node.attr("mode") == "CRD"

    def boxes(call: Call) -> list[Box]:
        (n, c, h, w), (sn, sc, sh, sw), (tn, tc, th, tw) = call.operands[0], dense(x, call.operands[0]), dense(y, call.results[0])
        channel, block = (b * b * tc, tc) if crd else (tc, c * tc)
        dims = (n, c, h // b, b, w // b, b)
        return [Box(dims, 0, (sn, sc, b * sh, sh, b * sw, sw), out, (tn, channel, th, b * block, tw, block))]

    return copier(node, boxes)


# ---- tensors made from nothing


@serves("constant_of_shape")
def constant_of_shape(node: Node) -> KernelSource | Refusal:
    value, out = np.asarray(node.attr("value")), first_result(node)
    if dtype_of(value).kind == "string":
        return Refusal("strings are made on the host")
    fill = literal(value.ravel()[0], dtype_of(value))
    return copier(node, lambda call: [Box((math.prod(call.results[0]),), fill, (0,), out, (1,))])


@serves("eye_like")
def eye_like(node: Node) -> KernelSource | Refusal:
    y, out, k = node.results[0], first_result(node), node.attr("k")
    one, zero = literal(1, y.tensor.dtype), literal(0, y.tensor.dtype)
    if y.tensor.layout is not None:
        return Refusal("the result is not row-major", {"layout": y.tensor.layout})

    def boxes(call: Call) -> list[Box]:
        rows, cols = call.results[0]
        size, n = rows * cols, max(0, min(rows + min(k, 0), cols - max(k, 0)))
        if not n:
            return [Box((size,), zero, (0,), out, (1,))]
        # In memory: zeros, then n - 1 times a one and `cols` zeros, a last one, zeros.
        first = max(-k, 0) * cols + max(k, 0)
        last = first + (n - 1) * (cols + 1)
        return [Box((first,), zero, (0,), out, (1,)), Box((n,), one, (0,), out, (cols + 1,), 0, first),
                Box((n - 1, cols), zero, (0, 0), out, (cols + 1, 1), 0, first + 1),
                Box((size - last - 1,), zero, (0,), out, (1,), 0, last + 1)]  # fmt: skip

    return copier(node, boxes)


# ---- what no list of boxes says

_TRILU = """
def kernel(p, tile, ntiles):
    out = param(p, FIRST - 2)
    rows = param(p, FIRST + 1)
    cols = param(p, FIRST + 2)
    units = param(p, FIRST)
    shift = SHIFT
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        source = param(p, 0) + u * cols * ITEM
        row = out + u * cols * ITEM
        cut = minimum(maximum(u % rows + shift, 0), cols)
        for j in range(cut):
            put_TYPE(row, j, BEFORE)
        for j in range(cut, cols):
            put_TYPE(row, j, AFTER)
"""


@serves("trilu")
def trilu(node: Node) -> KernelSource | Refusal:
    refusal = refuse_strings(node) or refuse_layouts(node)
    dtype, upper = node.results[0].tensor.dtype, bool(node.attr("upper"))
    if refusal or dtype.itemsize > 8:
        return refusal or Refusal("elements of 16 bytes have no kernel", {"type": dtype})
    typ, item = f"u{8 * dtype.itemsize}", dtype.itemsize

    def bind(call: Call) -> Launch:
        *batch, rows, cols = call.results[0]
        units = math.prod(batch) * rows
        return Launch((units, rows, cols), tiles_for(units, units * cols))

    copy, zero = f"get_{typ}(source, j)", f"{typ}(0)"
    words = {"BEFORE": zero if upper else copy, "AFTER": copy if upper else zero}
    shift = "0" if node.operand(1) is None else "minimum(maximum(ld_i64(param(p, 1), 0), -(1 << 40)), 1 << 40)"
    words["SHIFT"] = shift if upper else f"{shift} + 1"
    return KernelSource(fill_in(_TRILU.replace("TYPE", typ), FIRST=first_int(node), ITEM=item, **words), bind)


_REVERSE = """
def kernel(p, tile, ntiles):
    lens = param(p, 1)
    steps = param(p, FIRST)
    batch = param(p, FIRST + 1)
    size = param(p, FIRST + 2)
    step = param(p, FIRST + 3)
    entry = param(p, FIRST + 4)
    units = steps * batch
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        t = u // batch
        b = u - t * batch
        n = ld_i64(lens, b)
        if n < 0 or n > steps:
            st_i64(param(p, 3), 0, 1)
            n = 0
        from_ = n - 1 - t if t < n else t
        memcpy(param(p, 2) + t * step + b * entry, param(p, 0) + from_ * step + b * entry, size)
"""


@serves("reverse_sequence")
def reverse_sequence(node: Node) -> KernelSource | Refusal:
    refusal = refuse_strings(node) or refuse_layouts(node)
    if refusal:
        return refusal
    item, time, batch = node.operands[0].tensor.dtype.itemsize, node.attr("time_axis"), node.attr("batch_axis")

    def bind(call: Call) -> Launch:
        shape = call.operands[0]
        strides = [s * item for s in dense(node.operands[0], shape)]
        units, size = shape[0] * shape[1], math.prod(shape[2:]) * item
        return Launch((shape[time], shape[batch], size, strides[time], strides[batch]), tiles_for(units, units * size // item), 8)

    message = f"reverse_sequence: a length lies outside of [0, the size of axis {time} of {node.operands[0].type}]"
    return KernelSource(fill_in(_REVERSE, FIRST=first_int(node)), bind, checked=message)


_RANGE = """
def kernel(p, tile, ntiles):
    start = ld_TYPE(param(p, 0), 0)
    delta = ld_TYPE(param(p, 2), 0)
    out = param(p, 3)
    n = param(p, FIRST)
    for i in range(n * tile // ntiles, n * (tile + 1) // ntiles):
        st_TYPE(out, i, add(start, mul(to_WIDE(i), delta)))
"""


@serves("range")
def range_(node: Node) -> KernelSource | Refusal:
    dtype = node.results[0].tensor.dtype
    if node.attr("stash_type") != 1 and dtype.bits < 32 and dtype.is_float:
        return Refusal("this float type is computed in f32 only", {"type": dtype, "stash_type": node.attr("stash_type")})
    wide = "f32" if dtype.is_float and dtype.bits < 32 else str(dtype)
    text = _RANGE.replace("TYPE", str(dtype)).replace("WIDE", wide)

    def bind(call: Call) -> Launch:
        (n,) = call.results[0]
        return Launch((n,), tiles_for(n, n))

    return KernelSource(fill_in(text, FIRST=first_int(node)), bind)
