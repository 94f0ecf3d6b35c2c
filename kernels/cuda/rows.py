"""Softmax and its relatives, and the normalizations (kernels/lines.py) on CUDA: a team of threads works on a line (line.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ...ir.core import Node
from ...ir.layout import channels_last
from ...ir.reduction import Reduction
from ...ir.types import F64, DType, TensorType
from ..lines import (
    BATCH_NORM,
    CHANNEL,
    Along,
    Array,
    along,
    channel,
    formula,
    group_sizes,
    mean_and_inverse,
    norm_axis,
    norm_lines,
    overwritable,
    refuse_batch_norm,
    root,
    tensors,
    unsupported,
)
from ..operands import first_int, first_result, refuse_layouts, slot_of
from ..printer import Printer, register
from ..space import make_space
from ..spec import Call, KernelSource, Launch, Refusal
from . import loops
from .line import ACROSS, NEIGHBOURS, SIZES, THREADS, Line, Read, Sink, Source, held_team, in_modes, places, read, spread, store
from .source import fast_div
from .target import serves
from .text import declared, indent, kernel

Write = Callable[[Line], Sequence[str]]


def known_size(dims: Sequence[object]) -> int | None:
    """The product of sizes, None where one is not known."""
    return math.prod(dims) if all(isinstance(d, int) for d in dims) else None  # type: ignore[arg-type]


def known_lines(shape: Sequence[object], how: Along) -> tuple[int | None, int | None]:
    """How many lines there are, and elements of one, None where that is not known."""
    behind = len(shape) if how.flat else how.axis + 1
    return known_size([*shape[: how.axis], *shape[behind:]]), known_size(shape[how.axis : behind])


def pack_width(*types: DType) -> int:
    """How many neighbours a thread reads or writes at once: 16 bytes of the widest type; f64 one by one, its functions are long."""
    return 1 if F64 in types else 16 // max(d.itemsize for d in types)


def count_folds(write: Write, line: Line) -> int:
    """How many folds an operator makes of a line."""
    write(line)
    return line.folds


def whole(wide: int, *names: str) -> list[str]:
    """Whether all packs of a line can be read and written at once, at the addresses of these names."""
    return [f"bool whole = (({' | '.join(names)}) & 15) == 0 && n % {wide} == 0;"] if wide > 1 else []


# ---- softmax, log_softmax, lp_norm ------------------------------------------------------------------------------


@serves("softmax", "log_softmax", "lp_norm")
def along_axis(node: Node) -> KernelSource | Refusal:
    """The kernel of an operator that works along one axis."""
    how = along(node)
    if isinstance(how, Refusal):
        return how
    t = node.operands[0].tensor  # type: ignore[union-attr]
    acc, across, step = Reduction.accumulator(t.dtype), not how.contiguous, "" if how.contiguous else "inner"
    wide = 1 if across else pack_width(t.dtype)
    x, e, y = Array("x", t.dtype.name, step=step), Array("e", acc.name), Array("y", t.dtype.name, step=step)

    def write(line: Line) -> list[str]:
        return [*line.begin(), *formula(node)(line, x, e, y, acc)]

    def line(held: int) -> Line:
        return Line(acc, wide, read(x, wide), held)

    folds, sizes = count_folds(write, line(0)), known_lines(t.shape or (), how)
    team = held_team(*sizes, across, wide, acc)

    def text() -> str:
        first = first_int(node)
        at = first + len(SIZES)
        body = [f"i64 x = p[0], y = p[{first - 2}], partials = p[{first - 1}];", *places(first, 1, across, team=team)]
        if across:
            body += [f"FastDiv by_inner(p[{at}]);", "u32 inner = by_inner.d, q = u / by_inner, o = q * n * inner + u - q * inner;"]
        else:
            body += ["u32 o = u * n;"]
        body += [*whole(wide, "x", "y"), *in_modes(line, write, *sizes, across)]
        return kernel(team.threads if team else THREADS, at + 2, body, [ACROSS if across else NEIGHBOURS])

    def bind(call: Call) -> Launch:
        outer, n, inner = how.sizes(call.operands[0] or ())
        launch = spread(outer * inner, n, across, wide, acc, folds, holds=True, maps=True, team=team)
        return replace(launch, ints=(*launch.ints, fast_div(inner)))

    return KernelSource(text, bind, "across" if across else "rows", in_place=overwritable(node))


# ---- layer_norm, rms_norm ---------------------------------------------------------------------------------------


@serves("layer_norm", "rms_norm")
def layer_norm(node: Node) -> KernelSource | Refusal:
    """The kernel of a normalization over the trailing axes."""
    axis = norm_axis(node)
    if isinstance(axis, Refusal):
        return axis
    t, out = node.operands[0].tensor, node.results[0].tensor  # type: ignore[union-attr]
    acc, wide = Reduction.accumulator(t.dtype), pack_width(*(v.dtype for v in tensors(*node.operands, node.results[0])))
    x, y = Array("x", t.dtype.name), Array("y", out.dtype.name)
    statistics = list(zip(("ym", "yi"), node.results[1:], ("mean", "inverse"), strict=False))

    def write(line: Line) -> list[str]:
        ends = [
            f"if (lane == 0 && split == 0 && u < lines) st_{v.tensor.dtype}({name}, u, {what});" for name, v, what in statistics
        ]
        return [*line.begin(), *norm_lines(line, node, x, y, acc), *ends]

    def line(held: int) -> Line:
        return Line(acc, wide, read(x, wide), held)

    folds = count_folds(write, line(0))
    sizes = known_size((t.shape or ())[:axis]), known_size((t.shape or ())[axis:])
    team = held_team(*sizes, False, wide, acc)

    def text() -> str:
        first, result = first_int(node), first_result(node)
        names = {"x": 0} | {n: slot_of(node, i) for n, i in (("s", 1), ("b", 2)) if node.operand(i) is not None} | {"y": result}
        slots = names | {name: result + 1 + j for j, (name, _, _) in enumerate(statistics)} | {"partials": first - 1}
        body = [f"i64 {name} = p[{slot}];" for name, slot in slots.items()] + places(first, 0, False, team=team)
        body += ["u32 o = u * n;", *whole(wide, *names)]
        body += in_modes(line, write, *sizes, False)
        return kernel(team.threads if team else THREADS, first + len(SIZES) + 1, body, [NEIGHBOURS])

    def bind(call: Call) -> Launch:
        shape = call.operands[0] or ()
        return spread(math.prod(shape[:axis]), math.prod(shape[axis:]), False, wide, acc, folds, holds=True, maps=True, team=team)

    return KernelSource(text, bind, "rows", in_place=overwritable(node))


# ---- instance_norm, group_norm, batch_norm ----------------------------------------------------------------------


@serves("instance_norm", "group_norm")
def group_norm(node: Node) -> KernelSource | Refusal:
    """The kernel of a normalization over groups of channels and all spatial axes, row-major or with the channels last. There a line
    is runs of a group's channels, one for each place; packs lie in one run where the number of channels is known to allow it."""
    t = node.operands[0].tensor  # type: ignore[union-attr]
    last = t.layout is not None and t.layout == node.results[0].tensor.layout == channels_last(t.rank or 0)
    refusal = None if last else refuse_layouts(node)
    refusal = refusal or unsupported(node, tensors(*node.operands[:3]))
    if refusal is not None:
        return refusal
    acc, each = Reduction.accumulator(t.dtype), _each_group(t.shape or (), node)
    wide = math.gcd(pack_width(t.dtype), each or 1) if last else pack_width(t.dtype)
    # Short runs fill no transaction of memory by themselves: then neighbouring threads have neighbouring groups.
    across = last and (each or 1) * t.dtype.itemsize < 32
    write = partial(_group_lines, node, last, wide)
    source = read(Array("x", t.dtype.name), wide)
    if last:
        source = Source([Read("qx", t.dtype.name, wide, "x", "place(j)", f"place(j) + {wide}")], ["v = qx.get(k)"])

    def text() -> str:
        first, names = first_int(node), {"x": 0, "s": 1, "b": 2, "y": first_result(node), "partials": first_int(node) - 1}
        at = first + len(SIZES)
        body = [f"i64 {name} = p[{slot}];" for name, slot in names.items()] + places(first, 3, across)
        body += [
            f"FastDiv by_groups(p[{at}]), by_space(p[{at + 1}]), by_each(p[{at + 2}]);",
            "u32 each = by_each.d, g = u % by_groups;",
        ]
        if last:
            body += ["u32 all = each * by_groups.d, o = u / by_groups * by_space.d * all + g * each;"]
            body += [
                "auto place = [&](u32 j) { return o + j / by_each * all + j % by_each; };",
                "bool whole = ((x | y) & 15) == 0;",
            ]
        else:
            body += [
                "u32 o = u * n;",
                *(whole(wide, "x", "y") or ["bool whole = true;"]),
                f"bool together = by_space.d % {wide} == 0;",
            ]
        size = None if each is None else known_size([each, *(t.shape or ())[2:]])
        body += in_modes(partial(Line, acc, wide, source), write, None, size, across)
        return kernel(THREADS, at + 4, body, [ACROSS if across else NEIGHBOURS])

    def bind(call: Call) -> Launch:
        n, many, channels, area = group_sizes(node, call.operands[0] or ())
        launch = spread(n * many, channels * area, across, wide, acc, 2, holds=True, maps=True)
        return replace(launch, ints=(*launch.ints, fast_div(many), fast_div(area), fast_div(channels)))

    return KernelSource(text, bind, "rows.last" if last else "rows", in_place=overwritable(node))


