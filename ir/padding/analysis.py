"""Whether padding an axis can change the true rows of a program's outputs: a walk over its nodes by the rules of this folder."""

from __future__ import annotations

from dataclasses import dataclass

from ..copying import Copier
from ..core import Graph, Module, Node, Value
from ..infer import contents, where
from ..interp import output_names
from ..limits import DEFAULT_LIMITS, Limits
from ..passes.manager import Context, parse_pipeline, run_pipeline
from ..symbols import INF, Dim, Symbol, as_symbol, substitute, symbols_of
from ..types import TensorType, Type
from . import lines, moves, products, tables  # noqa: F401  (they declare rules)
from .site import FREE, ROWS, RULES, Carried, Refused, Rule, Site, Sizes, State, mentions, speaks

NORMAL_FORM = "infer,canonicalize,fold,canonicalize,cse,dce"
MIXES = {
    "dynamic_quantize_linear": "it takes one range over all rows",
    "dynamic_quantize_lstm": "its states are quantized over all rows",
    "non_zero": "how many it finds depends on all rows",
    "compress": "how many it keeps depends on all rows",
    "unique": "it compares all rows",
    "non_max_suppression": "how many it keeps depends on all rows",
    "if": "branches are not followed",
    "loop": "loops are not followed",
    "scan": "loops are not followed",
}


@dataclass(frozen=True)
class Verdict:
    """Whether true rows along a symbol are independent of what is padded behind them. `why` names the node that mixes them, which
    the model calls `node`."""

    symbol: str
    proven: bool
    why: str = ""
    node: tuple[str, ...] = ()


def analyse(module: Module, symbol: str, largest: int = INF, limits: Limits = DEFAULT_LIMITS) -> Verdict:
    """The verdict on a symbol of a module's inputs, which is padded where it is at least 1, to at most `largest`. The module is
    left as it is. Raises InferenceError where its types contradict each other.

    Proven means: with all inputs padded along the symbol's axes by rows that are fit to be computed with, every output has the true
    rows first along its axes that grew, and they depend on the true rows of the inputs alone. (Their last bits may be others than
    without padding, where a kernel cuts its work by sizes.) What no rule knows is refused.
    """
    from .. import passes as _  # noqa: F401  (registers the passes)

    narrow = _narrowed(module, symbol, largest)
    run_pipeline(narrow, parse_pipeline(NORMAL_FORM), Context(limits=limits))
    return _walk(narrow, symbol)


def _narrowed(module: Module, symbol: str, largest: int) -> Module:
    """A copy in which the symbol has the range that padding asks for: what is proven of min($S, 512) may depend on it."""
    copy = Copier().module(module)
    old = copy.symbols[symbol]
    new = copy.symbols[symbol] = Symbol(symbol, max(old.lo, 1), min(old.hi, largest))
    for v in copy.main.inputs:
        if isinstance(v.type, TensorType) and v.type.shape is not None:
            v.type = v.type.with_(shape=tuple(substitute(d, {symbol: Dim.of(new)}) for d in v.type.shape))
    for node in copy.walk():
        if node.op.name == "dims":
            node.set_attr("value", tuple(substitute(d, {symbol: Dim.of(new)}) for d in node.attr("value")))
    return copy


def _walk(module: Module, symbol: str) -> Verdict:
    """The verdict on a typed module, without fused regions and layouts."""
    states: dict[Value, State] = {}
    try:
        for v in module.main.inputs:
            states[v] = _of_input(v, symbol)
    except Refused as e:
        return Verdict(symbol, False, str(e))
    for node in module.main:
        try:
            _step(node, symbol, states)
        except Refused as e:
            return Verdict(symbol, False, f"{where(node)}: {e}", node.locs or (node.name,))
    for name, v in zip(output_names(module), module.main.outputs):
        why = _not_first(states.get(v, FREE), symbol)
        if why:
            return Verdict(symbol, False, f"output {name}: {why}")
    return Verdict(symbol, True)


