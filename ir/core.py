"""Value, Node, Graph and Module: what a program is.

The program is in SSA form. A node's regions are graphs; those of `if`, `loop` and `scan` may read values of the graphs around
them, a `fused` region reads only its own inputs (which stand for the node's operands, one for one). Constants belong to the
module and may be read anywhere. Everything is changed through methods of Graph and Node only, so that uses stay right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .errors import IRError
from .op import OpDef
from .symbols import Symbol
from .types import TensorType, Type, dtype_of


class Constant:
    """The contents of a constant: an array, perhaps made (mapped, decoded) only when first asked for."""

    __slots__ = ("_array", "_hash", "_load")

    def __init__(self, array: np.ndarray | None = None, load: Callable[[], np.ndarray] | None = None, sha256: str | None = None):
        """`sha256` is the hash where the caller knows it (a file's index does), so that nothing is loaded to compute it."""
        if (array is None) == (load is None):
            raise TypeError("a Constant is given either its array or the way to load it")
        self._array, self._load, self._hash = array, load, sha256

    @property
    def array(self) -> np.ndarray:
        """The contents, read-only by convention."""
        if self._array is None:
            assert self._load is not None
            self._array = self._load()
        return self._array

    @property
    def sha256(self) -> str:
        """The hash of the dtype, the shape and the bytes: equal constants have equal hashes."""
        if self._hash is None:
            a = self.array
            h = hashlib.sha256(f"{dtype_of(a)}{a.shape}".encode())
            if a.dtype == object:
                for s in a.ravel():
                    raw = s if isinstance(s, bytes) else str(s).encode("utf-8", "surrogatepass")
                    h.update(len(raw).to_bytes(8, "little") + raw)
            else:
                h.update(np.ascontiguousarray(a).view(np.uint8).data if a.ndim and a.size else a.tobytes())
            self._hash = h.hexdigest()
        return self._hash


class Value:
    """A result of a node, an input of a graph, or a constant of the module."""

    __slots__ = ("const", "dims", "graph", "index", "name", "node", "output_of", "type", "uses")

    def __init__(self, name: str, type: Type | None, *, node: Node | None = None, index: int = 0,
                 graph: Graph | None = None, const: Constant | None = None):  # fmt: skip
        self.name = name
        self.type = type  # None until `infer` has run
        self.node = node  # the producer; None for graph inputs and constants
        self.index = index  # which result of the producer, or which input of the graph
        self.graph = graph  # where it is defined; None for constants
        self.const = const
        # Known contents of a small integer tensor, an object array of int | Dim (entries None where unknown). Set by `infer`.
        self.dims: np.ndarray | None = None
        self.uses: dict[tuple[Node, int], None] = {}  # an ordered set of (node, operand index)
        self.output_of: dict[tuple[Graph, int], None] = {}  # the graphs that return it, its own or regions that captured it

    def __repr__(self) -> str:
        return f"%{self.name}"

    @property
    def is_const(self) -> bool:
        return self.const is not None

    @property
    def array(self) -> np.ndarray | None:
        """The contents of a constant, None for any other value."""
        return None if self.const is None else self.const.array

    @property
    def tensor(self) -> TensorType:
        """The type, which must be a tensor's."""
        if not isinstance(self.type, TensorType):
            raise IRError(f"%{self.name} has type {self.type}, expected a tensor")
        return self.type

    @property
    def users(self) -> list[Node]:
        """The distinct nodes that read this value, in the order in which they began to."""
        return list(dict.fromkeys(n for n, _ in self.uses))

    @property
    def is_output(self) -> bool:
        """Whether its graph, or a region that captures it, returns it."""
        return bool(self.output_of)

    @property
    def is_dead(self) -> bool:
        """Whether nobody reads or returns it."""
        return not self.uses and not self.output_of


class Node:
    """One operation. `operands` may hold None for optional ones left out; `attrs` holds only what differs from the default."""

    __slots__ = ("_next", "_prev", "attrs", "graph", "locs", "op", "operands", "regions", "results")

    def __init__(self, op: OpDef, operands: Sequence[Value | None], attrs: dict[str, Any] | None = None,
                 regions: Sequence[Graph] = (), locs: Sequence[str] = ()):  # fmt: skip
        self.op = op
        self.operands: list[Value | None] = []
        self.attrs = op.strip_defaults(attrs or {})
        self.regions: tuple[Graph, ...] = tuple(regions)
        self.locs: tuple[str, ...] = tuple(dict.fromkeys(locs))
        self.results: list[Value] = []
        self.graph: Graph | None = None
        self._prev: Node | None = None
        self._next: Node | None = None
        for r in self.regions:
            r.parent = self
        for v in operands:
            self.operands.append(v)
            if v is not None:
                v.uses[self, len(self.operands) - 1] = None

    def __repr__(self) -> str:
        return f"<{', '.join(map(repr, self.results))} = {self.op.name}({', '.join(map(repr, self.operands))})>"

    @property
    def name(self) -> str:
        """The name of the first result: what messages call this node."""
        return self.results[0].name if self.results else self.op.name

    @property
    def result(self) -> Value:
        """The only result."""
        if len(self.results) != 1:
            raise IRError(f"{self!r} has {len(self.results)} results, expected one")
        return self.results[0]

    def attr(self, name: str) -> Any:
        """The attribute, or its default. Raises KeyError for a name that the operator does not have."""
        return self.attrs[name] if name in self.attrs else self.op.attrs[name].default

    def all_attrs(self) -> dict[str, Any]:
        """Every attribute with defaults filled in: what the reference is called with."""
        return {k: self.attr(k) for k in self.op.attrs} | {k: v for k, v in self.attrs.items() if k not in self.op.attrs}

    def set_attr(self, name: str, value: Any) -> None:
        self.attrs = self.op.strip_defaults(self.attrs | {name: value})

    def operand(self, i: int) -> Value | None:
        """Operand i, None where it was left out or lies past the end."""
        return self.operands[i] if i < len(self.operands) else None

    def set_operand(self, i: int, value: Value | None) -> None:
        old = self.operands[i]
        if old is not None:
            del old.uses[self, i]
        self.operands[i] = value
        if value is not None:
            value.uses[self, i] = None

    def captures(self) -> list[Value]:
        """Values of graphs around this node that its regions read, without constants, in order of first use."""
        found: dict[Value, None] = {}
        for region in self.regions:
            for node in region.walk():
                found.update((v, None) for v in node.operands if v is not None and not v.is_const)
            for g in region.graphs():
                found.update((v, None) for v in g.outputs if not v.is_const)
        inside = {g for region in self.regions for g in region.graphs()}
        return [v for v in found if v.graph not in inside]


class Graph:
    """A list of nodes in an order in which they can run, with inputs and outputs. A region is a graph whose `parent` is a node."""

    def __init__(self, name: str, module: Module, parent: Node | None = None):
        self.name = name
        self.module = module
        self.parent = parent
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0

    # ---- reading

    def __iter__(self) -> Iterator[Node]:
        """The nodes in order. The node just yielded may be removed or replaced while iterating."""
        node = self._first
        while node is not None:
            after = node._next
            yield node
            # Nodes added right behind the yielded one are visited, unless it was removed.
            node = node._next if node.graph is self else after

    def __reversed__(self) -> Iterator[Node]:
        node = self._last
        while node is not None:
            before = node._prev
            yield node
            node = node._prev if node.graph is self else before

    def __len__(self) -> int:
        return self._count

    @property
    def nodes(self) -> list[Node]:
        return list(self)

    def graphs(self) -> Iterator[Graph]:
        """This graph and all regions below it, outermost first."""
        stack = [self]
        while stack:
            g = stack.pop()
            yield g
            below: list[Graph] = []
            node = g._first
            while node is not None:
                if node.regions:
                    below += node.regions
                node = node._next
            stack += reversed(below)

    def walk(self) -> Iterator[Node]:
        """Every node of this graph and of the regions below it, each before the nodes of its regions."""
        for g in self.graphs():
            yield from g

    @property
    def is_attached(self) -> bool:
        """Whether the graph is still part of its module: no node that it is a region of has been removed."""
        graph = self
        while graph.parent is not None:
            if graph.parent.graph is None:
                return False
            graph = graph.parent.graph
        return graph is self.module.main

    # ---- changing

    def add_input(self, name: str, type: Type | None) -> Value:
        v = Value(self.module.fresh(name), type, graph=self, index=len(self.inputs))
        self.inputs.append(v)
        return v

    def set_outputs(self, values: Iterable[Value]) -> None:
        for i, v in enumerate(self.outputs):
            v.output_of.pop((self, i), None)
        self.outputs = list(values)
        for i, v in enumerate(self.outputs):
            v.output_of[self, i] = None

    def add(self, op: OpDef, operands: Sequence[Value | None], attrs: dict[str, Any] | None = None, *,
            names: Sequence[str], types: Sequence[Type | None] | None = None, regions: Sequence[Graph] = (),
            locs: Sequence[str] = (), before: Node | None = None) -> Node:  # fmt: skip
        """A new node at the end, or before another one. `names` gives one name a result; taken names get a suffix."""
        node = Node(op, operands, attrs, regions, locs)
        for i, name in enumerate(names):
            node.results.append(Value(self.module.fresh(name), types[i] if types else None, node=node, index=i, graph=self))
        self._link(node, before)
        return node

    def append(self, node: Node) -> None:
        """Puts a node that is in no graph, and whose results are already named, at the end (what the parser needs)."""
        self._link(node, None)

    def _link(self, node: Node, before: Node | None) -> None:
        node.graph = self
        for r in node.results:
            r.graph = self
        node._next, node._prev = before, before._prev if before is not None else self._last
        if node._prev is not None:
            node._prev._next = node
        else:
            self._first = node
        if before is not None:
            before._prev = node
        else:
            self._last = node
        self._count += 1

    def _unlink(self, node: Node) -> None:
        if node._prev is not None:
            node._prev._next = node._next
        else:
            self._first = node._next
        if node._next is not None:
            node._next._prev = node._prev
        else:
            self._last = node._prev
        node._prev = node._next = None
        node.graph = None
        self._count -= 1

    def move(self, node: Node, before: Node | None) -> None:
        """Moves `node` (of any graph) into this graph before another node, or to the end."""
        if before is node:
            return
        assert node.graph is not None
        node.graph._unlink(node)
        self._link(node, before)

    def remove(self, node: Node) -> None:
        """Removes a node whose results nobody reads. Its regions go with it. Raises IRError where a result is still read."""
        for r in node.results:
            if not r.is_dead:
                raise IRError(f"%{r.name} of {node.op.name} is still in use and cannot be removed")
        self._drop_uses(node)
        self._unlink(node)

    def _drop_uses(self, node: Node) -> None:
        for region in node.regions:
            for g in region.graphs():
                g.set_outputs(())
            for inner in region.walk():
                for i, v in enumerate(inner.operands):
                    if v is not None:
                        v.uses.pop((inner, i), None)
        for i, v in enumerate(node.operands):
            if v is not None:
                v.uses.pop((node, i), None)

    def replace_uses(self, old: Value, new: Value) -> None:
        """Every reader of `old`, and every graph that returns it, takes `new`."""
        if old is new:
            return
        for node, i in list(old.uses):
            node.set_operand(i, new)
        for graph, _ in list(old.output_of):
            graph.set_outputs(new if o is old else o for o in graph.outputs)

    def replace(self, node: Node, values: Sequence[Value]) -> None:
        """Puts `values` in the place of the node's results, then removes the node."""
        for old, new in zip(node.results, values, strict=True):
            self.replace_uses(old, new)
        self.remove(node)

    def positions(self) -> dict[Node, int]:
        """The place of each node in the order of this graph."""
        return {n: i for i, n in enumerate(self)}


class Module:
    """A whole program: the main graph, its constants, its symbols, and what the model said of itself."""

    def __init__(self, name: str = "main", opsets: dict[str, int] | None = None):
        self.name = name
        self.opsets: dict[str, int] = dict(opsets or {})
        self.meta: dict[str, str] = {}
        self.output_names: list[str] = []  # what the model calls its outputs; several may name one value
        self.symbols: dict[str, Symbol] = {}
        self.consts: dict[str, Value] = {}
        self.dense_bytes = 0  # of constants that the model's file holds as sparse tensors: a few numbers can stand for many bytes
        self._names: set[str] = set()
        self._counters: dict[str, int] = {}
        self.main = Graph("main", self)

    def fresh(self, name: str) -> str:
        """`name`, or `name.1`, `name.2`, ... where it is taken; the answer is taken from now on."""
        name = name or "v"
        if name in self._names:
            base, n = name, self._counters.get(name, 0) + 1
            while f"{base}.{n}" in self._names:
                n += 1
            self._counters[base] = n
            name = f"{base}.{n}"
        self._names.add(name)
        return name

    def claim(self, name: str) -> str:
        """Takes `name` as it is, even where another scope has it already (what the parser needs)."""
        self._names.add(name)
        return name

    def fresh_symbol(self, hint: str, lo: int = 0, hi: int | None = None) -> Symbol:
        """A new symbol whose name starts with `hint`."""
        name, n = hint, 0
        while name in self.symbols:
            n += 1
            name = f"{hint}.{n}"
        s = Symbol(name, lo) if hi is None else Symbol(name, lo, hi)
        self.symbols[name] = s
        return s

    def add_const(self, name: str, array: np.ndarray | Constant, type: TensorType | None = None) -> Value:
        """A new constant. With a Constant that is loaded later the type must be given."""
        const = array if isinstance(array, Constant) else Constant(np.asarray(array))
        if type is None:
            type = TensorType(dtype_of(const.array), const.array.shape)
        v = Value(self.fresh(name), type, const=const)
        self.consts[v.name] = v
        return v

    def remove_const(self, value: Value) -> None:
        """Forgets a constant that nobody reads."""
        if not value.is_dead:
            raise IRError(f"the constant %{value.name} is still in use")
        del self.consts[value.name]

    def open_graphs(self) -> list[Graph]:
        """The main graph and the regions of control flow, outermost first, without those of fused nodes: what passes change."""
        return [g for g in self.main.graphs() if not (g.parent and g.parent.op.has("isolated"))]

    def walk(self) -> Iterator[Node]:
        """Every node of the program."""
        return self.main.walk()

    def count(self) -> int:
        """How many nodes the program has."""
        return sum(len(g) for g in self.main.graphs())
