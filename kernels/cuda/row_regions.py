"""Fused regions with `kernel = rows` on CUDA: elementwise nodes before and behind one softmax or normalization along rows.

Where a row is held in registers, each operand is read once before the operator, and again behind it where it is needed there; rows
that are too long for that are computed anew for each fold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ...ir.core import Node, Value
from ...ir.reduction import Reduction
from ...ir.types import DType
from ..lines import Array, anchor_lines
from ..operands import first_int, first_result
from ..printer import Printer
from ..regions import named, print_nodes
from ..row_regions import RowRegion, split_dims, take_apart
from ..space import ONE
from ..spec import Call, KernelSource, Launch, Refusal
from .line import NEIGHBOURS, SIZES, THREADS, Line, Read, Sink, Source, Team, held_team, in_modes, places, spread
from .rows import count_folds, known_size, pack_width, whole
from .source import fast_div
from .target import serves
from .text import declared, kernel


@serves("fused.rows")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of a region around one of `row_regions.ANCHORS`, row-major, its rows contiguous."""
    r = take_apart(node)
    if isinstance(r, Refusal):
        return r
    work = _Row(r)
    folds, shape = count_folds(work.lines, work.line(0)), node.results[0].tensor.shape or ()
    sizes = known_size(shape[: r.axis]), known_size(shape[r.axis :])
    team = held_team(*sizes, False, work.wide, work.acc)

    def bind(call: Call) -> Launch:
        """Parameters: those of `spread`, divisors of the outer axes but the first, then each operand's steps along them."""
        shape = call.results[0]
        rows, n = math.prod(shape[: r.axis]), math.prod(shape[r.axis :])
        outer = [split_dims(s, len(shape), r.axis) for s in call.operands if s is not None]
        launch = spread(rows, n, False, work.wide, work.acc, folds, holds=True, maps=True, team=team)
        ints = [fast_div(size) for size in r.outer.sizes(Call([o for o, _ in outer], [shape[: r.axis]]))[1:]]
        for k in r.loaded.values():
            ints += [s * math.prod(outer[k][1]) for s in r.outer.strides(k, outer[k][0], shape[: r.axis])]
        return replace(launch, ints=(*launch.ints, *ints))

    return KernelSource(partial(_text, node, work, sizes, team), bind, "rows")


class _Row:
    """What is done with a row."""

    def __init__(self, r: RowRegion):
        self.r, self.acc = r, Reduction.accumulator(r.x.dtype)
        x = r.anchor.operands[0]
        inside = [v.tensor.dtype for v, k in r.loaded.items() if not r.inner.is_single(k)]
        parameters = [v.tensor.dtype for v in r.anchor.operands[1:] if v is not None]
        self.wide = pack_width(r.x.dtype, *inside, *parameters, *(v.tensor.dtype for v in r.outputs))
        before = {v for n in r.needed([x]) for v in n.results} | {x}  # type: ignore[list-item]
        self.early = [j for j, v in enumerate(r.outputs) if v in before]
        self.late = [j for j, v in enumerate(r.outputs) if v not in before]

    def line(self, held: int) -> Line:
        return Line(self.acc, self.wide, self._source([]), held)

    def lines(self, line: Line) -> list[str]:
        early = line.begin(self._source(self.early), self._after(self.early)) if self.early else line.begin()
        x = Array("v", self.acc.name)
        return [*early, *anchor_lines(line, self.r.anchor, x, self._sink(), self.acc)]  # type: ignore[arg-type]

    def _source(self, outputs: Sequence[int]) -> Source:
        """How an element of the operator's operand is computed; `outputs`, which come before it too, are stored."""
        x = self.r.anchor.operands[0]
        wanted = [x, *(self.r.outputs[j] for j in outputs)]
        packs, env, p = self._loads("q", wanted, Printer())
        print_nodes(p, self.r.needed(wanted), env)  # type: ignore[arg-type]
        stores = [self._put(j, named(env[self.r.outputs[j]])) for j in outputs]
        return Source([*packs, *self._packs(outputs)], [*p.lines, *stores, f"v = {named(env[x])}"])  # type: ignore[index]

    def _sink(self) -> Sink:
        """What becomes of an element of the operator's result."""
        result = self.r.anchor.results[0]
        wanted = [self.r.outputs[j] for j in self.late]
        packs = self._loads("l", wanted, Printer())[0]

        def each(value: str) -> list[str]:
            _, env, p = self._loads("l", wanted, Printer("z"))
            env[result] = p.let(value if result.tensor.dtype is self.acc else f"to_{result.tensor.dtype}({value})")
            print_nodes(p, self.r.needed(wanted), env)
            return [*declared(p.lines), *(f"{self._put(j, named(env[self.r.outputs[j]]))};" for j in self.late)]

        return Sink([*packs, *self._packs(self.late)], each, self._after(self.late))

    def _loads(self, name: str, wanted: Sequence[Value], p: Printer) -> tuple[list[Read], dict, Printer]:
        """Statements that read packs of the operands that the wanted values take, and what holds an element of each operand."""
        r, wide = self.r, self.wide
        read = {v for n in r.needed(wanted) for v in n.operands} | set(wanted)
        packs, env = [], dict(r.region.constants)
        for v, k in r.loaded.items():
            if r.inner.is_single(k):
                env[v] = f"w{k}"  # type: ignore[assignment]
            elif v in read and wide == 1:
                env[v] = p.let(f"ld_{v.tensor.dtype}(x{k}, o{k} + j)")  # type: ignore[assignment]
            elif v in read:
                packs.append(Read(f"{name}{k}", v.tensor.dtype.name, wide, f"x{k}", f"o{k} + j", f"o{k} + end"))
                env[v] = p.let(f"{name}{k}.get(k)")  # type: ignore[assignment]
        return packs, env, p

    def _packs(self, outputs: Sequence[int]) -> list[str]:
        return [f"Pack<element_{self._dtype(j)}, {self.wide}> r{j};" for j in outputs if self.wide > 1]

    def _put(self, j: int, value: str) -> str:
        return f"st_{self._dtype(j)}(y{j}, o + j, {value})" if self.wide == 1 else f"r{j}.set(k, {value})"

    def _after(self, outputs: Sequence[int]) -> list[str]:
        return [f"write_pack(y{j}, o + j, o + end, whole, r{j});" for j in outputs if self.wide > 1]

    def _dtype(self, j: int) -> DType:
        return self.r.outputs[j].tensor.dtype


