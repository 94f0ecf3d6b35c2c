"""The text IR on its way in: text to Module, and text to Dim. docs/ir.md gives the grammar; `printer.py` is the other direction.

A recursive descent over `Scanner`; regions are nested at most Limits.depth deep.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from . import ops as _registered  # noqa: F401  (text may name any operator)
from .core import Constant, Graph, Module, Node, Value
from .errors import IRError
from .limits import DEFAULT_LIMITS
from .op import OPS, OpDef
from .scanner import AT, NAME, SYMBOL, VALUE, Scanner, token
from .symbols import INF, DimLike, Symbol
from .types import TensorType, Type

_HASH = token(r"sha256:([0-9a-f]{1,64})")
_YIELD = re.compile(r"yield(?![A-Za-z0-9_./:-])")


def parse_module(text: str, blobs: Mapping[str, np.ndarray] | None = None) -> Module:
    """The module that prints as `text`.

    `blobs` holds the contents of large constants under their full hashes, as `print_module` collects them; the caller vouches for
    the hashes. A constant whose blob is missing raises IRError when its array is asked for. Raises IRError for anything else.
    """
    return _Parser(text, blobs or {}).module()


def parse_dim(text: str, symbols: Mapping[str, Symbol]) -> DimLike:
    """The dimension that prints as `text`, over the given symbols by name. Raises IRError."""
    s = Scanner(text, symbols)
    d = s.dim()
    s.end("the end of the dimension")
    return d


class _Parser(Scanner):
    """The module's grammar over the scanner."""

    def __init__(self, text: str, blobs: Mapping[str, np.ndarray]):
        self.result = Module()
        super().__init__(text, self.result.symbols)
        self.blobs, self._hashes = blobs, sorted(blobs)
        self.visible: dict[str, Value] = {}
        self.scope: list[str] = []  # names in the order in which they became visible
        self.regions_open = 0
        self.unnamed: list[tuple[Value, str]] = []  # inputs of isolated regions, with the name of their operand

    def module(self) -> Module:
        m = self.result
        self.keyword("module")
        m.name = self.name(AT, "@name")
        self.need("{")
        if not self.at("}"):
            self.list_of(self.opset)
        self.need("}")
        self.need("{")
        while True:
            if self.word("meta"):
                key = self.string()
                self.need("=")
                m.meta[key] = self.string()
            elif self.word("sym"):
                self.symbol()
            elif self.word("const"):
                self.const()
            else:
                break
        if not self.word("graph"):
            self.fail("expected meta, sym, const or graph")
        self.graph()
        self.need("}")
        self.end("the end of the text")
        for value, name in self.unnamed:
            value.name = m.fresh(name)
        return m

    def keyword(self, word: str) -> None:
        if not self.word(word):
            self.fail(f"expected {word}")

    def opset(self) -> None:
        start = self.pos
        domain = "" if self.word("opset") else self.string()
        if domain in self.result.opsets:
            self.fail("expected each domain once", start)
        self.need("=")
        self.result.opsets[domain] = self.integer()

    def symbol(self) -> None:
        start = self.pos
        name = self.name(SYMBOL, "a symbol such as $N")
        lo, hi = 0, INF
        if self.word("in"):
            self.need("[")
            lo = self.bound()
            self.need(",")
            hi = self.bound()
            self.need("]")
        if name in self.result.symbols or lo > hi:
            self.fail("expected each symbol once, with a range [lo, hi] where lo <= hi", start)
        self.result.symbols[name] = Symbol(name, lo, hi)

    def bound(self) -> int:
        sign = -1 if self.at("-inf") else 1
        return sign * INF if self.take("inf") or self.take("-inf") else self.integer("an integer or inf")

    def const(self) -> None:
        start = self.pos
        name = self.name(VALUE, "%name")
        self.need(":")
        at, t = self.pos, self.known_type()
        self.need("=")
        v = Value(name, t, const=self.contents(t, at))
        self.define(v, start)
        self.result.consts[name] = v

    def blob(self, t: TensorType) -> Constant:
        start, digits = self.pos, self.match(_HASH, "sha256:<hex digits>")
        i = bisect_left(self._hashes, digits)
        found = [h for h in self._hashes[i : i + 2] if h.startswith(digits)]
        if len(found) > 1:
            self.fail("expected more digits: several blobs begin like this", start)
        if not found:
            return Constant(load=lambda: _missing(digits, t), sha256=digits)
        array = self.blobs[found[0]]
        if array.dtype != t.dtype.np or array.shape != t.shape:
            self.fail(f"expected a blob of type {t}, found {array.dtype}{list(array.shape)}", start)
        return Constant(array, sha256=found[0])

    # ---- graphs

    def define(self, v: Value, start: int) -> None:
        if v.name in self.visible:
            self.fail(f"expected a new name; %{v.name} is defined already", start)
        self.visible[v.name] = v
        self.scope.append(v.name)
        self.result.claim(v.name)

    def lookup(self, name: str, start: int) -> Value:
        if name not in self.visible:
            self.fail(f"expected a value defined above that may be read here; %{name} is none", start)
        return self.visible[name]

    def graph(self) -> None:
        g = self.result.main
        g.name = self.name(AT, "@name")
        self.inputs(g)
        self.need("->")
        outputs: list[tuple[int, str, str]] = []
        if self.take("("):
            self.need(")")
        else:
            outputs = self.list_of(self.output)
        self.need("{")
        self.body(g)
        self.need("}")
        g.set_outputs([self.lookup(name, start) for start, name, _ in outputs])
        self.result.output_names = [shown for _, _, shown in outputs]

    def output(self) -> tuple[int, str, str]:
        start, name = self.pos, self.name(VALUE, "%name")
        return start, name, self.name(NAME, "a name") if self.word("as") else name

    def inputs(self, g: Graph) -> None:
        self.need("(")
        if not self.at(")"):
            self.list_of(lambda: self.input(g))
        self.need(")")

    def input(self, g: Graph) -> None:
        start, name = self.pos, self.name(VALUE, "%name")
        self.need(":")
        v = Value(name, self.type(), graph=g, index=len(g.inputs))
        self.define(v, start)
        g.inputs.append(v)

    def body(self, g: Graph) -> None:
        while not self.at("}") and not _YIELD.match(self.text, self.pos):
            self.node(g)

    def node(self, g: Graph) -> None:
        start = self.pos
        named = self.list_of(lambda: (self.pos, self.name(VALUE, "%name"))) if self.at("%") else []
        if named:
            self.need("=")
        op = self.operator()
        operands = self.operands()
        attrs = self.attrs() if self.at("{") else {}
        self.need(":")
        types = self.types(len(named))
        locs = self.locs()
        regions = self.regions(op, operands)
        node = Node(op, [v for _, _, v in operands], attrs, regions, locs)
        for i, (at, name) in enumerate(named):
            v = Value(name, types[i], node=node, index=i)
            self.define(v, at)
            node.results.append(v)
        assert start < self.pos
        g.append(node)

    def operator(self) -> OpDef:
        start, name = self.pos, self.name(NAME, "an operator, `yield` or `}`")
        op = OPS.get(name)
        if op is None:
            self.fail(f"expected an operator; there is none named {name!r}", start)
        return op

    def operands(self) -> list[tuple[int, str, Value | None]]:
        self.need("(")
        out = [] if self.at(")") else self.list_of(self.operand)
        self.need(")")
        return out

    def operand(self) -> tuple[int, str, Value | None]:
        start = self.pos
        if self.take("_"):
            return start, "", None
        name = self.name(VALUE, "%name or _")
        return start, name, self.lookup(name, start)

    def attrs(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        self.need("{")
        while not self.take("}"):
            if out:
                self.need(",")
            start, key = self.pos, self.name(NAME, "an attribute's name")
            if key in out:
                self.fail("expected each attribute once", start)
            self.need("=")
            out[key] = self.attr()
        return out

    def types(self, count: int) -> list[Type | None]:
        start = self.pos
        if self.take("("):
            self.need(")")
            out = []
        else:
            out = self.list_of(self.type)
        if len(out) != count:
            self.fail(f"expected one type a result: {count}, found {len(out)}", start)
        return out

    def locs(self) -> list[str]:
        if not self.word("loc"):
            return []
        self.need("(")
        out = self.list_of(self.string)
        self.need(")")
        return out

    def regions(self, op: OpDef, operands: list[tuple[int, str, Value | None]]) -> list[Graph]:
        if not op.regions:
            return []
        self.regions_open += 1
        if self.regions_open > DEFAULT_LIMITS.depth:
            self.fail(f"expected at most {DEFAULT_LIMITS.depth} regions in one another")
        out = [self.isolated(op, operands)] if op.has("isolated") else [self.region(name) for name in op.regions]
        self.regions_open -= 1
        return out

    def region(self, name: str) -> Graph:
        """A region that sees the values around it: name (inputs) { nodes yield values }"""
        g, mark = Graph(name, self.result), len(self.scope)
        self.keyword(name)
        self.inputs(g)
        self.braced(g)
        for inner in self.scope[mark:]:
            del self.visible[inner]
        del self.scope[mark:]
        return g

    def isolated(self, op: OpDef, operands: list[tuple[int, str, Value | None]]) -> Graph:
        """A region without a header that sees nothing but the operands of its node, under their names."""
        g, outer = Graph(op.regions[0], self.result), (self.visible, self.scope)
        self.visible, self.scope = {}, []
        for start, name, v in operands:
            if v is None or name in self.visible:
                self.fail(f"expected operands of {op.name} that are present and distinct", start)
            inner = Value("", v.type, graph=g, index=len(g.inputs))
            g.inputs.append(inner)
            self.visible[name] = inner
            self.unnamed.append((inner, name))
        self.braced(g)
        self.visible, self.scope = outer
        return g

    def braced(self, g: Graph) -> None:
        self.need("{")
        self.body(g)
        self.keyword("yield")
        values = self.list_of(self.operand) if self.at("%") else []
        self.need("}")
        g.set_outputs([v for _, _, v in values if v is not None])


def _missing(digits: str, t: TensorType) -> NoReturn:
    raise IRError(f"the contents of a {t} constant are not here: no blob sha256:{digits} was given to parse_module")
