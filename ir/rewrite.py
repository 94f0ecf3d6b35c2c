"""Rewriting: patterns, rules, what became of each attempt, and the driver that runs rules to a fixed point.

A rule is a pattern and a function from a `Match` to the values that take the place of the root's results, or to a typed
`Refusal`. Safety is the driver's work, once for all rules: no value inside the match (other than the root's results) may be
read or returned from outside it. Every attempt whose root matched is recorded as a `Decision`; equal ones are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .core import Constant, Graph, Module, Node, Value
from .errors import IRError
from .infer import infer_node, input_symbols
from .op import OPS, OpDef
from .symbols import DimLike, prove_ne
from .types import TensorType


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a rule whose pattern matched was not applied: a short kind, and the values that decided."""

    reason: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.reason}: {', '.join(f'{k} = {v}' for k, v in self.values.items())}" if self.values else self.reason


def refuse(reason: str, **values: Any) -> Refusal:
    return Refusal(reason, {k: str(v) for k, v in values.items()})


@dataclass(slots=True)
class Decision:
    """One attempt of a rule, kept for `explain`: `fuse relu into conv @ %c: refused, outside-use: ...`."""

    rule: str
    at: str
    outcome: str  # applied, refused
    reason: str = ""
    nodes: tuple[str, ...] = ()  # the model's own names of the nodes involved
    count: int = 1

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        why = f", {self.reason}" if self.reason else ""
        return f"{self.rule} @ %{self.at}: {self.outcome}{why}{times}"


class DecisionLog:
    """The decisions of one compilation, in order; equal ones are counted, at most `cap` are kept."""

    def __init__(self, cap: int = 20_000):
        self.decisions: list[Decision] = []
        self.dropped = 0
        self._seen: dict[tuple, Decision] = {}
        self._cap = cap

    def record(self, rule: str, node: Node, outcome: str, reason: str = "", involved: Iterable[Node] = ()) -> None:
        at = node.name
        known = self._seen.get((rule, at, outcome, reason))
        if known is not None:
            known.count += 1
        elif len(self.decisions) >= self._cap:
            self.dropped += 1
        else:
            names = tuple(dict.fromkeys(loc for n in (node, *involved) for loc in n.locs))
            d = Decision(rule, at, outcome, reason, names)
            self._seen[rule, at, outcome, reason] = d
            self.decisions.append(d)


# ---- patterns ---------------------------------------------------------------------------------------------------


class Pattern:
    """A tree of operators to find. Operands are patterns, names (bind any value), numbers (match a scalar constant), or ANY.

    `Pattern("mul", "x", Pattern("sigmoid", "x"))` is x * sigmoid(x): a name used twice must bind one value. Commutative
    operators are tried both ways. `bind` names the matched node; bound twice, it must be one node. Operands past those given
    are bound by nobody.
    """

    __slots__ = ("bind", "inner", "operands", "ops")

    def __init__(self, ops: str | Sequence[str], *operands: Any, bind: str = ""):
        self.ops = (ops,) if isinstance(ops, str) else tuple(ops)
        self.operands = operands
        self.bind = bind
        self.inner = [(i, q) for i, q in enumerate(operands) if isinstance(q, Pattern)]


ANY = object()
COMMUTATIVE = frozenset({"add", "mul", "min", "max", "and", "or", "xor", "equal", "bitwise_and", "bitwise_or", "bitwise_xor"})


@dataclass
class Match:
    """A pattern found at `root`: values by name, nodes by `bind` name."""

    root: Node
    values: dict[str, Value] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    inner: list[Node] = field(default_factory=list)  # every matched node but the root

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def node(self, name: str) -> Node:
        return self.nodes[name]

    def array(self, name: str) -> np.ndarray | None:
        """The contents of the bound value where it is a constant."""
        return self.values[name].array


def match(pattern: Pattern, root: Node) -> Match | None:
    """The first way in which the pattern fits at `root`, every order of commutative operands tried."""
    if not _could_fit(pattern, root):
        return None
    m = Match(root)
    return m if _fits(pattern, root, (), m) else None


def _could_fit(p: Pattern, node: Node) -> bool:
    """Whether the operators alone fit: most nodes are told apart by that, at a small part of the cost of binding names."""
    here = node.operands
    if node.op.name not in p.ops or len(here) < len(p.operands):
        return False
    if _children_could_fit(p.inner, here):
        return True
    swapped = len(p.operands) == 2 and node.op.name in COMMUTATIVE
    return swapped and _children_could_fit(p.inner, here[1::-1])


