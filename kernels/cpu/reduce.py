"""Reductions over any set of axes.

Adjacent axes that are all kept or all reduced are one. If the innermost group is reduced, a unit of work is one result, summed with
four vector accumulators over contiguous segments; if it is kept, a unit is four vectors of results, to which rows are added. Sums
are cut into blocks whose totals are added up, for accuracy; the order depends on the shape and the vector width alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...ir.core import Node
from ...ir.reduction import Reduction
from ...ir.scalar import arg
from ...ir.types import DType
from ..operands import first_int, first_result, tiles_for
from ..printer import Printer, literal
from ..reductions import REDUCTIONS, Reduced, take_apart
from ..spec import Call, KernelSource, Launch, Refusal
from .target import serves

SHORT, TOGETHER = 8, 64  # elements of a segment below which results are computed together, and how many of them
BLOCK, ROWS = 4096, 128  # elements of a segment, rows of a block, that one accumulator takes before it is added to the total
_FOLD = {"add": "hsum", "mul": "hprod", "max": "hmax", "min": "hmin"}
_COMBINE = {"add": "add", "mul": "mul", "max": "maximum", "min": "minimum"}


@serves(*REDUCTIONS, "fused.reduce")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of a reduction with known axes, or of a region of elementwise nodes around one."""
    work = take_apart(node)
    if isinstance(work, Refusal):
        return work
    text = _Text(work, first_result(node), first_int(node)).text()
    return KernelSource(text, lambda call: _bind(work, call), "reduce")


