"""Data movement as lists of *boxes*, copies between strided memories.

A box says `dst[at + sum i_k * dst_stride_k] = src[at + sum i_k * src_stride_k]` for all indices below its dims. Transposes, slices,
concatenations, pads, tiles, fills and changes of layout are lists of boxes whose destinations do not overlap; lists are made when a
node is bound to sizes, so that one kernel serves every rank, every stride and any number of boxes. A fill is a box whose source is
a literal, with strides of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..ir.core import Value
from ..ir.layout import Layout
from .spec import Call, Dims, KernelSource, Launch


@dataclass(frozen=True, slots=True)
class Box:
    """A copy from parameter slot `src` (or from a literal, as bytes) to slot `dst`; offsets and strides count elements."""

    dims: Dims
    src: int | bytes
    src_strides: Dims
    dst: int
    dst_strides: Dims
    src_at: int = 0
    dst_at: int = 0


@dataclass(frozen=True, kw_only=True)
class Mover(KernelSource):
    """The kernel of a node that copies boxes. Who needs no copy of some of the `boxes(call)` asks for the `copy` of the others;
    `bind(call)` is the copy of all."""

    boxes: Callable[[Call], Sequence[Box]]
    copy: Callable[[Sequence[Box]], Launch]


def strides_of(shape: Dims, layout: Layout | None = None) -> Dims:
    """The strides, in elements, of the logical axes of a dense tensor."""
    out, step = [0] * len(shape), 1
    for a in reversed(range(len(shape)) if layout is None else layout.perm):
        out[a] = step
        step *= shape[a]
    return tuple(out)


def halved(b: Box) -> list[Box]:
    """The same box in elements of half the size."""
    if isinstance(b.src, bytes):
        to = tuple(2 * d for d in b.dst_strides)
        return [Box(b.dims, b.src[8 * k : 8 * k + 8], b.src_strides, b.dst, to, 0, 2 * b.dst_at + k) for k in range(2)]
    here, there = ((*(2 * x for x in strides), 1) for strides in (b.src_strides, b.dst_strides))
    return [Box((*b.dims, 2), b.src, here, b.dst, there, 2 * b.src_at, 2 * b.dst_at)]


Loop = tuple[int, int, int]  # count, source stride, destination stride


def collapse(b: Box) -> list[Loop]:
    """The loops of a box by falling destination stride, neighbours merged where both sides allow; [] where it is empty."""
    if 0 in b.dims:
        return []
    loops = sorted((x for x in zip(b.dims, b.src_strides, b.dst_strides, strict=True) if x[0] != 1), key=lambda x: -abs(x[2]))
    out: list[Loop] = []
    for n, s, d in loops:
        if out and out[-1][1] == n * s and out[-1][2] == n * d:
            out[-1] = (out[-1][0] * n, s, d)
        else:
            out.append((n, s, d))
    return out or [(1, 1, 1)]


def runs(index: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Source positions as runs (first destination, count, first source, step of -1, 0 or 1); position -1 means fill."""
    out: list[list[int]] = []
    for at, source in enumerate(index):
        _, n, start, step = out[-1] if out else (0, 0, 0, 0)
        if n and (source < 0) == (start < 0):
            if n == 1 and abs(source - start) <= 1:
                out[-1][1:] = 2, start, source - start
                continue
            if n > 1 and source == start + n * step:
                out[-1][1] += 1
                continue
        out.append([at, 1, source, 0])
    return [tuple(r) for r in out]


def dense(v: Value, shape: Dims) -> Dims:
    """The strides of a value's logical axes at the given sizes."""
    return strides_of(shape, v.tensor.layout)