def _children_could_fit(inner: Sequence[tuple[int, Pattern]], here: Sequence[Value | None]) -> bool:
    for i, q in inner:
        v = here[i]
        if v is None or v.node is None or not _could_fit(q, v.node):
            return False
    return True


def _fits(p: Pattern, node: Node, rest: tuple, m: Match) -> bool:
    """Whether `node` fits `p`, and then the pairs (pattern, value) of `rest` fit as well."""
    if node.op.name not in p.ops or len(node.operands) < len(p.operands):
        return False
    if p.bind and m.nodes.get(p.bind, node) is not node:
        return False
    orders = [p.operands]
    if node.op.name in COMMUTATIVE and len(p.operands) == 2:
        orders.append(p.operands[::-1])
    saved = dict(m.values), dict(m.nodes), list(m.inner)
    for order in orders:
        if p.bind:
            m.nodes[p.bind] = node
        if node is not m.root and node not in m.inner:
            m.inner.append(node)
        if _all_fit((*zip(order, node.operands), *rest), m):
            return True
        m.values, m.nodes, m.inner = dict(saved[0]), dict(saved[1]), list(saved[2])
    return False


def _all_fit(pairs: tuple, m: Match) -> bool:
    for i, (p, v) in enumerate(pairs):
        if p is ANY:
            continue
        if isinstance(p, Pattern):  # what comes after it decides which of its ways to fit is taken
            here = v is not None and v.node is not None and v.node.graph is m.root.graph
            return here and _fits(p, v.node, pairs[i + 1 :], m)
        if p is None or v is None:
            if p is not None or v is not None:
                return False
        elif isinstance(p, str):
            if m.values.setdefault(p, v) is not v:
                return False
        elif not is_scalar_constant(v, p):
            return False
    return True


def is_scalar_constant(v: Value | None, number: float, rtol: float = 1e-3) -> bool:
    """Whether `v` is a constant of one element that is `number`, as exporters round it to f16: exact where f16 holds it."""
    if v is None or not isinstance(v.type, TensorType) or not v.is_const or v.tensor.size != 1 or v.tensor.dtype.kind == "string":
        return False
    found = complex(v.const.array.ravel()[0])  # type: ignore[union-attr]
    with np.errstate(over="ignore"):
        exact = complex(np.float16(number)) == number if isinstance(number, (int, float)) else True
    return found == number or (not exact and abs(found - number) <= rtol * abs(number))


def scalar_constant(v: Value | None) -> float | None:
    """The number in a constant of one real element, else None."""
    if v is None or not v.is_const or not isinstance(v.type, TensorType) or v.tensor.size != 1:
        return None
    if v.tensor.dtype.kind in ("string", "complex"):
        return None
    return float(v.const.array.ravel()[0])  # type: ignore[union-attr]


# ---- building ---------------------------------------------------------------------------------------------------


class Facts:
    """What rules ask of a module, found once for a whole run of the driver."""

    def __init__(self, module: Module):
        self.module = module

    @cached_property
    def known(self) -> frozenset[str]:
        """The symbols that `dims` may use."""
        return frozenset(input_symbols(self.module))

    @cached_property
    def names(self) -> Counter[str]:
        """How many values had each name when it was first asked for. Rules only make names that nobody had."""
        inputs = (v for g in self.module.main.graphs() for v in g.inputs)
        results = (r for n in self.module.walk() for r in n.results)
        return Counter(v.name for v in [*self.module.consts.values(), *inputs, *results])


class Builder:
    """Adds nodes before a given one, types inferred at once; new nodes carry the source locations of what they replace."""

    def __init__(self, before: Node, locs: Iterable[str] = (), facts: Facts | None = None):
        assert before.graph is not None
        self.before, self.graph, self.module = before, before.graph, before.graph.module
        self.facts = facts or Facts(self.module)
        self.locs = tuple(dict.fromkeys([*locs, *before.locs]))
        self.added: list[Node] = []

    def op(self, name: str | OpDef, *operands: Value | None, result: str = "", results: int = 1, regions: Sequence[Graph] = (),
           **attrs: Any) -> Any:  # fmt: skip
        """A new node; its only result, or the tuple of them."""
        base = result or f"{self.before.name}.{name if isinstance(name, str) else name.name}"
        node = self.graph.add(OPS[name] if isinstance(name, str) else name, operands, attrs, regions=regions, locs=self.locs,
                              names=[base] * results, before=self.before)  # fmt: skip
        infer_node(node)
        self.added.append(node)
        return node.results[0] if results == 1 else tuple(node.results)

    def const(self, array: np.ndarray | Constant, name: str = "") -> Value:
        """A new constant of the module."""
        return self.module.add_const(name or f"{self.before.name}.const", array)

    def undo(self) -> None:
        """Removes what was added, so that a rule may still refuse."""
        for node in reversed(self.added):
            self.graph.remove(node)
        self.added.clear()


