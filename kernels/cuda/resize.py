"""Resize on CUDA: a thread makes one element of the result, or 16 bytes of neighbours along axes behind all that change (channels
that lie last). The tables of taps (kernels/resize.py) are as long as an axis: threads find them in the cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir.core import Node
from ...ir.layout import physical
from ...ir.recording import greatest
from ...ir.types import dtype_of
from ..boxes import strides_of
from ..operands import first_int, first_result
from ..resize import Resize, resize_of
from ..spec import Call, KernelSource, Launch, Refusal
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, indent, kernel

THREADS = 256


class _Axes:
    """Axes in memory: those that may change, and runs of others between them, outermost first."""

    def __init__(self, node: Node):
        x = node.operands[0].tensor  # type: ignore[union-attr]
        may = changing(node)
        order = range(x.rank or 0) if x.layout is None else x.layout.perm
        groups: list[list[int]] = []
        self.changes: list[bool] = []
        for i, a in enumerate(order):
            if groups and a not in may and not self.changes[-1]:
                groups[-1].append(i)
            else:
                groups.append([i])
                self.changes.append(a in may)
        self.groups = groups
        self.changing = [g for g, changes in enumerate(self.changes) if changes]
        self.packed = bool(groups) and not self.changes[-1]


def changing(node: Node) -> set[int]:
    """The logical axes that may change: all but those whose scale is known to be 1."""
    x, y = node.operands[0].tensor, node.results[0].tensor  # type: ignore[union-attr]
    rank, scales, sizes = x.rank or 0, node.operand(2), node.operand(3)
    axes = [a % rank for a in node.attr("axes")] or list(range(rank))
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return set(axes)
    if scales is not None and scales.is_const and scales.array is not None and scales.array.size:
        return {a for a, s in zip(axes, scales.array.tolist(), strict=True) if s != 1}
    stretch = sizes is not None and scales is None and node.attr("keep_aspect_ratio_policy") == "stretch"
    return {a for a in axes if not stretch or x.shape[a] != y.shape[a]}  # type: ignore[index]


@serves("resize")
def resize(node: Node) -> KernelSource | Refusal:
    """The kernel of a resize. An axis that stays, which only `bind` can tell of some, has one tap."""
    found = resize_of(node)
    if isinstance(found, Refusal):
        return found
    axes, x = _Axes(node), node.operands[0].tensor  # type: ignore[union-attr]
    fill = int.from_bytes(found.fill, "little", signed=True)
    wide = 16 // x.dtype.itemsize if axes.packed else 1

    def bind(call: Call) -> Launch:
        """Parameters: elements (or packs) of the result, elements behind all axes that change, fill; of each group of axes the
        divisor of its size in the result, its step in the operand, its taps. Tables: indices and weights of such axes."""
        shape, out = physical(tuple(call.operands[0] or ()), x.layout), physical(tuple(call.results[0]), x.layout)
        steps, ints, tables = strides_of(shape), list[int](), list[Any]()
        checked_size(math.prod(shape))
        total, inner = checked_size(math.prod(out)), math.prod([out[i] for i in axes.groups[-1]]) if axes.packed else 1
        packs = -(-inner // wide)
        for g, group in enumerate(axes.groups):
            size, count = math.prod([out[i] for i in group]), 1
            if axes.changes[g]:
                count, *both = found.table(call, group[0], size)
                tables += both
            last = axes.packed and g == len(axes.groups) - 1
            ints += [fast_div(packs if last else size), steps[group[-1]], count]
        units = total // greatest(inner, 1) * packs
        return Launch((units, inner, fill, *ints), blocks_for(units, THREADS), tables=tuple(tables))

    return KernelSource(lambda: _text(node, axes, found, wide), bind, "taps", host=found.host)


def _text(node: Node, axes: _Axes, found: Resize, wide: int) -> str:
    dtype, nearest = node.operands[0].tensor.dtype, found.nearest  # type: ignore[union-attr]
    result, number = first_result(node), str(dtype_of(found.real))
    first = first_int(node, 2 * len(axes.changing))
    element = f"u{8 * dtype.itemsize}" if nearest else str(dtype)
    body = [
        f"i64 x = p[0], y = p[{result}];",
        f"u32 i = blockIdx.x * {THREADS} + threadIdx.x, units = p[{first}], inner = p[{first + 1}];",
    ]
    body += ["if (i >= units) return;", "u32 rest = i, o = 0;", "bool outside = false;"]
    at = first + 3
    for g in reversed(range(len(axes.groups))):
        size, step, taps = at + 3 * g, at + 3 * g + 1, at + 3 * g + 2
        body += [f"FastDiv n{g}(p[{size}]);", f"u32 i{g} = rest % n{g}, s{g} = p[{step}];", f"rest = rest / n{g};"]
        if axes.changes[g]:
            slot = result + 2 + 2 * axes.changing.index(g)
            body += [f"u32 t{g} = p[{taps}];", f"const i32* index{g} = (const i32*)p[{slot}] + i{g} * t{g};"]
            body += [] if nearest else [f"const {number}* weight{g} = (const {number}*)p[{slot + 1}] + i{g} * t{g};"]
            body += [f"outside = outside || index{g}[0] < 0;"]
        else:
            body += [f"o += i{g} * s{g}{f' * {wide}' if axes.packed and g == len(axes.groups) - 1 else ''};"]
    body += _packed(element, wide, len(axes.groups) - 1 if axes.packed else None)
    fill = f"element_{element}::decode(p[{first + 2}])" if nearest else _bits(f"p[{first + 2}]", number)
    body += _nearest(axes, fill, wide) if nearest else _interpolated(axes, found.narrow, number, fill, wide)
    return kernel(THREADS, at + 3 * len(axes.groups), body)


def _bits(word: str, number: str) -> str:
    return f"__builtin_bit_cast(f64, {word})" if number == "f64" else f"bits_to_float(u32({word}))"


def _packed(element: str, wide: int, last: int | None) -> list[str]:
    """Where a thread reads and writes: `load` gives a pack of the operand, `out` is that of the result, which begins at `to`. The
    elements of a pack lie along the group `last`."""
    place = "to = i, behind = 1" if last is None else f"c = i{last} * {wide}, to = i / n{last} * inner + c, behind = inner - c"
    lines = [f"u32 {place};"]
    lines += [f"bool whole = ((x | y) & 15) == 0 && inner % {wide} == 0;" if wide > 1 else "bool whole = true;"]
    lines += [f"auto load = [&](u32 o) {{ return read_pack<element_{element}, {wide}>(x, o, o + behind, whole); }};"]
    return [*lines, f"Pack<element_{element}, {wide}> out;"]


def _offset(axes: _Axes, names: Sequence[str]) -> str:
    return " + ".join(["o", *(f"index{g}[{name}] * s{g}" for g, name in zip(axes.changing, names, strict=True))])


def _nearest(axes: _Axes, fill: str, wide: int) -> list[str]:
    return [
        "if (outside) {",
        f"    for (u32 k = 0; k < {wide}; k++) out.set(k, {fill});",
        "} else {",
        f"    out = load({_offset(axes, ['0'] * len(axes.changing))});",
        "}",
        "write_pack(y, to, to + behind, whole, out);",
    ]


def _interpolated(axes: _Axes, narrow: str, number: str, fill: str, wide: int) -> list[str]:
    """Sums over the taps of all axes, the innermost in the innermost loop."""
    names = [f"j{g}" for g in axes.changing]
    weight = f"{number}(1)"
    loops: list[str] = []
    for depth, (g, name) in enumerate(zip(axes.changing, names, strict=True)):
        loops += indent(
            [f"for (u32 {name} = 0; {name} < t{g}; {name}++) {{", f"    {number} w{g} = {weight} * weight{g}[{name}];"], depth
        )
        weight = f"w{g}"
    step = [
        f"auto q = load({_offset(axes, names)});",
        "#pragma unroll",
        f"for (u32 k = 0; k < {wide}; k++) sum[k] += q.get(k) * {weight};",
    ]
    loops += indent(step, len(names))
    loops += [f"{'    ' * depth}}}" for depth in reversed(range(len(names)))]
    return [
        f"{number} sum[{wide}] = {{}};",
        "if (!outside) {",
        *indent(loops),
        "}",
        f"{number} fill = {fill};",
        "#pragma unroll",
        f"for (u32 k = 0; k < {wide}; k++) {{",
        f"    {number} v = outside ? fill : sum[k];",
        f"    out.set(k, {narrow});",
        "}",
        "write_pack(y, to, to + behind, whole, out);",
    ]