def _bind(work: Reduced, call: Call) -> Launch:
    """Parameters: number of reduced elements, of outer kept places, size of the innermost group, then size and step of each outer
    group."""
    shape, groups = call.operands[work.operand], work.groups
    assert shape is not None
    sizes = groups.sizes(shape) or [1]
    steps = [math.prod(sizes[g + 1 :]) for g in range(len(sizes))]
    outer = range(len(sizes) - 1)
    places = math.prod([sizes[g] for g in outer if not groups.reduced[g]])
    count = math.prod([shape[a] for a in work.axes])
    ints = [count, places, sizes[-1], *(i for g in outer for i in (sizes[g], steps[g]))]
    units = places if groups.reduced and groups.reduced[-1] else places * -(-sizes[-1] // 32)
    total = math.prod(sizes)
    return Launch(tuple(ints), tiles_for(units, total))


class _Text:
    """The text of a reduction's kernel."""

    def __init__(self, work: Reduced, result: int, ints: int):
        x, groups, around = work.x, work.groups, work.around
        self.r, self.dtype, self.groups, self.around = work.reduction, x.dtype, groups, around
        dtype, last = x.dtype, [x.shape[a] for a in groups.axes[-1]] if groups.axes else []  # type: ignore[index]
        self.innermost = math.prod(last) if all(isinstance(d, int) for d in last) else None  # type: ignore[arg-type]
        out = dtype if around.region is None else around.region.outputs[0].tensor.dtype
        self.out = out
        self.acc = Reduction.accumulator(dtype)
        self.outer = range(max(len(groups.axes) - 1, 0))
        self.kept = [g for g in self.outer if not groups.reduced[g]]
        self.over = [g for g in self.outer if groups.reduced[g]]
        names = ["count", "places", "m", *(n for g in self.outer for n in (f"n{g}", f"s{g}"))]
        operands = [f"x{k} = param(p, {k})" for k in around.slots()]
        sizes = [f"{n} = param(p, {ints + i})" for i, n in enumerate(names)]
        self.head = [*operands, *around.once(), f"y = param(p, {result})", *sizes]

    def text(self) -> str:
        inner = bool(self.groups.reduced) and self.groups.reduced[-1]
        lines = [*self.head, *(self._rows() if inner else self._columns())]
        return "\n".join(["def kernel(p, tile, ntiles):", *indent(lines), ""])

    def identity(self, r: Reduction) -> str:
        return literal(r.identity(self.acc), self.acc)

    def offset(self, place: str) -> list[str]:
        """`o`: where the elements of a kept place begin."""
        if len(self.kept) <= 1:
            return [f"o = {place} * s{self.kept[0]}" if self.kept else "o = 0"]
        lines, rest = ["o = 0"], place
        for g in reversed(self.kept[1:]):
            lines += [f"q = {rest} // n{g}", f"o += ({rest} - q * n{g}) * s{g}", "rest = q"]
            rest = "rest"
        return [*lines, f"o += rest * s{self.kept[0]}"]

    def mapped(self, r: Reduction, load: str, name: str, peak: str | None) -> tuple[list[str], str]:
        """Lines that load and map elements, and what holds them."""
        p = Printer(name)
        x = self.around.element(p, load, self.dtype)
        if peak is not None:
            x = p.let(f"sub({x}, {peak})")
        out = p.value(r.map(arg(0, self.acc)), [x])
        return p.lines, out

    def finished(self, acc: str, peak: str | None, name: str, load: str) -> tuple[list[str], str]:
        """Lines that end a reduction, and what holds the result; `load` is how operands of the result's shape are read."""
        p = Printer(name)
        out = p.value(self.r.finish(arg(0, self.acc), arg(1, self.acc)), [acc, f"to_{self.acc}(count)"])
        out = self.around.result(p, out if peak is None else p.let(f"add({out}, {peak})"), load, self.dtype)
        return p.lines, out

    # ---- the innermost group is reduced

    def _rows(self) -> list[str]:
        """Segments along vectors, or, where they are shorter than a vector, many results at a time."""
        if self.r.shift or self.over or len(self.kept) > 1 or (isinstance(self.innermost, int) and self.innermost >= SHORT):
            return self._segments()
        if isinstance(self.innermost, int):
            return self._short()
        return [f"if m < {SHORT}:", *indent(self._short()), "else:", *indent(self._segments())]

    def _short(self) -> list[str]:
        fn = _COMBINE[self.r.combine]
        step, v = self.mapped(self.r, "get_{0}({1}, (first + i) * m + j)", "m", None)
        end, out = self.finished("acc", None, "f", "ld_{0}({1}, u)")
        each, acc = "for i in range(size):", self.acc
        add = [each, *indent([*step, f"put_{acc}(sums, i, {fn}(ld_{acc}(sums, i), {v}))"])]
        store = [each, *indent(["u = first + i", f"acc = ld_{acc}(sums, i)", *end, f"st_{self.out}(y, u, {out})"])]
        start = [f"size = min(stop - first, {TOGETHER})", each, f"    st_{acc}(sums, i, {self.identity(self.r)})"]
        return [
            f"sums = alloc({TOGETHER * 8})",
            "stop = places * (tile + 1) // ntiles",
            f"for first in range(places * tile // ntiles, stop, {TOGETHER}):",
            *indent([*start, "for j in range(m):", *indent(add), *store]),
        ]

    def _segments(self) -> list[str]:
        body = self.offset("u")
        peak = None
        if self.r.shift:
            peak = "peak"
            body += [*self._segment_total(Reduction("max"), None), "peak = hmax(total)", *_finite(self.acc)]
        body += self._segment_total(self.r, peak)
        lines, out = self.finished("acc", peak, "f", "ld_{0}({1}, u)")
        body += [f"acc = {_FOLD[self.r.combine]}(total)", *lines, f"st_{self.out}(y, u, {out})"]
        return ["for u in range(places * tile // ntiles, places * (tile + 1) // ntiles):", *indent(body)]

    def _segment_total(self, r: Reduction, peak: str | None) -> list[str]:
        fn, zero = _COMBINE[r.combine], self.identity(r)
        main, step = [], []
        for i in range(4):
            lines, v = self.mapped(r, f"ldv_{{0}}({{1}}, at + j + {i} * LANES)", f"m{i}_", peak)
            main += [*lines, f"a{i} = {fn}(a{i}, {v})"]
        lines, v = self.mapped(r, "ldm_{0}({1}, at + j, e - j)", "r", peak)
        step = [*lines, f"a0 = {fn}(a0, head({v}, e - j, {zero}))"]
        block = [
            f"e = min(m, b + {BLOCK})", *(f"a{i} = splat({zero})" for i in range(4)), "j = b",
            "while j + 4 * LANES <= e:", *indent([*main, "j += 4 * LANES"]), "while j < e:", *indent([*step, "j += LANES"]),
            f"total = {fn}(total, {fn}({fn}(a0, a1), {fn}(a2, a3)))", "b = e",
        ]  # fmt: skip
        return [f"total = splat({zero})", *self._nest(["b = 0", "while b < m:", *indent(block)])]

    def _nest(self, body: list[str]) -> list[str]:
        """The body within loops over the outer reduced groups, with `at` the place in the operand."""
        terms = "".join(f" + q{g} * s{g}" for g in self.over)
        lines = [f"at = o{terms}", *body]
        for g in reversed(self.over):
            lines = [f"for q{g} in range(n{g}):", *indent(lines)]
        return lines

    # ---- the innermost group is kept

    def _columns(self) -> list[str]:
        wide = self._column_block(4, "ldv_{{0}}({{1}}, {0})", lambda i, v: f"stv_{self.out}(y, k * m + c + {i} * LANES, {v})")
        narrow = self._column_block(1, "ldm_{{0}}({{1}}, {0}, m - c)", lambda i, v: f"stm_{self.out}(y, k * m + c, m - c, {v})")
        body = ["k = u // blocks", "c = (u - k * blocks) * (4 * LANES)", *self.offset("k"), "o += c"]
        body += [
            "if c + 4 * LANES <= m:",
            *indent(wide),
            "else:",
            "    while c < m:",
            *indent(indent([*narrow, "c += LANES", "o += LANES"])),
        ]
        return ["blocks = (m + 4 * LANES - 1) // (4 * LANES)", "units = places * blocks",
                "for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):", *indent(body)]  # fmt: skip

    def _column_block(self, width: int, load: str, store: Callable[[int, str], str]) -> list[str]:
        lines, peaks = [], [None] * width
        if self.r.shift:
            lines += self._column_total(width, load, Reduction("max"), peaks)
            for i in range(width):
                lines += [f"peak = t{i}", *_finite(self.acc), f"peak{i} = peak"]
            peaks = [f"peak{i}" for i in range(width)]
        lines += self._column_total(width, load, self.r, peaks)
        for i in range(width):
            done, out = self.finished(f"t{i}", peaks[i], f"f{i}_", load.format(f"k * m + c + {i} * LANES"))
            lines += [*done, store(i, out)]
        return lines

    def _column_total(self, width: int, load: str, r: Reduction, peaks: Sequence[str | None]) -> list[str]:
        fn, zero = _COMBINE[r.combine], self.identity(r)
        adds: list[str] = []
        for i in range(width):
            lines, v = self.mapped(r, load.format(f"at + {i} * LANES"), f"m{i}_", peaks[i])
            adds += [*lines, f"a{i} = {fn}(a{i}, {v})"]
        start = [f"a{i} = splat({zero})" for i in range(width)]
        end = [f"t{i} = {fn}(t{i}, a{i})" for i in range(width)]
        lines = [f"t{i} = splat({zero})" for i in range(width)]
        if not self.over:
            return [*lines, "at = o", *start, *adds, *end]
        last = self.over[-1]
        terms = "".join(f" + q{g} * s{g}" for g in self.over)
        rows = [f"for q{last} in range(b, min(b + {ROWS}, n{last})):", *indent([f"at = o{terms}", *adds])]
        nest = [f"for b in range(0, n{last}, {ROWS}):", *indent([*start, *rows, *end])]
        for g in reversed(self.over[:-1]):
            nest = [f"for q{g} in range(n{g}):", *indent(nest)]
        return [*lines, *nest]


def _finite(acc: DType) -> list[str]:
    """The peak, 0 where it is not finite."""
    zero = literal(0, acc)
    return [f"peak = where(eq(sub(peak, peak), {zero}), peak, {zero})"]


def indent(lines: Sequence[str]) -> list[str]:
    return ["    " + line for line in lines]