def _group_lines(node: Node, last: bool, wide: int, line: Line) -> list[str]:
    """What is done with a group. Row-major, the channel of a pack is that of its elements where a pack lies in one channel."""
    dtype, acc = node.operands[0].tensor.dtype, line.acc  # type: ignore[union-attr]
    by_group = node.op.name == "group_norm" and bool(node.attr("per_group"))
    parameters = declared(channel("g" if by_group else "g * each + q", dtype.name), ("scale", "bias"))
    find = ["auto find = [&](u32 q, auto& scale, auto& bias) {", *indent(parameters), "};"]
    declare = f"{register(acc)} scale, bias;"
    if last:
        out = f"Pack<element_{dtype}, {wide}> ry;"
        each = ["find(j % by_each + k, scale, bias);"]
        sink = Sink(
            [declare, out], lambda v: [*each, f"ry.set(k, {v});"], [f"write_pack(y, place(j), place(j) + {wide}, whole, ry);"]
        )
    else:
        alone = store(Array("y", dtype.name), wide)
        each = ["if (!together) find((j + k) / by_space, scale, bias);"] if wide > 1 else []
        packs = [declare, "find(j / by_space, scale, bias);", *alone.packs]
        sink = Sink(packs, lambda v: [*each, *alone.each(v)], alone.after)
    x, size = Array("x", dtype.name), f"size = to_{acc}(n)"
    return [*line.begin(), size, *mean_and_inverse(line, x, acc, node.attr("epsilon")), *find, *line.map(x, sink, CHANNEL.format)]