def _text(node: Node, work: _Row, sizes: tuple[int | None, int | None], team: Team | None) -> str:
    r, first, ints = work.r, first_result(node), first_int(node)
    inputs = [v for v in r.region.inputs if v is not None]
    slots = {f"x{k}": k for k in r.loaded.values()} | {f"y{j}": first + j for j in range(len(r.outputs))} | {"partials": ints - 1}
    slots |= {a: inputs.index(v) for a, v in zip("sb", r.anchor.operands[1:], strict=False) if v is not None}
    groups, at = range(len(r.outer.groups)), ints + len(SIZES)
    more = max(len(groups) - 1, 0) + len(r.loaded) * len(groups)
    body = [f"i64 {name} = p[{slot}];" for name, slot in slots.items()] + places(ints, more, False, team=team)
    body += [f"FastDiv n{g}(p[{at + g - 1}]);" for g in groups[1:]] + ["u32 o = u * n;"]
    packed = [f"x{k}" for k in r.loaded.values() if not r.inner.is_single(k)]
    body += whole(work.wide, *packed, *(name for name in slots if name[0] in "ysb"))
    body += _offsets(r, lambda i, g: f"u32(p[{at + max(len(groups) - 1, 0) + i * len(groups) + g}])")
    body += in_modes(work.line, work.lines, *sizes, False)
    return kernel(team.threads if team else THREADS, at + more + 1, body, [NEIGHBOURS])


def _offsets(r: RowRegion, step: Callable[[int, int], str]) -> list[str]:
    """Where each operand's row begins; what is one number a row is loaded. Threads without a row look at the first."""
    groups = range(len(r.outer.groups))
    lines = ["q = u < lines ? u : 0u"]
    for g in reversed(groups):
        lines += [f"d{g} = q / n{g}", f"i{g} = q - d{g} * n{g}.d", f"q = d{g}"] if g else ["i0 = q"]
    for i, (v, k) in enumerate(r.loaded.items()):
        terms = [f"i{g} * {step(i, g)}" for g in groups if r.outer.classes[k][g] != ONE]
        lines.append(f"o{k} = {' + '.join(terms) or '0u'}")
        if r.inner.is_single(k):
            lines.append(f"w{k} = ld_{v.tensor.dtype}(x{k}, o{k})")
    return declared(lines)
