"""The rules of the IR, checked; and the comparison of two modules.

`verify` runs after every pass. What it lets through can be printed and parsed back. Types of results against `infer` are the
infer pass's business; a value whose type is None is not type-checked at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import numpy as np

from .core import Constant, Graph, Module, Node, Value
from .errors import GraphmillError, IRError
from .interp import output_names
from .limits import DEFAULT_LIMITS
from .op import REQUIRED
from .printer import ATTR_KINDS, print_node, symbol_text, type_text
from .symbols import Dim, symbols_of
from .types import DType, MapType, OptionalType, SequenceType, TensorType, Type, dtype_of

CONTEXT = 3  # nodes shown before and after the offending one
WIDTH = 160  # of the lines shown; weights of trees can stand in attributes

PLAIN = frozenset({int, float, bool, str})  # what attributes and tuples of them are made of


def verify(module: Module) -> None:
    """Raises IRError, with the IR around the offending node, where the module breaks a rule (docs/ir.md lists them)."""
    _Verifier(module).run()


class _Verifier:
    def __init__(self, module: Module):
        self.module = module
        self.visible: set[Value] = set()  # values that may be read here, apart from constants
        self.names: dict[str, Value] = {}  # names taken in the graphs around this place
        self.reads: defaultdict[Value, int] = defaultdict(int)
        self.returns: defaultdict[Value, int] = defaultdict(int)
        self.all_values: list[Value] = []
        self.types: set[int] = set()  # ids of checked types (not equality: 2 == 2.0 == True), and of the dims in them
        self.dims: set[int] = set()

    def run(self) -> None:
        m = self.module
        for name, symbol in m.symbols.items():
            if name != symbol.name:
                self.fail(f"the symbol {symbol} is filed under {name!r}, expected {symbol.name!r}")
        for name, v in m.consts.items():
            self.constant(name, v)
        if m.main.parent is not None:
            self.fail("the main graph has a parent, expected none")
        if m.output_names and len(m.output_names) != len(m.main.outputs):
            self.fail(f"{len(m.output_names)} output names, expected one for each of the {len(m.main.outputs)} outputs")
        self.graph(m.main, None, 1)
        self.use_lists()

    def fail(self, message: str, node: Node | None = None) -> NoReturn:
        raise IRError(message if node is None else f"{_where(node)}: {message}\n{_excerpt(node, message)}")

    # ---- values

    def constant(self, name: str, v: Value) -> None:
        if name != v.name or v.const is None or v.node is not None or v.graph is not None:
            self.fail(f"%{v.name} is filed among the constants as {name!r}, expected a constant of that name outside of any graph")
        t, array = v.type, v.const._array
        if not isinstance(t, TensorType) or not t.is_static:
            self.fail(f"the constant %{name} has type {type_text(t)}, expected a tensor with constant dims")
        if array is not None and (dtype_of(array) != t.dtype or array.shape != t.shape):
            self.fail(f"the constant %{name} holds {dtype_of(array)}{list(array.shape)}, expected {t} as its type says")
        self.name(v, None)
        self.type(v, None)

    def name(self, v: Value, node: Node | None) -> None:
        if not isinstance(v.name, str) or not v.name:
            self.fail(f"a value is called {v.name!r}, expected a name", node)
        if v.name in self.names:
            self.fail(f"the name %{v.name} is taken by another value in scope", node)
        self.names[v.name] = v
        self.all_values.append(v)

    def type(self, v: Value, node: Node | None) -> None:
        if v.type is None or id(v.type) in self.types:
            return
        for t in (v.type,) if isinstance(v.type, TensorType) else _parts(v.type):
            if isinstance(t, TensorType):
                if t.layout is not None and (t.shape is None or len(t.layout.perm) != len(t.shape)):
                    self.fail(f"%{v.name} has type {v.type}, expected a layout of as many axes as the shape has", node)
                for d in t.shape or ():
                    if type(d) is not int and id(d) not in self.dims:
                        self.dim(d, f"the type {v.type} of %{v.name}", node)
                        self.dims.add(id(d))
        self.types.add(id(v.type))

    def dim(self, d: Any, what: str, node: Node | None) -> None:
        if isinstance(d, bool) or not isinstance(d, (int, Dim)):
            self.fail(f"{what} holds {d!r} ({type(d).__name__}), expected int or Dim", node)
        for s in symbols_of(d):
            known = self.module.symbols.get(s.name)
            if known != s:
                shown = "is not declared" if known is None else f"is declared otherwise: {symbol_text(known)}"
                self.fail(f"{what} reads `{symbol_text(s)}`, which {shown}", node)

    def readable(self, v: Value, node: Node, what: str, isolated: bool) -> None:
        if v.is_const:
            if self.module.consts.get(v.name) is not v:
                self.fail(f"{what} is the constant %{v.name}, which the module does not hold", node)
            if isolated:
                self.fail(f"{what} is the constant %{v.name}; expected an isolated region to read its own inputs only", node)
        elif v not in self.visible:
            self.fail(f"{what} is %{v.name}, which is not defined before it in a graph around it", node)

    # ---- graphs

    def graph(self, g: Graph, parent: Node | None, depth: int) -> None:
        isolated = parent is not None and parent.op.has("isolated")
        outer = self.visible
        if isolated:
            self.visible = set()
        if depth > DEFAULT_LIMITS.depth:
            self.fail(f"expected regions nested at most {DEFAULT_LIMITS.depth} deep", parent)
        if g.module is not self.module or g.parent is not parent:
            self.fail(f"the graph {g.name} belongs to another module or node", parent)
        taken = len(self.all_values)
        for i, v in enumerate(g.inputs):
            self.graph_input(v, i, g, parent, isolated)
        self.nodes(g, isolated, depth)
        for i, v in enumerate(g.outputs):
            self.returns[v] += 1
            if parent is not None:
                self.readable(v, parent, f"output {i} of the region {g.name}", isolated)
            elif not (self.module.consts.get(v.name) is v if v.is_const else v in self.visible):
                self.fail(f"output {i} of the graph {g.name} is %{v.name}, which is neither of this graph nor a constant")
            if (g, i) not in v.output_of:
                self.fail(f"output {i} of the graph {g.name} is %{v.name}, whose list of outputs misses it", parent)
        if parent is not None:
            self.leave(taken, isolated)
        self.visible = outer

    def leave(self, taken: int, isolated: bool) -> None:
        for v in self.all_values[taken:]:
            if self.names.get(v.name) is v:
                del self.names[v.name]
            if not isolated:
                self.visible.discard(v)

    def graph_input(self, v: Value, i: int, g: Graph, parent: Node | None, isolated: bool) -> None:
        if v.graph is not g or v.index != i or v.node is not None or v.is_const:
            self.fail(f"input {i} of the graph {g.name} is %{v.name}, whose links say otherwise", parent)
        self.type(v, parent)
        if isolated:
            self.all_values.append(v)  # it is printed under its operand's name
        else:
            self.name(v, parent)
        self.visible.add(v)

    def nodes(self, g: Graph, isolated: bool, depth: int) -> None:
        count, before = 0, None
        for node in g:
            count += 1
            if node.graph is not g or node._prev is not before:
                self.fail("the links between the nodes are broken", node)
            before = node
            self.node(node, g, isolated, depth)
        if count != len(g) or g._last is not before:
            self.fail(f"the graph {g.name} counts {len(g)} nodes, expected {count}", g.parent)

    def node(self, n: Node, g: Graph, isolated: bool, depth: int) -> None:
        for i, v in enumerate(n.operands):
            if v is not None:
                if v.const is not None or v not in self.visible:
                    self.readable(v, n, f"operand {n.op.operand_name(i)}", isolated)
                self.reads[v] += 1
                if (n, i) not in v.uses:
                    self.fail(f"operand {i} is %{v.name}, whose list of uses misses it", n)
        self.operands(n)
        self.attrs(n)
        if len(n.regions) != len(n.op.regions):
            self.fail(f"{len(n.regions)} regions, expected {len(n.op.regions)}: {', '.join(n.op.regions) or 'none'}", n)
        if n.op.has("isolated"):
            self.isolated(n, isolated)
        for r in n.regions:
            self.graph(r, n, depth + 1)
        self.results(n, g)

    def operands(self, n: Node) -> None:
        params = n.op.operands
        variadic = bool(params) and params[-1].variadic
        if len(n.operands) > len(params) and not variadic:
            self.fail(f"{len(n.operands)} operands, expected at most {len(params)}", n)
        for i, p in enumerate(params):
            if not p.optional and not p.variadic and n.operand(i) is None:
                self.fail(f"operand {p.name} is missing", n)
        last = len(params) - 1
        for i, v in enumerate(n.operands):
            p = params[i if i < last else last]
            # An opaque operator has its inputs as ONNX does, and so has a scan of opset 8, whose lengths may be left out.
            if v is None and not p.optional and not n.op.has("opaque") and not n.op.has("control"):
                self.fail(f"operand {n.op.operand_name(i)} is left out, expected a value", n)
            if v is not None and isinstance(v.type, TensorType) and v.type.dtype not in p.dtypes:
                allowed = ", ".join(sorted(d.name for d in p.dtypes))
                self.fail(f"operand {n.op.operand_name(i)} is %{v.name} of type {v.type}, expected one of {allowed}", n)

    def attrs(self, n: Node) -> None:
        for k, a in n.op.attrs.items():
            if a.default is REQUIRED and k not in n.attrs:
                self.fail(f"the attribute {k} is missing", n)
        for k, v in n.attrs.items():
            if k not in n.op.attrs and not (n.op.has("open_attrs") or n.op.has("opaque")):
                self.fail(f"there is no attribute {k}, expected {', '.join(n.op.attrs) or 'none'}", n)
            self.attr(v, f"the attribute {k}", n)
        if n.attrs and list(n.op.strip_defaults(n.attrs)) != list(n.attrs):
            self.fail("attributes that equal their default are stored, or out of order; expected them set by Node.set_attr", n)

    def attr(self, v: Any, what: str, n: Node) -> None:
        if isinstance(v, tuple):
            for x in () if PLAIN.issuperset(map(type, v)) else v:  # tables of a tree ensemble have millions of entries
                self.attr(x, what, n)
        elif isinstance(v, Dim):
            self.dim(v, what, n)
        elif isinstance(v, (TensorType, SequenceType, OptionalType, MapType)):
            for t in _parts(v):
                for d in (t.shape or ()) if isinstance(t, TensorType) else ():
                    self.dim(d, what, n)
        elif not (v is None or type(v) in PLAIN or type(v) is np.ndarray or isinstance(v, DType)):
            self.fail(f"{what} is a {type(v).__name__}, expected {ATTR_KINDS}", n)

    def isolated(self, n: Node, nested: bool) -> None:
        """The inputs of the only region stand for the operands, its outputs for the results."""
        if nested:
            self.fail("an isolated region inside of another one", n)
        if None in n.operands or len(set(n.operands)) != len(n.operands):
            self.fail("expected the operands of an isolated operator to be present and distinct", n)
        region = n.regions[0]
        if len(region.inputs) != len(n.operands) or len(region.outputs) != len(n.results):
            self.fail(f"its region has {len(region.inputs)} inputs and {len(region.outputs)} outputs, "
                      f"expected {len(n.operands)} and {len(n.results)}", n)  # fmt: skip
        pairs = list(zip(region.inputs, n.operands))  # the text gives the types of operands only, so they must be the same
        pairs += [(r, v) for r, v in zip(region.outputs, n.results) if r.type is not None and v.type is not None]
        for inner, outer in pairs:
            if outer is not None and inner.type != outer.type:
                self.fail(
                    f"%{outer.name} has type {type_text(outer.type)} outside of its region, {type_text(inner.type)} inside", n
                )

    def results(self, n: Node, g: Graph) -> None:
        if n.op.results is not None and len(n.results) != n.op.results:
            self.fail(f"{len(n.results)} results, expected {n.op.results}", n)
        for i, r in enumerate(n.results):
            if r.node is not n or r.index != i or r.graph is not g or r.is_const:
                self.fail(f"result {i} is %{r.name}, whose links say otherwise", n)
            self.name(r, n)
            self.type(r, n)
            self.visible.add(r)

    def use_lists(self) -> None:
        """Every operand was found in its value's list; equal counts then leave no stale entry."""
        for v in self.all_values:
            if len(v.uses) != self.reads[v]:
                stale = [n for n, i in v.uses if n.operand(i) is not v or n.graph is None]
                self.fail(f"%{v.name} lists {len(v.uses)} uses, expected {self.reads[v]}; stale: {stale}", v.node)
            if len(v.output_of) != self.returns[v]:
                self.fail(f"%{v.name} is listed as {len(v.output_of)} outputs, expected {self.returns[v]}", v.node)


