"""The text IR on its way out. docs/ir.md gives the grammar; `parser.py` reads it back to an equal module.

One node a line, names as the model gave them, result types always, attributes sorted and without defaults. Whatever is no plain
identifier is printed as a quoted ASCII literal, so that no name of a model can break out of its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .core import Constant, Graph, Module, Node, Value
from .errors import IRError
from .limits import DEFAULT_LIMITS
from .symbols import INF, Dim, Symbol, quote
from .types import DTYPES, DType, MapType, OptionalType, SequenceType, TensorType, Type, dtype_of

PLAIN = r"/?[A-Za-z0-9_](?:[A-Za-z0-9_./:-]*[A-Za-z0-9_./-])?"  # no colon at the end: `%x: f32[]`
INLINE = 16  # constants of at most so many elements are printed in place
ATTR_KINDS = "int, float, str, bool, tuple, Dim, DType, Type, ndarray or None"
HASH_DIGITS = 16  # of a blob's hash; more only where two blobs of the module would look alike
DIM_FUNCTIONS = ("floordiv", "ceildiv", "mod", "min", "max", "bcast")
# Words that mean something as the value of an attribute; a string that is one of them is quoted.
WORDS = frozenset({"true", "false", "none", "inf", "nan", "seq", "opt", "map", "array", *DIM_FUNCTIONS, *DTYPES})

_PLAIN = re.compile(PLAIN)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def print_module(module: Module, *, blobs: dict[str, np.ndarray] | None = None, locs: bool = True) -> str:
    """The module as text. Contents of large constants are put into `blobs` under their full hash; the text has the hash only.

    Raises IRError where the module holds what text cannot say (attribute values of a foreign type, regions nested too deeply).
    """
    return "\n".join(_Printer(module, blobs, locs).module()) + "\n"


def print_node(node: Node, *, regions: bool = True, locs: bool = True) -> str:
    """One node as text. Without `regions` their bodies are left out, which keeps it on one line."""
    assert node.graph is not None
    printer = _Printer(node.graph.module, None, locs)
    printer.name_inputs_around(node.graph)
    return "\n".join(printer.node(node, "", regions))


def spell(name: str) -> str:
    """`name` as it stands after a sigil: as it is where plain, else quoted."""
    return name if _PLAIN.fullmatch(name) else quote(name)


def symbol_text(s: Symbol) -> str:
    """The declaration of a symbol; the range is left out where it is [0, inf]."""
    if (s.lo, s.hi) == (0, INF):
        return f"sym {s}"
    return f"sym {s} in [{_bound(s.lo)}, {_bound(s.hi)}]"


def _bound(x: int) -> str:
    return str(x) if abs(x) < INF else "inf" if x > 0 else "-inf"


def type_text(t: Type | None) -> str:
    return "?" if t is None else str(t)


def elements_text(a: np.ndarray) -> str:
    """The elements in row-major order, each so that it reads back as the same bits (but for the payload of a NaN)."""
    d = dtype_of(a)
    flat = a.ravel()
    if d.kind == "string":
        items = [quote(str(x)) for x in flat]
    elif d.kind == "bool":
        items = ["true" if x else "false" for x in flat]
    elif d.kind == "complex":
        items = [f"({float_text(x.real)}, {float_text(x.imag)})" for x in flat]
    elif d.kind == "float":
        items = [float_text(x) for x in flat]
    else:
        items = [str(int(x)) for x in flat]
    return "[" + ", ".join(items) + "]"


def float_text(x: Any) -> str:
    """The shortest text that becomes this numpy scalar again when it is read as f64 and rounded to its type."""
    wide = float(x)
    if math.isnan(wide):
        return "nan"
    short = str(x)
    with np.errstate(all="ignore"):
        back = float(np.float64(short).astype(x.dtype))
    return short if back == wide else repr(wide)


class _Printer:
    def __init__(self, module: Module, blobs: dict[str, np.ndarray] | None, locs: bool):
        self.root, self.blobs, self.locs = module, blobs, locs
        self.inputs: dict[Value, str] = {}  # inputs of isolated regions, and the operands that they stand for
        self.depth = 0
        self._digits: int | None = None

    def module(self) -> list[str]:
        m = self.root
        opsets = [f"opset = {m.opsets['']}"] if "" in m.opsets else []
        opsets += [f"{quote(d)} = {v}" for d, v in sorted(m.opsets.items()) if d]
        lines = [f"module @{spell(m.name)} {{{', '.join(opsets)}}} {{"]
        lines += [f"  meta {quote(k)} = {quote(v)}" for k, v in m.meta.items()]
        lines += [f"  {symbol_text(s)}" for s in m.symbols.values()]
        lines += [f"  const {self.value(v)} : {type_text(v.type)} = {self.contents(v)}" for v in m.consts.values()]
        g = m.main
        lines.append(f"  graph @{spell(g.name)}({self.header(g)}) -> {self.outputs()} {{")
        lines += self.body(g, "    ")
        return [*lines, "  }", "}"]

    def outputs(self) -> str:
        """The main graph's outputs; `as` gives the name under which one is returned where it is not the value's own."""
        names = [*self.root.output_names]
        out = []
        for i, v in enumerate(self.root.main.outputs):
            name = names[i] if i < len(names) else v.name
            out.append(self.value(v) + ("" if name == v.name else f" as {spell(name)}"))
        return ", ".join(out) or "()"

    def header(self, g: Graph) -> str:
        return ", ".join(f"{self.value(v)}: {type_text(v.type)}" for v in g.inputs)

    def body(self, g: Graph, indent: str) -> list[str]:
        self.depth += 1
        if self.depth > DEFAULT_LIMITS.depth:
            raise IRError(f"regions are nested more than {DEFAULT_LIMITS.depth} deep; the text IR cannot say that")
        lines: list[str] = []
        for node in g:
            lines += self.node(node, indent)
        self.depth -= 1
        return lines

    def value(self, v: Value | None) -> str:
        return "_" if v is None else self.inputs.get(v) or "%" + spell(v.name)

    def values(self, vs: Sequence[Value | None]) -> str:
        return ", ".join(map(self.value, vs))

    def node(self, n: Node, indent: str, regions: bool = True) -> list[str]:
        results = f"{self.values(n.results)} = " if n.results else ""
        types = ", ".join(type_text(r.type) for r in n.results) or "()"
        name = quote(n.op.name) if n.op.name == "yield" else spell(n.op.name)
        line = f"{indent}{results}{name}({self.values(n.operands)}){self.attrs(n)} : {types}"
        if self.locs and n.locs:
            line += f" loc({', '.join(map(quote, n.locs))})"
        lines = [line]
        for i, region in enumerate(n.regions):
            if n.op.has("isolated"):
                self.name_inputs(n, region)
                head = ""
            else:
                head = f" {n.op.regions[i] if i < len(n.op.regions) else '?'} ({self.header(region)})"
            lines[-1] += head + (" {" if regions else " { ... }")
            if regions:
                lines += self.body(region, indent + "  ")
                lines.append(f"{indent}  yield {self.values(region.outputs)}".rstrip())
                lines.append(indent + "}")
        return lines

    def name_inputs(self, n: Node, region: Graph) -> None:
        """Inputs of an isolated region are printed under the names of the operands that they stand for."""
        self.inputs.update((inner, self.value(outer)) for inner, outer in zip(region.inputs, n.operands) if outer is not None)

    def name_inputs_around(self, g: Graph) -> None:
        around = []
        while g.parent is not None and g.parent.graph is not None:
            if g.parent.op.has("isolated"):
                around.append((g.parent, g))
            g = g.parent.graph
        for node, region in reversed(around):
            self.name_inputs(node, region)

    def attrs(self, n: Node) -> str:
        if not n.attrs:
            return ""
        items = []
        for k in sorted(n.attrs):
            try:
                items.append(f"{spell(k)} = {self.attr(n.attrs[k])}")
            except IRError as e:
                raise IRError(f"%{n.name} ({n.op.name}): attribute {k}: {e}") from None
        return " {" + ", ".join(items) + "}"

    def attr(self, v: Any) -> str:
        if v is None:
            return "none"
        if isinstance(v, (bool, np.bool_)):
            return "true" if v else "false"
        if isinstance(v, (int, np.integer)):
            return str(int(v))
        if isinstance(v, (float, np.floating)):
            return repr(float(v))
        if isinstance(v, str):
            return v if _WORD.fullmatch(v) and v not in WORDS else quote(v)
        if isinstance(v, (tuple, list)):
            return "[" + ",".join(map(self.attr, v)) + "]"
        if isinstance(v, (Dim, DType, TensorType, SequenceType, OptionalType, MapType)):
            return str(v)
        if isinstance(v, np.ndarray):
            return f"array({TensorType(dtype_of(v), v.shape)}, {self.array(Constant(v), v)})"
        raise IRError(f"a {type(v).__name__} has no spelling; expected {ATTR_KINDS}")

    # ---- constants

    def contents(self, v: Value) -> str:
        assert v.const is not None
        size = v.type.size if isinstance(v.type, TensorType) and v.type.shape is not None else 0
        large = isinstance(size, int) and size > INLINE
        return self.blob(v.const) if large else self.array(v.const, v.const.array)

    def array(self, c: Constant, a: np.ndarray) -> str:
        odd = a.dtype == object and not all(isinstance(x, str) for x in a.flat)
        return self.blob(c) if a.size > INLINE or odd else elements_text(a)

    def blob(self, c: Constant) -> str:
        if self.blobs is not None:
            self.blobs[c.sha256] = c.array
        return f"blob sha256:{c.sha256[: self.digits]}"

    @property
    def digits(self) -> int:
        """How many digits tell all constants of the module apart."""
        if self._digits is None:
            large = (v.const for v in self.root.consts.values() if isinstance(v.type, TensorType) and v.type.is_static)
            self._digits = unique_digits({c.sha256 for c in large if c is not None})
        return self._digits


def unique_digits(hashes: set[str]) -> int:
    """The shortest length, at least HASH_DIGITS, at which the hashes still differ."""
    n = HASH_DIGITS
    while len({h[:n] for h in hashes}) < len(hashes):
        n += 1
    return n
