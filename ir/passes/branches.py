"""What follows an `if` whose branches differ in rank moves into the branches.

Exporters write `if(size == 1) squeeze(x) else x`, of which nobody knows the rank, nor of anything that follows: no kernel serves
it. Within each branch the rank is known. So the nodes that depend on such an `if` are copied into its branches; other conditions
among them, which ask for the rank or the same size, are often known there and fold. A branch in which what follows cannot be
typed keeps the `if` and what followed it as they were. Where that is because types contradict each other in a node that the branch
runs whenever it is taken, it can only fail: then `fail` stands before the rest and says which node it would be and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import ClassVar

from ..copying import Copier, Values
from ..core import Graph, Module, Node, Value
from ..errors import GraphmillError, InferenceError
from ..infer import infer_node
from ..op import OPS
from ..rewrite import DecisionLog
from ..types import TensorType
from .manager import Context, make_pass, register

MOST_SPLITS, MOST_NODES = 8, 512  # of a module; that one split copies
MOST_MODULE, MOST_TRIED = 4096, 64  # nodes of a module, which is copied to try; `if` nodes that are looked at


@register
@dataclass(frozen=True)
class SplitBranches:
    """Copies what follows an `if` of unknown rank into its branches."""

    name: ClassVar[str] = "split-branches"

    def run(self, module: Module, ctx: Context) -> bool:
        if module.count() > MOST_MODULE:
            return False
        tried, splits = set[str](), 0
        while splits < MOST_SPLITS and len(tried) < MOST_TRIED:
            node = next((x for x in module.walk() if x.op.name == "if" and x.name not in tried and _differs(x)), None)
            if node is None:
                break
            tried.add(node.name)
            after = _following(node)
            if not after:
                continue
            reason = _refusal(after)
            typed, failing = ((), {}) if reason else _typed_branches(node, ctx)
            reason = reason or ("" if typed else "what follows cannot be typed in either branch")
            ctx.log.record("split-branches", node, "refused" if reason else "applied", reason, after)
            if typed:
                tried.update(_split(node, typed, failing).copies)
                _tidy(module, ctx)
                splits += 1
        return splits > 0


def _tidy(module: Module, ctx: Context) -> None:
    """Folds what is known now, above all other conditions."""
    for name in ("canonicalize", "fold", "canonicalize", "dce"):
        make_pass(name).run(module, ctx)


def _typed_branches(node: Node, ctx: Context) -> tuple[tuple[int, ...], dict[int, str]]:
    """The branches in which what follows can be typed, also when all that is known there is folded: found by trying, on a
    copy. And why others, if any, can only fail."""
    failing: dict[int, str] = {}
    for branches in ((0, 1), (0,), (1,)):
        if not any(_ranked(v) for k in branches for v in node.regions[k].outputs):
            continue
        if _try(node, branches, ctx, failing):
            return branches, {k: why for k, why in failing.items() if k not in branches}
    return (), {}


def _try(node: Node, branches: Sequence[int], ctx: Context, failing: dict[int, str]) -> bool:
    """Whether what follows can be typed in these branches; notes in `failing` of which one that is impossible, and why."""
    assert node.graph is not None
    module = node.graph.module
    at = next(i for i, x in enumerate(module.walk()) if x is node)
    trial, trial_ctx = Copier().module(module), replace(ctx, log=DecisionLog())
    trial_ctx.budget = ctx.budget
    split = _Split()
    try:
        _split(next(islice(trial.walk(), at, None)), branches, {}, split)
        _tidy(trial, trial_ctx)
    except InferenceError as e:
        # Not of a node in a region within: that one may never be run.
        failing.update((k, str(e)) for k, region in split.regions.items() if e.node is not None and e.node.graph is region)
        return False
    except GraphmillError:
        return False
    return True


def _ranked(v: Value) -> bool:
    return not isinstance(v.type, TensorType) or v.type.shape is not None


def _differs(node: Node) -> bool:
    """Whether an `if` has a result whose rank is known in a branch, but not after it."""
    return any(not _ranked(r) and any(_ranked(b.outputs[i]) for b in node.regions) for i, r in enumerate(node.results))


def _following(node: Node) -> list[Node]:
    """The nodes of its graph that depend on a node, in order."""
    assert node.graph is not None
    made, found = set(node.results), []
    for n in node.graph:
        if n is not node and any(v in made for v in [*n.operands, *n.captures()]):
            found.append(n)
            made.update(n.results)
    return found


def _refusal(after: Sequence[Node]) -> str:
    """Why what follows is not copied."""
    size = sum(1 + sum(len(g) for r in n.regions for g in r.graphs()) for n in after)
    return f"{size} nodes follow, more than {MOST_NODES}" if size > MOST_NODES else ""


@dataclass
class _Split:
    """What became of an `if`: the branches into which what followed it was copied, and the names of its own copies in others."""

    regions: dict[int, Graph] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)


def _split(node: Node, typed: Sequence[int], failing: Mapping[int, str], split: _Split | None = None) -> _Split:
    """Puts what follows into the branches `typed`, and the `if` itself, with what follows as it was, into the place of others;
    tells so in `split` on the way. Raises GraphmillError where a type is wrong, and leaves the module as it may be then."""
    graph, after, split = node.graph, _following(node), split or _Split()
    assert graph is not None
    results = [r for n in (node, *after) for r in n.results if any(g is graph for g, _ in r.output_of)]
    regions, copier = [], _Retyped()
    for k, branch in enumerate(node.regions):
        copy, values = Graph(branch.name, branch.module), dict[Value, Value]()
        if k in typed:
            split.regions[k] = copy
            copier.nodes(branch, copy, values)
            values.update((r, values.get(v, v)) for r, v in zip(node.results, branch.outputs, strict=True))
        else:
            if k in failing:
                copy.add(OPS["fail"], [], {"message": failing[k]}, names=[], locs=node.locs)
            copier.node(node, copy, values)
        copier.nodes(after, copy, values)
        if k not in typed:
            split.copies += [n.name for n in copy.walk() if n.op.name == "if"]
        copy.set_outputs(values[r] for r in results)
        regions.append(copy)
    names = [r.name for r in results]
    # At the end: nothing else depends on it.
    new = graph.add(node.op, node.operands, node.attrs, names=names, regions=regions, locs=node.locs)
    infer_node(new)
    for old, r in zip(results, new.results, strict=True):
        graph.replace_uses(old, r)
    for n in [*reversed(after), node]:
        graph.remove(n)
    return split


class _Retyped(Copier):
    """Copies nodes and types them anew; regions keep the types of their inputs. Raises GraphmillError where a type is wrong."""

    def node(self, node: Node, to: Graph, values: Values, before: Node | None = None) -> list[Node]:
        found = super().node(node, to, values, before)
        for new in found:
            for r in new.results:
                r.type = None
            infer_node(new)
        return found