# ---- rules and the driver ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A rewrite named by its equation. `build(match, builder)` returns the new values or a Refusal (having added nothing).

    `keeps_inner`: the matched nodes before the root stay for their other readers, so that outside uses do not matter.
    """

    name: str
    pattern: Pattern
    build: Callable[[Match, Builder], Any]
    keeps_inner: bool = False


def outside_use(m: Match) -> Refusal | None:
    """The refusal of a match one of whose inner values is read or returned elsewhere."""
    inside = {m.root, *m.inner}
    for node in m.inner:
        for r in node.results:
            if r.is_output:
                return refuse("outside-use", value=f"%{r.name}", by="the graph's outputs")
            for user, _ in r.uses:
                if user not in inside:
                    return refuse("outside-use", value=f"%{r.name}", by=f"%{user.name} ({user.op.name})")
    return None


def attempt(rule: Rule, node: Node, log: DecisionLog, facts: Facts | None = None) -> bool:
    """Tries one rule at one node; whether it was applied."""
    m = match(rule.pattern, node)
    if m is None:
        return False
    builder = Builder(node, [loc for n in m.inner for loc in n.locs], facts)
    out = (None if rule.keeps_inner else outside_use(m)) or rule.build(m, builder)
    if out is None or isinstance(out, Refusal):
        if builder.added:
            raise IRError(f"the rule {rule.name!r} refused after it had added nodes at %{node.name}")
        if out is not None:
            log.record(rule.name, node, "refused", str(out), m.inner)
        return False
    values = list(out) if isinstance(out, (tuple, list)) else [out]
    _check_types(rule, node, values)
    log.record(rule.name, node, "applied", involved=m.inner)
    graph, inner = node.graph, list(m.inner)
    assert graph is not None
    _keep_names(node, values, builder)
    graph.replace(node, values)
    sweep(inner)
    return True


def _check_types(rule: Rule, node: Node, values: Sequence[Value]) -> None:
    """A rule may make a type more precise, not another one."""
    for old, new in zip(node.results, values, strict=True):
        a, b = old.type, new.type
        if isinstance(a, TensorType) and isinstance(b, TensorType) and not old.is_dead:
            fits = a.dtype is b.dtype and (a.shape is None or b.shape is None or shapes_may_agree(a.shape, b.shape))
            if not fits or a.layout != b.layout:
                raise IRError(f"the rule {rule.name!r} would replace %{old.name}: {a} by a value of type {b}")


def shapes_may_agree(a: Sequence[DimLike], b: Sequence[DimLike]) -> bool:
    return len(a) == len(b) and not any(prove_ne(x, y) for x, y in zip(a, b))


def _keep_names(node: Node, values: Sequence[Value], builder: Builder) -> None:
    """A freshly built value takes the name of the one that it replaces, so that names stay the model's own."""
    for old, new in zip(node.results, values):
        if new.node is not None and new.node in builder.added:
            old.name, new.name = new.name, old.name


def sweep(nodes: Iterable[Node]) -> None:
    """Removes those of `nodes` that nobody needs any more, and what thereby becomes dead."""
    work = list(nodes)
    while work:
        n = work.pop()
        if n.graph is not None and all(r.is_dead for r in n.results) and not n.op.has("effect"):
            producers = [v.node for v in n.operands if v is not None and v.node is not None]
            n.graph.remove(n)
            work.extend(producers)


def rewrite(module: Module, rules: Sequence[Rule], log: DecisionLog, limit: int = 1_000_000) -> int:
    """Applies rules everywhere but in fused regions until none applies; how many times one was.

    Raises IRError after `limit` rewrites.
    """
    by_op: dict[str, list[Rule]] = {}
    for r in rules:
        for name in r.pattern.ops:
            by_op.setdefault(name, []).append(r)
    total, facts = 0, Facts(module)
    changed = True
    while changed:
        changed = False
        for graph in module.open_graphs():
            if not graph.is_attached:
                continue  # a rule has just removed the node around it
            for node in graph:
                for rule in by_op.get(node.op.name, ()):
                    if node.graph is graph and attempt(rule, node, log, facts):
                        changed, total = True, total + 1
                        if total > limit:
                            raise IRError(f"more than {limit} rewrites; the rule {rule.name!r} may undo another")
                        break
    return total
