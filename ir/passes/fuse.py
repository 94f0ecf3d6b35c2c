"""Fusion: which nodes become one kernel.

Four kinds of group are made, in this order. *Anchor and epilogue*: a convolution or matrix product and the elementwise nodes that
read it, as far as the target's kernel takes them. *Rows and reductions*: a softmax, normalization or reduction with the elementwise
nodes before and behind it. *Attention* and the splits that it reads. *Loops*: elementwise trees of one result.

A group's inner values are read by nobody outside; hence no path leaves a group and comes back, and putting the fused node where the
last member stood is safe. The one exception is the sum that a normalization reads: where it is read later as well (a residual), it
is a second result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..core import Graph, Module, Node, Value
from ..op import OPS
from ..rewrite import DecisionLog
from ..target import Target
from ..types import TensorType
from .manager import Context, register

ANCHORS = ("conv", "conv_transpose", "matmul", "gemm", "matmul_integer", "conv_integer")
ROWS = ("softmax", "log_softmax", "layer_norm", "rms_norm")
MOST_NODES = 5000  # of a graph in which second results are looked for: that takes the order of all nodes


@register
@dataclass(frozen=True)
class Fuse:
    """Groups nodes into `fused` regions. `epilogues`, `rows`, `attention` and `loops` turn the four kinds off."""

    name: ClassVar[str] = "fuse"
    epilogues: bool = True
    rows: bool = True
    attention: bool = True
    loops: bool = True

    def run(self, module: Module, ctx: Context) -> None:
        assert ctx.target is not None, "the pass fuse needs a target"
        for graph in module.open_graphs():
            if self.epilogues:
                order = graph.positions()
                for node in graph.nodes:
                    if node.graph is graph and node.op.name in ANCHORS and ctx.target.refuses(node) is None:
                        _fuse_epilogue(node, ctx.target, ctx.log, order)
            if self.rows:
                for node in graph.nodes:
                    if node.graph is graph and (node.op.name in ROWS or node.op.reduction is not None):
                        _fuse_rows(node, "rows" if node.op.name in ROWS else "reduce", ctx.target, ctx.log)
            if self.attention:
                for node in graph.nodes:
                    if node.op.name == "attention" and _splits(node):
                        reason = fuse_attention(node, ctx.target)
                        ctx.log.record("fuse split into attention", node, "refused" if reason else "applied", reason or "")
            if self.loops:
                _fuse_loops(graph, ctx.target, ctx.log)


# ---- anchor and epilogue ----------------------------------------------------------------------------------------


def _fuse_epilogue(anchor: Node, target: Target, log: DecisionLog, order: Mapping[Node, int]) -> None:
    group = [anchor]
    best = 1  # how many members make a group whose only value read outside is the last one's
    while True:
        node = _next_member(group, anchor, target, log, order)
        if node is None:
            break
        group.append(node)
        if _open_values(group) == [node.result]:
            best = len(group)
    if best < len(group):
        rest = group[best]
        log.record(
            f"fuse {rest.op.name} into {anchor.op.name}", anchor, "refused", "its operands are read outside the group", [rest]
        )
    if best > 1:
        reason = _fuse(group[:best], "gemm", target)
        for member in group[1:best]:
            outcome = "applied" if reason is None else "refused"
            log.record(f"fuse {member.op.name} into {anchor.op.name}", anchor, outcome, reason or "", [member])


def _next_member(group: list[Node], anchor: Node, target: Target, log: DecisionLog, order: Mapping[Node, int]) -> Node | None:
    inside = set(group)
    for member in reversed(group):
        for user in member.result.users:
            if user in inside or not user.op.is_elementwise or user.graph is not anchor.graph:
                continue
            chain = next(i for i, v in enumerate(user.operands) if v is member.result)
            reason = _crosses(group, user, order) or target.refuses_epilogue(anchor, user, chain)
            if reason is None:
                return user
            log.record(f"fuse {user.op.name} into {anchor.op.name}", anchor, "refused", reason, [user])
    return None


def _crosses(group: list[Node], node: Node, order: Mapping[Node, int] | None = None) -> str | None:
    """Why taking `node` in would make a cycle: another operand of it is computed from the group by nodes outside. `order` has
    positions of nodes, where they are known: what stands before the group's first node depends on none of it."""
    inside = set(group)
    first = -1 if order is None else order.get(group[0], -1)
    others = [v.node for v in node.operands if v is not None and v.node is not None and v.node not in inside]
    later = [n for n in others if order is None or order.get(n, first) >= first]
    path = _reaches(later, inside, node.graph)
    return None if path is None else f"cycle: %{path.name} ({path.op.name}) is computed from the group and read by %{node.name}"


