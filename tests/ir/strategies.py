"""hypothesis strategies for the IR: names, dims, types, attribute values, constants, and whole random modules.

The operators of random modules are test-only and begin with `t_`; `random_ops` registers them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import graphmill.ir.ops  # noqa: F401  (registers add and relu)
import numpy as np
from graphmill.ir.core import Graph, Module, Value
from graphmill.ir.layout import Layout
from graphmill.ir.op import OPS, op
from graphmill.ir.symbols import INF, Dim, DimLike, Symbol, broadcast, ceildiv, dim_max, dim_min, floordiv, mod
from graphmill.ir.types import DTYPES, F32, MapType, OptionalType, SequenceType, TensorType
from hypothesis import strategies as st

NAMES = ("t_any", "t_two", "t_sink", "t_branch", "t_loop", "t_fused", "t_opt", "t_opaque")

BRANCHES = ("then_branch", "else_branch")


@contextmanager
def random_ops():
    """Registers the operators of random modules, and takes them out again."""
    infer = lambda c: None  # noqa: E731
    op("t_any", infer=infer, traits=("open_attrs",))(lambda *xs: None)
    op("t_two", infer=infer, traits=("open_attrs",), results=None)(lambda *xs, alpha=1.0: None)
    op("t_opaque", infer=infer, traits=("opaque",))(lambda *xs: None)
    op("t_sink", infer=infer, results=0)(lambda *xs: None)
    op("t_opt", infer=infer, dtypes={"a": {F32}})(lambda a, b=None, *, k, s="x": None)
    op("t_branch", infer=infer, regions=BRANCHES, results=None)(lambda cond, *, then_branch, else_branch: None)
    op("t_loop", infer=infer, regions=("body",), results=None)(lambda *xs, body: None)
    op("t_fused", infer=infer, regions=("body",), traits=("isolated",), results=None)(lambda *xs, body, kernel="loops": None)
    try:
        yield
    finally:
        for name in NAMES:
            OPS.unregister(name)


plain_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_./:-]{0,6}", fullmatch=True)
weird_names = st.sampled_from(
    [
        "a:",
        "1",
        "/conv1/Conv_output_0",
        'x"y',
        "\\",
        "\n",
        "a b",
        "%x",
        "$N",
        "é",
        "\ud800",
        "😀",
        "yield",
        "_",
        "inf",
        "}",
        "//",
        "f32",
        "-",
        "->",
    ]
)
names = plain_names | weird_names | st.text(min_size=1, max_size=5)
symbol_names = st.sampled_from(["N", "M", "seq.1", "batch size", 'q"]', "0"])


@st.composite
def symbol_lists(draw: st.DrawFn) -> list[Symbol]:
    out = []
    for name in draw(st.lists(symbol_names, unique=True, max_size=4)):
        lo = draw(st.sampled_from([0, 1, 2, -3]))
        out.append(Symbol(name, lo, draw(st.sampled_from([INF, lo, lo + 1, 64]))))
    return out


def dims(symbols: list[Symbol]) -> st.SearchStrategy[DimLike]:
    """Dims over the given symbols, made by the public arithmetic."""
    atoms: st.SearchStrategy[Any] = st.integers(-4, 9)
    if symbols:
        atoms = atoms | st.sampled_from(symbols).map(Dim.of)

    def compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.tuples(st.sampled_from(sorted(OPERATIONS)), inner, inner).map(lambda t: apply(*t))

    return st.recursive(atoms, compound, max_leaves=6)


OPERATIONS = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "floordiv": floordiv, "ceildiv": ceildiv, "mod": mod,
    "min": dim_min, "max": dim_max, "bcast": broadcast,
}  # fmt: skip


def apply(fn: str, a: Any, b: Any) -> Any:
    """The operation, or `a` where it is not defined (division by zero, sizes that do not broadcast, too many terms)."""
    try:
        return OPERATIONS[fn](a, b)
    except (ValueError, ArithmeticError):
        return a


dtypes = st.sampled_from(sorted(DTYPES.values(), key=str))


@st.composite
def tensor_types(draw: st.DrawFn, symbols: list[Symbol]) -> TensorType:
    if draw(st.integers(0, 9)) == 0:
        return TensorType(draw(dtypes), None)
    shape = tuple(draw(st.lists(st.integers(0, 5) | dims(symbols), max_size=4)))
    layout = Layout.of(tuple(draw(st.permutations(range(len(shape)))))) if draw(st.booleans()) else None
    return TensorType(draw(dtypes), shape, layout)


def types(symbols: list[Symbol]) -> st.SearchStrategy[Any]:
    tensors = tensor_types(symbols)
    keys = st.sampled_from([DTYPES["i64"], DTYPES["str"]])
    compound = st.recursive(
        tensors, lambda t: t.map(SequenceType) | t.map(OptionalType) | st.tuples(keys, t).map(lambda kv: MapType(*kv)), max_leaves=3
    )
    return tensors | st.none() | compound


@st.composite
def arrays(draw: st.DrawFn, most: int = 5) -> np.ndarray:
    """Small arrays of every dtype; floats are any bits."""
    d, shape = draw(dtypes), tuple(draw(st.lists(st.integers(0, most), max_size=2)))
    n = int(np.prod(shape))
    if d.kind == "string":
        a = np.empty(n, object)
        a[:] = draw(st.lists(st.text(max_size=4), min_size=n, max_size=n))
    elif d.kind == "bool":
        a = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    elif d.bits < 8:
        a = np.array(draw(st.lists(st.integers(0, (1 << d.bits) - 1), min_size=n, max_size=n)), np.uint8)
        a = a.astype(np.float64).astype(d.np) if d.is_float else np.array([_signed(int(x), d) for x in a], np.int64).astype(d.np)
    else:
        raw = draw(st.binary(min_size=n * d.itemsize, max_size=n * d.itemsize))
        a = np.frombuffer(raw, d.np)
    return a.reshape(shape)


def _signed(x: int, d: Any) -> int:
    return x - (1 << d.bits) if d.kind == "int" and x >> (d.bits - 1) else x


def attr_values(symbols: list[Symbol]) -> st.SearchStrategy[Any]:
    words = st.sampled_from(["linear", "f32", "none", "true", "min", "blob", "SAME_UPPER", "inf", "", "1", "seq", "yield"])
    leaves = (
        st.integers() | st.floats() | st.booleans() | st.none() | words | st.text(max_size=4) | dtypes | dims(symbols)
        | types(symbols) | arrays(3)
    )  # fmt: skip
    return st.recursive(leaves, lambda x: st.lists(x, max_size=3).map(tuple), max_leaves=5)


@st.composite
def modules(draw: st.DrawFn) -> Module:
    """Random valid modules: weird names, symbols, constants, optional operands, several results, captures, fused regions."""
    m = Module(draw(names), draw(st.dictionaries(st.sampled_from(["", "com.microsoft", "opset", 'a"b']), st.integers(1, 25))))
    m.meta = draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2))
    symbols = draw(symbol_lists())
    m.symbols.update((s.name, s) for s in symbols)
    values: list[Value] = []
    for _ in range(draw(st.integers(0, 3))):
        values.append(m.add_const(draw(names), draw(arrays())))
    for _ in range(draw(st.integers(0, 3))):
        values.append(m.main.add_input(draw(names), draw(types(symbols))))
    fill(draw, m.main, values, symbols, depth=0)
    m.main.set_outputs(draw(st.lists(st.sampled_from(values), max_size=3)) if values else [])
    m.output_names = [draw(names) if draw(st.booleans()) else v.name for v in m.main.outputs]
    return m


def fill(draw: st.DrawFn, g: Graph, values: list[Value], symbols: list[Symbol], depth: int) -> None:
    """Adds random nodes to `g` that read `values`; their results are appended to it."""
    for _ in range(draw(st.integers(0, 4 if depth == 0 else 2))):
        kind = draw(st.sampled_from(["t_any", "t_two", "t_sink", "t_opt", "t_branch", "t_loop", "t_fused"]))
        if kind in ("t_branch", "t_loop", "t_fused") and depth == 2:
            continue
        _node(draw, g, kind, values, symbols, depth)


def _node(draw: st.DrawFn, g: Graph, kind: str, values: list[Value], symbols: list[Symbol], depth: int) -> None:
    operands: list[Value | None] = list(draw(st.lists(st.sampled_from(values), max_size=3))) if values else []
    count, attrs, regions = 1, {}, []
    if kind in ("t_any", "t_two"):
        attrs = draw(st.dictionaries(names, attr_values(symbols), max_size=3))
        attrs.pop("alpha", None)
    if kind == "t_sink":
        count = 0
    elif kind == "t_opt":
        fitting = [v for v in values if not isinstance(v.type, TensorType) or v.type.dtype == F32]
        if not fitting:
            return
        b = st.none() | st.sampled_from(values)
        operands, attrs = (
            [draw(st.sampled_from(fitting)), draw(b)],
            {"k": draw(attr_values(symbols)), "s": draw(st.sampled_from("xy"))},
        )
    elif kind == "t_branch":
        if not values:
            return
        operands = [draw(st.sampled_from(values))]
        regions = [_region(draw, g.module, name, values, symbols, depth) for name in BRANCHES]
    elif kind == "t_loop":
        regions = [_region(draw, g.module, "body", values, symbols, depth)]
    elif kind == "t_fused":
        operands = list(dict.fromkeys(operands))
        regions = [_isolated(draw, g.module, operands, symbols)]
        count = len(regions[0].outputs)
        attrs = draw(st.sampled_from([{}, {"kernel": "gemm"}]))
    if kind in ("t_two", "t_branch", "t_loop"):
        count = draw(st.integers(0, 2))
    result_types = [o.type for o in regions[0].outputs] if kind == "t_fused" else [draw(types(symbols)) for _ in range(count)]
    locs = draw(st.lists(st.text(max_size=4), max_size=2))
    node = g.add(
        OPS[kind], operands, attrs, names=[draw(names) for _ in range(count)], types=result_types, regions=regions, locs=locs
    )
    values += node.results


def _region(draw: st.DrawFn, m: Module, name: str, values: list[Value], symbols: list[Symbol], depth: int) -> Graph:
    g, inner = Graph(name, m), list(values)
    for _ in range(draw(st.integers(0, 2))):
        inner.append(g.add_input(draw(names), draw(types(symbols))))
    fill(draw, g, inner, symbols, depth + 1)
    g.set_outputs(draw(st.lists(st.sampled_from(inner), max_size=2)) if inner else [])
    return g


def _isolated(draw: st.DrawFn, m: Module, operands: list[Any], symbols: list[Symbol]) -> Graph:
    g = Graph("body", m)
    inner = [g.add_input(v.name, v.type) for v in operands]
    for _ in range(draw(st.integers(1, 3))):
        reads = draw(st.lists(st.sampled_from(inner), max_size=3)) if inner else []
        inner.append(g.add(OPS["t_any"], reads, names=[draw(names)], types=[draw(types(symbols))]).result)
    g.set_outputs(draw(st.lists(st.sampled_from(inner), max_size=2)))
    return g