def _of_input(v: Value, symbol: str) -> Carried:
    t = v.type
    if not isinstance(t, TensorType):
        if speaks(t, symbol):
            raise Refused(f"input {v.name} is {t}, expected a tensor")
        return FREE
    carried = {}
    for axis, d in enumerate(t.shape or ()):
        if mentions(d, symbol):
            if as_symbol(d) is None:
                raise Refused(f"input {v.name} has {d} along axis {axis}, expected ${symbol} itself")
            carried[axis] = ROWS
    return carried


def _step(node: Node, symbol: str, states: dict[Value, State]) -> None:
    """Sets the states of a node's results."""
    known = [_by_contents(r, symbol) for r in node.results]
    if all(s is not None for s in known):
        states.update((r, s) for r, s in zip(node.results, known) if s is not None)
        return
    site = Site(node, symbol, states)
    read = [*site.states, *(states.get(v, FREE) for v in node.captures())] if node.regions else site.states
    if all(isinstance(s, dict) and not s for s in read) and not _inside(node, symbol):
        results = [FREE] * len(node.results)
    else:
        results = list(_rule(node)(site))
        _no_new_sizes(site)
    for r, carried in zip(node.results, results, strict=True):
        _agrees(r, carried, site)
        states[r] = carried


def _rule(node: Node) -> Rule:
    """The rule of an operator: its own, or that of its kind. Refuses where there is none."""
    op = node.op
    found = RULES.get(op.name) or (
        lines.elementwise if op.is_elementwise else lines.reduction if op.reduction is not None else None
    )
    if found is None:
        raise Refused(MIXES.get(op.name, f"no rule says that {op.name} keeps rows apart"))
    return found


def _by_contents(r: Value, symbol: str) -> State | None:
    """The state of a value whose contents are known sizes."""
    if r.dims is None or any(d is None for d in r.dims.ravel()):
        return None
    return Sizes() if any(mentions(d, symbol) for d in r.dims.ravel()) else FREE


def _agrees(r: Value, carried: Carried, site: Site) -> None:
    """Holds a rule to the type of its result: sizes change with the symbol where rows are carried, and nowhere else."""
    t = r.type
    if not isinstance(t, TensorType) or t.shape is None:
        if carried or speaks(t, site.name):
            site.refuse(f"%{r.name} is {t}, in which ${site.name} is not followed")
        return
    for axis, d in enumerate(t.shape):
        if axis not in carried:
            if mentions(d, site.name):
                site.refuse(f"its result has {d} along axis {axis}, in which rows of ${site.name} are not followed")
            continue
        outer, inner = carried[axis]
        if mentions(outer, site.name) or mentions(inner, site.name) or d != outer * site.dim * inner:
            site.refuse(f"its result has {d} along axis {axis}, expected {outer * site.dim * inner}")


def _no_new_sizes(site: Site) -> None:
    """Refuses where results have sizes that only running tells: they may depend on the symbol."""
    operands = [v for v in site.node.operands if v is not None]
    contained = [contents(v) for v in operands]
    known = {s for v in operands for s in _symbols(v.type)}
    known |= {
        s for c in contained if c is not None and c.dtype == object for d in c.ravel() if d is not None for s in symbols_of(d)
    }
    new = {s.name for r in site.node.results for s in _symbols(r.type)} - {s.name for s in known}
    if new:
        site.refuse(f"its result has a size that only running tells (${min(new)})")


def _symbols(t: Type | None) -> set[Symbol]:
    return {s for d in t.shape or () for s in symbols_of(d)} if isinstance(t, TensorType) else set()


def _inside(node: Node, symbol: str) -> bool:
    """Whether the regions of a node know the symbol."""

    def knows(g: Graph) -> bool:
        values = [*g.inputs, *(r for n in g for r in n.results)]
        return any(speaks(v.type, symbol) or isinstance(_by_contents(v, symbol), Sizes) for v in values)

    return any(knows(g) for region in node.regions for g in region.graphs())


def _not_first(state: State, symbol: str) -> str:
    """Why the true rows of an output are not what stands first in it, "" if they are."""
    if isinstance(state, Sizes):
        return f"it is a number made of ${symbol}"
    return "".join(f"rows of ${symbol} stand inside axis {a}" for a, (outer, _) in state.items() if outer != 1)