def _reaches(starts: list[Node], inside: set[Node], graph: Graph | None, budget: int = 200) -> Node | None:
    """A node among `starts` that depends on the group, or one past the budget of the search (taken as dependent)."""
    for start in starts:
        stack, seen = [start], {start}
        while stack:
            n = stack.pop()
            for v in n.operands:
                p = v.node if v is not None else None
                if p is None or p.graph is not graph or p in seen:
                    continue
                if p in inside or len(seen) > budget:
                    return start
                seen.add(p)
                stack.append(p)
    return None


def _open_values(group: Iterable[Node]) -> list[Value]:
    """The values of the group that are read or returned outside of it."""
    inside = set(group)
    return [r for n in group for r in n.results if r.is_output or any(u not in inside for u, _ in r.uses)]


# ---- rows and reductions ----------------------------------------------------------------------------------------


def _fuse_rows(anchor: Node, kernel: str, target: Target, log: DecisionLog) -> None:
    """Tries the anchor with the elementwise nodes before and behind it, then with either alone."""
    if len(anchor.results) != 1 or target.refuses(anchor) is not None:
        return
    before, second = _before(anchor, kernel, target, log)
    behind = _behind(anchor)
    reason = None
    for first, last, extra in ((before, behind, second), (before, [], second), ([], behind, [])):
        members = [*first, anchor, *last]
        if len(members) > 1 and not _read_before(extra if last else [], members):
            reason = _fuse(members, kernel, target, [*extra, members[-1].result])
            if reason is None:
                log.record(f"fuse {' + '.join(n.op.name for n in members)}", anchor, "applied", involved=members)
                return
    if reason is not None:
        log.record(f"fuse around {anchor.op.name}", anchor, "refused", reason, [*before, *behind])


def _read_before(values: Sequence[Value], members: Sequence[Node]) -> bool:
    """Whether others read one of the values before the last member, in whose place all of them come to stand."""
    order = members[-1].graph.positions() if values else {}  # type: ignore[union-attr]
    return any(u not in members and order.get(u, -1) < order[members[-1]] for v in values for u, _ in v.uses)


def _before(anchor: Node, kernel: str, target: Target, log: DecisionLog) -> tuple[list[Node], list[Value]]:
    """The elementwise tree that the anchor reads, in order, and its value where that is read later as well."""
    x = anchor.operands[0]
    root = x.node if x is not None else None
    graph = anchor.graph
    if root is None or root.graph is not graph or graph is None or not _can_loop(root, target):
        return [], []
    second: list[Value] = []
    if x.is_output or any(user is not anchor for user, _ in x.uses):  # type: ignore[union-attr]
        order = graph.positions() if len(graph) <= MOST_NODES and kernel == "rows" else {}
        if x.is_output or any(order.get(user, -1) < order.get(anchor, 0) for user, _ in x.uses):  # type: ignore[union-attr]
            return [], []
        second = [x]  # type: ignore[list-item]
    group = _grow(root, target, log, set())
    return _in_order(group, root), second


def _in_order(group: Collection[Node], root: Node) -> list[Node]:
    """The members, each behind those whose values it reads."""
    out: dict[Node, None] = {}

    def visit(n: Node) -> None:
        for p in (v.node for v in n.operands if v is not None):
            if p is not None and p in group and p not in out:
                visit(p)
        out[n] = None

    visit(root)
    return list(out)


def _behind(anchor: Node, most: int = 16) -> list[Node]:
    """The chain of elementwise nodes of the result's shape that alone read the anchor."""
    out: list[Node] = []
    while len(out) < most:
        end = ([anchor, *out])[-1].result
        users = end.users
        if end.is_output or len(users) != 1 or not users[0].op.is_elementwise or users[0].graph is not anchor.graph:
            break
        user = users[0]
        same = isinstance(user.result.type, TensorType) and user.result.tensor.shape == anchor.result.tensor.shape
        if not same or _crosses([anchor, *out], user) is not None:
            break
        out.append(user)
    return out


# ---- attention --------------------------------------------------------------------------------------------------


def fuse_attention(node: Node, target: Target) -> str | None:
    """Makes an attention and the splits that it alone reads one node: the reason why not."""
    return _fuse([*_splits(node), node], "attention", target, list(node.results))


def _splits(attention: Node) -> list[Node]:
    """What cuts the queries, keys and values, where nobody else reads a part."""
    made = dict.fromkeys(v.node for v in attention.operands[:3] if v is not None)
    return [
        n
        for n in made
        if n is not None
        and n.op.name == "split"
        and n.graph is attention.graph
        and all(not r.is_output and set(r.users) <= {attention} for r in n.results)
    ]


# ---- loops ------------------------------------------------------------------------------------------------------