def _parts(t: Type) -> Iterator[Type]:
    """The type and all types inside it."""
    while True:
        yield t
        if isinstance(t, TensorType):
            return
        t = t.value if isinstance(t, MapType) else t.elem


def _where(node: Node) -> str:
    at = f" ({'+'.join(node.locs)})" if node.locs else ""
    return f"{node.op.name} %{node.name}{at}" if node.results else f"{node.op.name}{at}"


def _excerpt(node: Node, message: str) -> str:
    """The lines around a node, with the message under its own."""
    before: list[Node] = []
    after: list[Node] = []
    n = node._prev
    while n is not None and len(before) < CONTEXT:
        before.append(n)
        n = n._prev
    n = node._next
    while n is not None and len(after) < CONTEXT:
        after.append(n)
        n = n._next
    line = _line(node)
    marked = [f"    {line}", f"    {'^' * min(len(line), 60)}", f"    {message}"]
    return "\n".join([*(f"    {_line(x)}" for x in reversed(before)), *marked, *(f"    {_line(x)}" for x in after)])


def _line(node: Node) -> str:
    try:
        line = print_node(node, regions=False)
        return line if len(line) <= WIDTH else line[: WIDTH - 4] + " ..."
    except (GraphmillError, AssertionError, TypeError, ValueError, AttributeError):
        return repr(node)  # too broken to print


