"""Reductions over any set of axes: a team of threads folds what makes one result (line.py). Where the innermost axes are reduced, a
team's threads are neighbours and read 16 bytes each; where they are kept, neighbouring threads have neighbouring results."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from ...ir.core import Node
from ...ir.reduction import Reduction
from ...ir.scalar import arg
from ...ir.types import F64, DType
from ..operands import first_int, first_result
from ..printer import Printer, literal, register
from ..reductions import REDUCTIONS, Reduced, take_apart
from ..spec import Call, KernelSource, Launch, Refusal
from .line import ACROSS, NEIGHBOURS, SIZES, THREADS, Line, Source, places, spread, statements
from .source import fast_div
from .target import serves
from .text import declared, indent, kernel

_COMBINE = {"add": "add", "mul": "mul", "max": "maximum", "min": "minimum"}


@serves(*REDUCTIONS, "fused.reduce")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of a reduction with known axes, or of a region of elementwise nodes around one."""
    work = take_apart(node)
    if isinstance(work, Refusal):
        return work
    text = partial(_text, work, first_result(node), first_int(node))
    return KernelSource(text, lambda call: _bind(work, call), "across" if _is_across(work) else "rows")


def _is_across(work: Reduced) -> bool:
    return bool(work.groups.reduced) and not work.groups.reduced[-1]


def _loaded(work: Reduced) -> dict[int, DType]:
    """The element types of the operands that are as large as what is reduced, by slot."""
    full = work.around.full
    return {k: v.tensor.dtype for v, k in full.items()} if full else {0: work.x.dtype}


def _wide(work: Reduced) -> int:
    """How many neighbours a thread reads at once: 16 bytes where they are reduced; f64 one by one, its functions are long."""
    types = list(_loaded(work).values())
    contiguous = not _is_across(work) and sum(work.groups.reduced) <= 1
    return 16 // max(d.itemsize for d in types) if contiguous and F64 not in types else 1


def _folds(r: Reduction) -> int:
    return 2 if r.shift else 1


def _bind(work: Reduced, call: Call) -> Launch:
    """Parameters: those of `spread`, then divisor and step of each group."""
    shape, groups = call.operands[work.operand], work.groups
    assert shape is not None
    sizes = groups.sizes(shape)
    n = math.prod([shape[a] for a in work.axes])
    lines = math.prod([s for s, reduced in zip(sizes, groups.reduced, strict=True) if not reduced])
    acc = Reduction.accumulator(work.x.dtype)
    launch = spread(lines, n, _is_across(work), _wide(work), acc, _folds(work.reduction), holds=False, maps=False)
    steps = [math.prod(sizes[g + 1 :]) for g in range(len(sizes))]
    return replace(launch, ints=(*launch.ints, *(i for s, step in zip(sizes, steps, strict=True) for i in (fast_div(s), step))))


def _text(work: Reduced, result: int, ints: int) -> str:
    r, groups, around, wide = work.reduction, work.groups, work.around, _wide(work)
    acc, at, more = Reduction.accumulator(work.x.dtype), ints + len(SIZES), 2 * len(groups.axes)
    kept = [g for g, reduced in enumerate(groups.reduced) if not reduced]
    over = [g for g, reduced in enumerate(groups.reduced) if reduced]
    body = [f"i64 x{k} = p[{k}];" for k in around.slots()] + [f"i64 y = p[{result}], partials = p[{result + 1}];"]
    body += places(ints, more, _is_across(work), cut=f"pass < {_folds(r)} ? splits : 1")
    body += [f"FastDiv n{g}(p[{at + 2 * g}]);" for part in (kept, over) for g in part[1:]]
    body += [f"u32 s{g} = p[{at + 2 * g + 1}];" for g in range(len(groups.axes))]
    body += declared([*around.once(), *offset("o", "u", kept)])
    line = Line(acc, wide, _source(work, over, wide))
    body += [_whole(work, wide)] if wide > 1 else []
    body += [*_mapped(r, acc), *statements(_folded(line, r, acc)), *_finish(work, acc)]
    return kernel(THREADS, at + more + 1, body, [ACROSS if _is_across(work) else NEIGHBOURS])


def offset(name: str, place: str, groups: list[int]) -> list[str]:
    """Lines that sum the offset of a place in the axes `groups`, of sizes n and steps s."""
    if not groups:
        return [f"{name} = 0u"]
    lines = [f"{name}q = {place}"]
    for g in reversed(groups[1:]):
        lines += [f"{name}q{g} = {name}q / n{g}", f"{name}t{g} = ({name}q - {name}q{g} * n{g}.d) * s{g}", f"{name}q = {name}q{g}"]
    return [*lines, " + ".join([f"{name} = {name}q * s{groups[0]}", *(f"{name}t{g}" for g in groups[1:])])]


def _whole(work: Reduced, wide: int) -> str:
    """Whether all packs can be read at once."""
    return f"bool whole = (({' | '.join(f'x{k}' for k in _loaded(work))}) & 15) == 0 && n % {wide} == 0;"


def _source(work: Reduced, over: list[int], wide: int) -> Source:
    """How the elements to reduce are read, and computed from what is read."""
    p = Printer()
    x = work.around.element(p, "ld_{0}({1}, at)" if wide == 1 else "q{1}.get(k)", work.x.dtype)
    each = [*p.lines, f"v = {x}"]
    if wide == 1:
        return Source([], [*offset("r", "j", over), "at = o + r", *each])
    return Source(
        [f"auto qx{k} = read_pack<element_{d}, {wide}>(x{k}, o + j, o + end, whole);" for k, d in _loaded(work).items()], each
    )


def _mapped(r: Reduction, acc: DType) -> list[str]:
    """`mapped`: what is combined for an element."""
    p = Printer()
    x = p.value(r.map(arg(0, acc)), ["v"])
    return [f"auto mapped = [&]({register(acc)} v) {{", *indent([*declared(p.lines), f"return {x};"]), "};"]


def _folded(line: Line, r: Reduction, acc: DType) -> list[str]:
    fn, zero = _COMBINE[r.combine], literal(r.identity(acc), acc)
    if not r.shift:
        return line.fold("acc", fn, zero, None, lambda v: f"mapped({v})")
    none = literal(0, acc)
    return [
        *line.fold("peak", "maximum", literal(-math.inf, acc), None, lambda v: v),
        f"peak = where(eq(sub(peak, peak), {none}), peak, {none})",
        *line.fold("acc", fn, zero, None, lambda v: f"mapped(sub({v}, peak))"),
    ]


def _finish(work: Reduced, acc: DType) -> list[str]:
    """The end of a reduction, and what is computed behind it."""
    r, around, p = work.reduction, work.around, Printer("f")
    out = p.value(r.finish(arg(0, acc), arg(1, acc)), ["acc", f"to_{acc}(n)"])
    out = around.result(p, p.let(f"add({out}, peak)") if r.shift else out, "ld_{0}({1}, u)", work.x.dtype)
    dtype = work.x.dtype if around.region is None else around.region.outputs[0].tensor.dtype
    return ["if (lane == 0 && u < lines) {", *indent([*declared(p.lines), f"st_{dtype}(y, u, {out});"]), "}"]