def _each_group(shape: Sequence[object], node: Node) -> int | None:
    """How many channels a group has."""
    channels = shape[1] if len(shape) > 1 else 0
    if node.op.name == "instance_norm":
        return 1
    return channels // max(node.attr("num_groups"), 1) if isinstance(channels, int) else None


@serves("batch_norm")
def batch_norm(node: Node) -> KernelSource | Refusal:
    """The kernel of batch normalization in inference: elementwise, each channel with its parameters."""
    refusal = refuse_batch_norm(node)
    if refusal is not None:
        return refusal
    x, result = node.operands[0].tensor, node.results[0].tensor  # type: ignore[union-attr]
    rank, acc = x.rank or 0, Reduction.accumulator(x.dtype)

    def by_channel(size: int) -> tuple[int, ...]:
        return (1, size, *[1] * (rank - 2)) if rank > 1 else (1,) * rank

    channels = x.shape[1] if rank > 1 else 1  # type: ignore[index]
    parameters = [TensorType(v.tensor.dtype, by_channel(channels)) for v in node.operands[1:5]]  # type: ignore[union-attr, arg-type]
    space = make_space([x, *parameters], result)
    if isinstance(space, Refusal):
        return space

    def compute(p: Printer, names: Mapping[int, str]) -> list[str]:
        for name, k in (("vs", 1), ("vb", 2), ("vmean", 3), ("vvar", 4)):
            p.lines.append(f"{name} = {names[k]}")
        p.lines.append(f"root = {root('vvar', node.attr('epsilon'), acc)}")
        return [p.let(BATCH_NORM.format(names[0]))]

    wide = loops.elements_of_thread(space, range(5), [result.dtype])

    def bind(call: Call) -> Launch:
        shape = call.operands[0] or ()
        seen = [shape, *[by_channel(shape[1] if rank > 1 else 1)] * 4]
        return loops.bind(space, wide, Call(seen, call.results))

    return KernelSource(
        partial(loops.loop_text, space, range(5), [result.dtype], compute), bind, "loops", in_place=overwritable(node)
    )