# ---- comparison -------------------------------------------------------------------------------------------------


def structurally_equal(a: Module, b: Module, *, locs: bool = True) -> str | None:
    """The first difference between two modules as text, None where there is none.

    Names count, but for those of the inputs of isolated regions, which stand for operands. NaNs are equal whatever their payload.
    """
    return next(_differences(a, b, locs), None)


def _differences(a: Module, b: Module, locs: bool) -> Iterator[str]:
    for what in ("name", "opsets", "meta", "symbols"):
        yield from _differ(what, getattr(a, what), getattr(b, what))
    yield from _differ("constants", list(a.consts), list(b.consts))
    for name in a.consts:
        x, y = a.consts[name], b.consts[name]
        yield from _differ(f"the type of %{name}", x.type, y.type)
        if x.const is not None and y.const is not None and not same_contents(x.const, y.const):
            yield f"the contents of %{name} differ"
    yield from _Comparison(locs).graphs(a.main, b.main)
    yield from _differ("names of outputs", output_names(a), output_names(b))


def _differ(what: str, x: Any, y: Any) -> Iterator[str]:
    if x != y:
        yield f"{what}: {x!r} against {y!r}"


class _Comparison:
    def __init__(self, locs: bool):
        self.locs = locs
        self.twin: dict[Value, Value] = {}

    def same(self, v: Value | None, w: Value | None) -> bool:
        if v is None or w is None:
            return v is w
        return v.name == w.name if v.is_const and w.is_const else self.twin.get(v) is w

    def values(self, what: str, vs: Iterable[Value | None], ws: Iterable[Value | None]) -> Iterator[str]:
        vs, ws = list(vs), list(ws)
        if len(vs) != len(ws) or not all(map(self.same, vs, ws)):
            yield f"{what}: {vs} against {ws}"

    def define(self, what: str, vs: list[Value], ws: list[Value], names: bool = True) -> Iterator[str]:
        yield from _differ(f"types of {what}", [v.type for v in vs], [w.type for w in ws])
        if names:
            yield from _differ(f"names of {what}", [v.name for v in vs], [w.name for w in ws])
        self.twin.update(zip(vs, ws))

    def graphs(self, g: Graph, h: Graph) -> Iterator[str]:
        isolated = g.parent is not None and g.parent.op.has("isolated")
        at = f"the graph {g.name}" + (f" of %{g.parent.name}" if g.parent else "")
        if g.parent is None:
            yield from _differ("name of the main graph", g.name, h.name)
        yield from self.define(f"the inputs of {at}", g.inputs, h.inputs, not isolated)
        yield from _differ(f"nodes of {at}", len(g), len(h))
        for n, k in zip(g, h):
            yield from self.nodes(n, k)
        yield from self.values(f"the outputs of {at}", g.outputs, h.outputs)

    def nodes(self, n: Node, k: Node) -> Iterator[str]:
        at = f"%{n.name}"
        yield from _differ(f"the operator of {at}", n.op.name, k.op.name)
        yield from self.values(f"the operands of {at}", n.operands, k.operands)
        if not _same_attr(tuple(n.attrs.items()), tuple(k.attrs.items())):
            yield f"the attributes of {at}: {n.attrs} against {k.attrs}"
        if self.locs:
            yield from _differ(f"the locations of {at}", n.locs, k.locs)
        yield from _differ(f"regions of {at}", len(n.regions), len(k.regions))
        for g, h in zip(n.regions, k.regions):
            yield from self.graphs(g, h)
        yield from self.define(f"the results of {at}", n.results, k.results)


