"""The passes that only tidy: infer, fold, cse, dce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core import Constant, Graph, Module, Node, Value
from ..errors import GraphmillError
from ..infer import infer_module, input_symbols
from ..interp import run_node, where
from ..limits import Budget, nbytes_of
from ..op import OPS
from ..rewrite import DecisionLog
from ..symbols import Dim, symbols_of
from ..types import SequenceType, TensorType, dtype_of
from .manager import Context, register


@register
@dataclass(frozen=True)
class Infer:
    """Types and known contents of every value."""

    name: ClassVar[str] = "infer"

    def run(self, module: Module, ctx: Context) -> None:
        infer_module(module)


# ---- folding ----------------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Fold:
    """Computes what depends on constants only, and turns known shape arithmetic into `dims`."""

    name: ClassVar[str] = "fold"

    def run(self, module: Module, ctx: Context) -> bool:
        known, changed = input_symbols(module), False
        for graph in module.open_graphs():
            for node in graph:
                changed |= _fold_contents(graph, node, known, ctx.log) or _fold_constant(graph, node, ctx.budget, ctx.log)
        if changed:
            infer_module(module)
        return changed


def _fold_contents(graph: Graph, node: Node, known: set[str], log: DecisionLog) -> bool:
    """Replaces a node whose integer result is known by a constant, or by `dims` where it holds symbols of the inputs."""
    if node.op.name == "dims" or len(node.results) != 1 or node.results[0].dims is None:
        return False
    r = node.results[0]
    assert r.dims is not None
    values = r.dims.ravel().tolist()
    if any(v is None for v in values) or any(s.name not in known for v in values for s in symbols_of(v)):
        return False
    if not any(isinstance(v, Dim) for v in values):
        _become_constants(graph, node, [np.array(values, r.tensor.dtype.np).reshape(r.dims.shape)])
        log.record("fold", node, "applied", "known contents")
        return True
    if r.dims.ndim > 1 or (node.op.is_elementwise and not r.uses):
        return False
    d = graph.add(OPS["dims"], [], {"value": tuple(values), "dtype": r.tensor.dtype, "scalar": r.dims.ndim == 0}, names=[r.name],
                  types=[r.type], locs=node.locs, before=node)  # fmt: skip
    d.result.dims = r.dims
    log.record("fold", node, "applied", "known contents")
    old, new = r, d.result
    graph.replace(node, [new])
    new.name, old.name = old.name, new.name
    return True


def _fold_constant(graph: Graph, node: Node, budget: Budget, log: DecisionLog) -> bool:
    """Computes a node of constants by its reference; whether it did. Raises LimitError when the time of compiling is over."""
    if not foldable(node):
        return False
    budget.check_time(where(node))
    reason = _too_big(node, budget)
    if reason:
        log.record("fold", node, "refused", reason)
        return False
    try:
        results = run_node(node, [None if v is None else v.array for v in node.operands], None, budget)
    except GraphmillError as e:
        log.record("fold", node, "refused", f"the reference failed: {e}")
        return False
    if not all(isinstance(x, np.ndarray) for x in results):
        return False
    log.record("fold", node, "applied")
    budget.held += sum(map(nbytes_of, results))
    _become_constants(graph, node, results)
    return True


def foldable(node: Node) -> bool:
    """Whether the node's results depend on nothing but constants."""
    if node.op.reference is None or node.regions or node.op.has("random") or node.op.has("effect") or node.op.name == "dims":
        return False
    if any(isinstance(r.type, SequenceType) for r in node.results) or not node.results:
        return False
    return all(v is None or v.is_const for v in node.operands)


def _too_big(node: Node, budget: Budget) -> str:
    """Why the results should not be stored: beyond a limit, or far larger than what they are made of."""
    made_of = sum(_nbytes(v) or 0 for v in node.operands if v is not None)
    most = budget.limits.fold_bytes
    left = most + 4 * budget.given - budget.held  # of what all passes together may store
    for r in node.results:
        n = _nbytes(r)
        if n is None:
            return f"the size of %{r.name} is not known"
        if n > most or (n > 1 << 20 and n > 4 * made_of):
            return f"result too large: %{r.name} has {n} bytes, its operands {made_of}"
        left -= n
        if left < 0:
            return f"result too large: %{r.name} has {n} bytes, of what folding may store {max(left + n, 0)} are left"
    return ""


def _nbytes(v: Value) -> int | None:
    if not isinstance(v.type, TensorType) or not v.type.is_static:
        return None
    size = v.type.size
    assert isinstance(size, int)
    return size * v.type.dtype.itemsize


def _become_constants(graph: Graph, node: Node, arrays: list[np.ndarray]) -> None:
    """Puts constants of the same names in the place of the node's results."""
    module = graph.module
    values = []
    for r, a in zip(node.results, arrays):
        a = np.ascontiguousarray(a) if a.ndim else np.array(a)
        v = Value(r.name, TensorType(dtype_of(a), a.shape), const=Constant(a))
        module.consts[v.name] = v
        values.append(v)
    graph.replace(node, values)


# ---- common subexpressions and dead code ------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Cse:
    """Of equal nodes (operator, operands, attributes, types) in one graph the first serves all; equal small constants are one."""

    name: ClassVar[str] = "cse"
    MAX_CONST: ClassVar[int] = 4096

    def run(self, module: Module, ctx: Context) -> bool:
        changed = _unite_constants(module, self.MAX_CONST)
        for graph in list(module.main.graphs()):
            seen: dict[Any, Node] = {}
            for node in graph:
                if node.regions or node.op.has("random") or node.op.has("effect"):
                    continue
                key = (node.op, tuple(node.operands), tuple(r.type for r in node.results), freeze(node.attrs))
                first = seen.setdefault(key, node)
                if first is not node:
                    ctx.log.record("cse", node, "applied", f"equal to %{first.name}")
                    graph.replace(node, first.results)
                    changed = True
        return changed


def _unite_constants(module: Module, most: int) -> bool:
    seen: dict[Any, Value] = {}
    changed = False
    for v in list(module.consts.values()):
        n = _nbytes(v)
        if n is not None and n <= most:
            first = seen.setdefault((v.type, v.const.sha256), v)  # type: ignore[union-attr]
            if first is not v and not v.output_of:
                changed |= bool(v.uses)
                module.main.replace_uses(v, first)
    return changed


def freeze(x: Any) -> Any:
    """A hashable stand-in for an attribute value."""
    if isinstance(x, dict):
        return tuple((k, freeze(v)) for k, v in sorted(x.items()))
    if isinstance(x, (list, tuple)):
        return tuple(freeze(v) for v in x)
    if isinstance(x, np.ndarray):
        return (str(x.dtype), x.shape, x.tobytes() if x.dtype != object else tuple(x.ravel().tolist()))
    return (type(x).__name__, repr(x)) if isinstance(x, float) else x


@register
@dataclass(frozen=True)
class Dce:
    """Removes nodes and constants that nobody reads."""

    name: ClassVar[str] = "dce"

    def run(self, module: Module, ctx: Context) -> bool:
        changed = False
        for graph in reversed(list(module.main.graphs())):  # regions before what they captured
            changed |= _sweep_graph(graph)
        for v in [c for c in module.consts.values() if c.is_dead]:
            module.remove_const(v)
            changed = True
        return changed


def _sweep_graph(graph: Graph) -> bool:
    before = len(graph)
    for node in reversed(graph):
        if all(r.is_dead for r in node.results) and not node.op.has("effect"):
            graph.remove(node)
    return len(graph) < before
