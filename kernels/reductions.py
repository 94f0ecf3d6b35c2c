"""Reductions over any set of axes, as far as all targets see them alike.

Adjacent axes that are all kept or all reduced are one. A region may hold elementwise nodes before and behind its one reduction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..ir.core import Node, Value
from ..ir.ops import reduce as _ops
from ..ir.reduction import Reduction
from ..ir.scalar import Expr
from ..ir.types import BF16, F16, DType, TensorType
from .printer import Printer, supported
from .regions import Region, print_nodes, refuse_region, region_of
from .spec import Refusal

REDUCTIONS = tuple(name for name, d in vars(_ops).items() if getattr(d, "reduction", None) is not None)


@dataclass(frozen=True, slots=True)
class Groups:
    """Runs of adjacent axes in memory that are all kept or all reduced, outermost first; axes of size 1 are left out."""

    axes: tuple[tuple[int, ...], ...]
    reduced: tuple[bool, ...]

    def sizes(self, shape: Sequence[int]) -> list[int]:
        return [math.prod([shape[a] for a in g]) for g in self.axes]


def make_groups(t: TensorType, axes: Sequence[int]) -> Groups:
    """The groups of a tensor reduced over the (normalized) axes."""
    assert t.shape is not None
    order = range(len(t.shape)) if t.layout is None else t.layout.perm
    groups: list[list[int]] = []
    reduced: list[bool] = []
    for a in order:
        if t.shape[a] == 1:
            continue
        if reduced and reduced[-1] == (a in axes):
            groups[-1].append(a)
        else:
            groups.append([a])
            reduced.append(a in axes)
    return Groups(tuple(map(tuple, groups)), tuple(reduced))


def constant_axes(node: Node) -> tuple[int, ...] | Refusal:
    """The normalized axes of a reduction, which must be known."""
    x, v = node.operands[0], node.operand(1)
    rank = x.tensor.rank or 0  # type: ignore[union-attr]
    everything = () if node.attr("noop_with_empty_axes") else tuple(range(rank))
    if v is None or v.tensor.shape == (0,):
        return everything
    if v.node is None and v.graph is not None and v.graph.parent is not None:  # an input of a fused region stands for an operand
        v = v.graph.parent.operands[v.index]
        assert v is not None
    if not v.is_const:
        return Refusal("the axes are not constant", {"axes": f"%{v.name}"})
    return tuple(int(a) % rank for a in v.array.ravel()) or everything  # type: ignore[union-attr]


def same_order(x: TensorType, y: TensorType, axes: Sequence[int], keepdims: bool) -> bool:
    """Whether the kept axes lie in the same order in operand and result."""
    kept = [a for a in range(x.rank or 0) if a not in axes]
    place = {a: a if keepdims else i for i, a in enumerate(kept)}
    xs = [place[a] for a in (range(x.rank or 0) if x.layout is None else x.layout.perm) if a in place and x.shape[a] != 1]  # type: ignore[index]
    ys = [a for a in (range(y.rank or 0) if y.layout is None else y.layout.perm) if a in xs]
    return xs == ys


@dataclass
class Around:
    """What is computed before and after a reduction of a region. `full`, `single` and `kept` are slots, with types, of operands of
    as many elements as are reduced, of one element, and of one element a result."""

    region: Region | None = None
    before: list[Node] = field(default_factory=list)
    reduction: Node | None = None
    after: list[Node] = field(default_factory=list)
    full: dict[Value, int] = field(default_factory=dict)
    single: dict[Value, int] = field(default_factory=dict)
    kept: dict[Value, int] = field(default_factory=dict)

    def slots(self) -> list[int]:
        return sorted({0, *self.full.values(), *self.single.values(), *self.kept.values()})

    def once(self) -> list[str]:
        return [f"w{k} = ld_{v.tensor.dtype}(x{k}, 0)" for v, k in self.single.items()]

    def element(self, p: Printer, load: str, dtype: DType) -> str:
        """The element to reduce: loaded, or computed from what is loaded."""
        if self.reduction is None or self.region is None:
            return p.let(load.format(dtype, "x0"))
        env = self._known() | {v: p.let(load.format(v.tensor.dtype, f"x{k}")) for v, k in self.full.items()}
        print_nodes(p, self.before, env)
        return env[self.reduction.operands[0]]  # type: ignore[index, return-value]

    def result(self, p: Printer, reduced: str, load: str, dtype: DType) -> str:
        """What is stored for a reduced value."""
        if self.reduction is None or self.region is None:
            return reduced
        rounded = p.let(f"to_{dtype}({reduced})") if dtype in (F16, BF16) else reduced
        env = self._known() | {self.reduction.results[0]: rounded}
        env |= {v: p.let(load.format(v.tensor.dtype, f"x{k}")) for v, k in self.kept.items()}
        print_nodes(p, self.after, env)
        return env[self.region.outputs[0]]  # type: ignore[return-value]

    def _known(self) -> dict[Value, str | Expr]:
        return dict(self.region.constants) | {v: f"w{k}" for v, k in self.single.items()}  # type: ignore[union-attr]


def replace_nodes(region: Region, nodes: list[Node], known: Sequence[Value]) -> Region:
    """The region with other nodes, which may read `known` too."""
    return Region([*region.inputs, *known], nodes, region.outputs, region.constants)


def _operands(a: Around) -> list[tuple[Value, bool, bool]]:
    """The values read in the region, and whether before and after the reduction."""
    early = {v for n in a.before for v in n.operands if v is not None} | {a.reduction.operands[0]}  # type: ignore[union-attr]
    late = {v for n in a.after for v in n.operands if v is not None}
    return [(v, v in early, v in late) for v in early | late]  # type: ignore[misc]


def _refuse_shapes(a: Around, x: TensorType, y: TensorType) -> Refusal | None:
    for nodes, t in ((a.before, x), (a.after, y)):
        for n in nodes:
            r = n.result.tensor
            if (r.shape, r.layout) != (t.shape, t.layout) and any(d != 1 for d in r.shape or ()):
                return Refusal("the region's values differ in shape", {f"%{n.result.name}": r, "expected": t})
    early = {n.result for n in a.before}
    crossing = next((v for n in a.after for v in n.operands if v in early), None)
    return None if crossing is None else Refusal("a value from before the reduction is read behind it", {"value": crossing.name})


@dataclass(frozen=True)
class Reduced:
    """A reduction taken apart: of `x`, of the shape of operand number `operand`, over `axes`; what is computed around it."""

    reduction: Reduction
    x: TensorType
    axes: tuple[int, ...]
    groups: Groups
    around: Around
    operand: int = 0


def take_apart(node: Node) -> Reduced | Refusal:
    """A reduction with known axes, or a region of elementwise nodes, one reduction of what they compute, and elementwise nodes on
    its result. There operands have the shape and layout of the reduced value, or of the result, or are one number.
    """
    if node.op.name == "fused":
        return _region(node)
    axes = constant_axes(node)
    if isinstance(axes, Refusal):
        return axes
    x = node.operands[0].tensor  # type: ignore[union-attr]
    if not supported(x.dtype):
        return Refusal("an element type that kernels do not compute with", {"x": x})
    refusal = _refuse_order(node, axes)
    return refusal or Reduced(node.op.reduction, x, axes, make_groups(x, axes), Around())


def _refuse_order(reduction: Node, axes: Sequence[int]) -> Refusal | None:
    x, y = reduction.operands[0].tensor, reduction.results[0].tensor  # type: ignore[union-attr]
    if same_order(x, y, axes, bool(reduction.attr("keepdims"))):
        return None
    return Refusal("operand and result lie in different layouts in memory", {"x": x, "result": y})


def _region(node: Node) -> Reduced | Refusal:
    region = region_of(node)
    found = [n for n in region.nodes if n.op.reduction is not None]
    if len(found) != 1 or len(region.outputs) != 1:
        return Refusal("a reduction's region has one reduction and one output", {"reductions": len(found)})
    at = region.nodes.index(found[0])
    a = Around(region, region.nodes[:at], found[0], region.nodes[at + 1 :])
    x, y, axes = found[0].operands[0].tensor, found[0].results[0].tensor, constant_axes(found[0])  # type: ignore[union-attr]
    if isinstance(axes, Refusal):
        return axes
    axes_inputs = {v for v in found[0].operands[1:] if v is not None}
    refusal = refuse_region(node, replace_nodes(region, [*a.before, *a.after], [found[0].results[0], *axes_inputs]))
    refusal = refusal or _refuse_shapes(a, x, y) or _refuse_order(found[0], axes) or _sort_operands(a, x, y)
    if refusal is not None:
        return refusal
    slots = [i for i, v in enumerate(node.operands) if v is not None]
    return Reduced(found[0].op.reduction, x, axes, make_groups(x, axes), a, slots[min(a.full.values())])


def _sort_operands(a: Around, x: TensorType, y: TensorType) -> Refusal | None:
    """Fills in which operands are as large as what is reduced, as the result, and which are one number."""
    places = {v: (e, o) for v, e, o in _operands(a)}
    for k, v in enumerate(v for v in a.region.inputs if v is not None):  # type: ignore[union-attr]
        early, late = places.get(v, (False, False))
        if v in a.region.constants or not (early or late):  # type: ignore[union-attr]
            continue
        t = v.tensor
        if all(d == 1 for d in t.shape or ()):
            a.single[v] = k
        elif early and not late and (t.shape, t.layout) == (x.shape, x.layout):
            a.full[v] = k
        elif late and not early and (t.shape, t.layout) == (y.shape, y.layout):
            a.kept[v] = k
        else:
            return Refusal("an operand is broadcast", {f"%{v.name}": v.type, "x": x, "result": y})
    return None if a.full else Refusal("no operand has the shape of what is reduced", {"x": x})