def _same_attr(x: Any, y: Any) -> bool:
    if type(x) is not type(y):
        return False
    if isinstance(x, tuple):
        return len(x) == len(y) and all(map(_same_attr, x, y))
    if isinstance(x, np.ndarray):
        return same_array(x, y)
    return repr(x) == repr(y) if isinstance(x, float) else x == y


def same_contents(x: Constant, y: Constant) -> bool:
    """Whether two constants hold the same. One whose contents are missing is known by the start of its hash."""
    if x._hash is not None and y._hash is not None and (x._hash.startswith(y._hash) or y._hash.startswith(x._hash)):
        return True
    return same_array(x.array, y.array)


def same_array(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two arrays hold the same type, shape and bits; NaNs are equal whatever their payload."""
    if dtype_of(x) != dtype_of(y) or x.shape != y.shape:
        return False
    kind = dtype_of(x).kind
    if kind == "complex":
        return same_array(x.real, y.real) and same_array(x.imag, y.imag)
    if kind != "float":
        return bool(np.array_equal(x, y))
    with np.errstate(invalid="ignore"):  # signalling NaNs
        p, q = x.astype(np.float64), y.astype(np.float64)
    return bool(np.all((np.isnan(p) & np.isnan(q)) | ((p == q) & (np.signbit(p) == np.signbit(q)))))
