"""What operators that only move data do: a list of boxes (see boxes.py) for each node, made when its sizes are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.core import Node
from ..ir.ops.move import slice_ends
from ..ir.types import DType, dtype_of
from .boxes import Box, dense, runs
from .operands import first_result, host_value, refuse_strings, slot_of
from .spec import Call, Dims, Refusal


@dataclass(frozen=True)
class Moves:
    """The boxes that a node copies, of a call; the contents of the operands in `host` are read for that."""

    boxes: Callable[[Call], Sequence[Box]]
    host: frozenset[int] = frozenset()


_MOVES: dict[str, Callable[[Node], Moves | Refusal]] = {}


def moves(op: str) -> Callable[[Callable[[Node], Moves | Refusal]], Callable[[Node], Moves | Refusal]]:
    """Announces the function that makes the boxes of an operator."""

    def register(make: Callable[[Node], Moves | Refusal]) -> Callable[[Node], Moves | Refusal]:
        _MOVES[op] = make
        return make

    return register


def movers() -> tuple[str, ...]:
    """The operators that only move data."""
    return tuple(_MOVES)


def moves_of(node: Node) -> Moves | Refusal:
    """What a node of one of `movers()` copies."""
    return refuse_strings(node) or _MOVES[node.op.name](node)


def literal(value: object, dtype: DType) -> bytes:
    """The bytes of one element, repeated to at least 8."""
    raw = np.asarray(value, dtype.np).reshape(()).tobytes()
    return raw * max(1, 8 // len(raw))


def permuted(xs: Sequence[int], order: Sequence[int]) -> Dims:
    return tuple(xs[i] for i in order)


@moves("transpose")
def transpose(node: Node) -> Moves | Refusal:
    x, y = node.operands[0], node.results[0]
    perm = node.attr("perm") or tuple(reversed(range(x.tensor.rank)))
    perm, out = tuple(a % len(perm) for a in perm), first_result(node)

    def boxes(call: Call) -> list[Box]:
        return [Box(call.results[0], 0, permuted(dense(x, call.operands[0]), perm), out, dense(y, call.results[0]))]

    return Moves(boxes)


@moves("to_layout")
def to_layout(node: Node) -> Moves | Refusal:
    x, y, out = node.operands[0], node.results[0], first_result(node)
    return Moves(lambda call: [Box(call.results[0], 0, dense(x, call.operands[0]), out, dense(y, call.results[0]))])


@moves("expand")
def expand(node: Node) -> Moves | Refusal:
    x, y, out = node.operands[0], node.results[0], first_result(node)

    def boxes(call: Call) -> list[Box]:
        shape, dims = call.operands[0], call.results[0]
        new = (0,) * (len(dims) - len(shape))
        if any(n != 1 and n != size for n, size in zip(shape, dims[len(new) :], strict=True)):
            raise ValueError(f"{tuple(map(int, shape))} does not broadcast to {tuple(map(int, dims))}")
        strides = new + tuple(0 if n == 1 else s for n, s in zip(shape, dense(x, shape), strict=True))
        return [Box(dims, 0, strides, out, dense(y, dims))]

    return Moves(boxes)


@moves("tile")
def tile(node: Node) -> Moves | Refusal:
    x, y, out = node.operands[0], node.results[0], first_result(node)

    def boxes(call: Call) -> list[Box]:
        shape, dims = call.operands[0], call.results[0]
        if 0 in dims:
            return []
        ys = dense(y, dims)
        repeats = tuple(m // n for m, n in zip(dims, shape, strict=True))
        steps = tuple(n * s for n, s in zip(shape, ys, strict=True))
        return [Box(repeats + shape, 0, (0,) * len(shape) + dense(x, shape), out, steps + ys)]

    return Moves(boxes)


@moves("concat")
def concat(node: Node) -> Moves | Refusal:
    y, out = node.results[0], first_result(node)
    axis = node.attr("axis") % max(y.tensor.rank, 1)

    def boxes(call: Call) -> list[Box]:
        ys, at, made = dense(y, call.results[0]), 0, []
        for i, (v, shape) in enumerate(zip(node.operands, call.operands, strict=True)):
            made.append(Box(shape, i, dense(v, shape), out, ys, 0, at * ys[axis]))
            at += shape[axis]
        return made

    return Moves(boxes)


@moves("split")
def split(node: Node) -> Moves | Refusal:
    x, out = node.operands[0], first_result(node)
    axis = node.attr("axis") % max(x.tensor.rank, 1)

    def boxes(call: Call) -> list[Box]:
        xs, at, made = dense(x, call.operands[0]), 0, []
        for i, (v, shape) in enumerate(zip(node.results, call.results, strict=True)):
            made.append(Box(shape, 0, xs, out + i, dense(v, shape), at * xs[axis]))
            at += shape[axis]
        return made

    return Moves(boxes)


@moves("slice")
def slice_(node: Node) -> Moves | Refusal:
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

    return Moves(boxes, frozenset(host))


def picked(node: Node) -> Moves | None:
    """The box of a `gather` by one constant index along an axis of known size; None of others."""
    x, index = node.operands[0], node.operands[1]
    axis = node.attr("axis") % max(x.tensor.rank, 1)
    size, y = (x.tensor.shape or (None,))[axis], node.results[0]
    if not index.is_const or index.tensor.size != 1 or not isinstance(size, int) or x.tensor.layout or y.tensor.layout:
        return None
    i = int(index.array.ravel()[0]) % size

    def boxes(call: Call) -> list[Box]:
        xs, ones = dense(x, call.operands[0]), (0,) * index.tensor.rank
        strides = (*xs[:axis], *ones, *xs[axis + 1 :])
        return [Box(call.results[0], 0, strides, first_result(node), dense(y, call.results[0]), i * xs[axis])]

    return Moves(boxes)


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


@moves("pad")
def pad(node: Node) -> Moves | Refusal:
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

    return Moves(boxes, frozenset(host))


@moves("center_crop_pad")
def center_crop_pad(node: Node) -> Moves | Refusal:
    x, y, out = node.operands[0], node.results[0], first_result(node)

    def boxes(call: Call) -> list[Box]:
        shape, dims = call.operands[0], call.results[0]
        maps = []
        for n, m in zip(shape, dims, strict=True):
            begin = (m - n) // 2 if m >= n else -((n - m) // 2)
            maps.append(padded_runs("constant", n, begin, m - n - begin))
        return indexed_boxes(maps, dims, dense(x, shape), dense(y, dims), out, (literal(0, x.tensor.dtype), 0))

    return Moves(boxes)


# ---- blocks of pixels


@moves("depth_to_space")
def depth_to_space(node: Node) -> Moves | Refusal:
    x, y, out, b = node.operands[0], node.results[0], first_result(node), node.attr("blocksize")
    crd = node.attr("mode") == "CRD"

    def boxes(call: Call) -> list[Box]:
        (n, c, h, w), (sn, sc, sh, sw), (tn, tc, th, tw) = call.operands[0], dense(x, call.operands[0]), dense(y, call.results[0])
        depth = c // (b * b)
        channel, block = (b * b * sc, sc) if crd else (sc, depth * sc)
        return [Box((n, depth, h, b, w, b), 0, (sn, channel, sh, b * block, sw, block), out, (tn, tc, b * th, th, b * tw, tw))]

    return Moves(boxes)


@moves("space_to_depth")
def space_to_depth(node: Node) -> Moves | Refusal:
    x, y, out, b = node.operands[0], node.results[0], first_result(node), node.attr("blocksize")
    crd = "mode" in node.op.attrs and node.attr("mode") == "CRD"

    def boxes(call: Call) -> list[Box]:
        (n, c, h, w), (sn, sc, sh, sw), (tn, tc, th, tw) = call.operands[0], dense(x, call.operands[0]), dense(y, call.results[0])
        channel, block = (b * b * tc, tc) if crd else (tc, c * tc)
        dims = (n, c, h // b, b, w // b, b)
        return [Box(dims, 0, (sn, sc, b * sh, sh, b * sw, sw), out, (tn, channel, th, b * block, tw, block))]

    return Moves(boxes)


# ---- tensors made from nothing


@moves("constant_of_shape")
def constant_of_shape(node: Node) -> Moves | Refusal:
    value, out = np.asarray(node.attr("value")), first_result(node)
    if dtype_of(value).kind == "string":
        return Refusal("strings are made on the host")
    fill = literal(value.ravel()[0], dtype_of(value))
    return Moves(lambda call: [Box((math.prod(call.results[0]),), fill, (0,), out, (1,))])


@moves("eye_like")
def eye_like(node: Node) -> Moves | Refusal:
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

    return Moves(boxes)