def _fuse_loops(graph: Graph, target: Target, log: DecisionLog) -> None:
    taken: set[Node] = set()
    order = graph.positions()
    for root in reversed(graph.nodes):
        if root in taken or not _can_loop(root, target):
            continue
        group = _grow(root, target, log, taken)
        taken |= group
        if len(group) > 1:
            members = sorted(group, key=order.__getitem__)
            reason = _fuse(members, "loops", target)
            outcome = "applied" if reason is None else "refused"
            log.record(f"fuse {' + '.join(n.op.name for n in members)}", root, outcome, reason or "", members)


def _can_loop(node: Node, target: Target) -> bool:
    return (
        node.op.is_elementwise
        and len(node.results) == 1
        and isinstance(node.result.type, TensorType)
        and target.refuses(node) is None
    )


def _grow(root: Node, target: Target, log: DecisionLog, taken: set[Node], most: int = 64) -> set[Node]:
    """The elementwise producers of `root` of its shape whose values only the group reads, found to a fixed point."""
    group, refused = {root: None}, dict[Node, str]()
    work = [root]
    while work:
        # A producer that is refused since another node reads it is met again when that node joins.
        for p in dict.fromkeys(v.node for v in work.pop().operands if v is not None):
            if p is None or p in group or p in taken or p.graph is not root.graph or not p.op.is_elementwise or len(group) >= most:
                continue
            reason = _refuse_producer(p, root, group) or target.refuses(p)
            if reason is None:
                group[p] = None
                work.append(p)
                refused.pop(p, None)
            else:
                refused[p] = reason
    for p, reason in refused.items():
        log.record(f"fuse {p.op.name} into {root.op.name}", p, "refused", reason, [root])
    return set(group)


def _refuse_producer(p: Node, root: Node, group: Collection[Node]) -> str | None:
    r = p.result
    if not isinstance(r.type, TensorType) or r.type.shape is None:
        return f"shape: the rank of %{r.name} is not known"
    if r.tensor.shape != root.result.tensor.shape:
        return f"shape: %{r.name} is {r.type}, the loop runs over {root.result.type}; it would be computed again for each element"
    if r.tensor.layout != root.result.tensor.layout:
        return f"layout: %{r.name} lies as {r.type}, the loop runs over {root.result.type}"
    if r.is_output:
        return f"outside-use: %{r.name} is an output of the graph"
    user = next((u for u, _ in r.uses if u not in group), None)
    return None if user is None else f"outside-use: %{r.name} is also read by %{user.name} ({'+'.join(user.locs) or user.op.name})"


# ---- the fused node ---------------------------------------------------------------------------------------------


def _fuse(members: list[Node], kernel: str, target: Target, outputs: list[Value] | None = None) -> str | None:
    """Makes the group one node, and takes it apart again where the target has no kernel for it: the reason why."""
    fused = make_fused(members, kernel, outputs or [members[-1].result])
    reason = target.refuses(fused)
    if reason is not None:
        dissolve(fused)
    return reason


def dissolve(fused: Node) -> None:
    """Puts the nodes of a fused region in the place of the fused node."""
    graph, region = fused.graph, fused.regions[0]
    assert graph is not None
    for inner, outer in zip(region.inputs, fused.operands, strict=True):
        graph.replace_uses(inner, outer)  # type: ignore[arg-type]
    for n in region.nodes:
        graph.move(n, before=fused)
    outputs = list(region.outputs)
    region.set_outputs(())
    for old, new in zip(fused.results, outputs, strict=True):
        old.name, new.name = new.name, old.name
    graph.replace(fused, outputs)


def make_fused(members: list[Node], kernel: str, outputs: list[Value]) -> Node:
    """Puts one `fused` node in the place of `members` (in an order in which they can run), where the last of them stood. Its
    results stand for `outputs`."""
    last = members[-1]
    graph, module = last.graph, last.graph.module  # type: ignore[union-attr]
    assert graph is not None
    inner = {r for n in members for r in n.results}
    operands = list(dict.fromkeys(v for n in members for v in n.operands if v is not None and v not in inner))
    region = Graph("body", module)
    fused = graph.add(OPS["fused"], operands, {"kernel": kernel}, names=[v.name for v in outputs], types=[v.type for v in outputs],
                      regions=[region], locs=[loc for n in members for loc in n.locs], before=last)  # fmt: skip
    inside = set(members)
    for old, new in zip(outputs, fused.results):
        for user, i in list(old.uses):
            if user not in inside:
                user.set_operand(i, new)
        for g, _ in list(old.output_of):
            g.set_outputs(new if o is old else o for o in g.outputs)
        new.name, old.name = old.name, new.name  # the fused value keeps the model's name; the one inside gets the suffix
    for v in operands:
        stand_in = region.add_input(v.name, v.type)
        for node in members:
            for i, o in enumerate(node.operands):
                if o is v:
                    node.set_operand(i, stand_in)
    for node in members:
        region.move(node, None)
    region.set_outputs(outputs)
    return fused
