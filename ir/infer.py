"""Types and known contents of every value, node by node, in the order of the graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .core import Graph, Module, Node, Value
from .errors import InferenceError
from .op import InferContext
from .symbols import Dim, as_symbol, size_of
from .types import BOOL, I64, OptionalType, SequenceType, TensorType, Type

MAX_CONTENTS = 1024  # elements of an integer tensor whose contents are followed
MAX_DIM = 100  # symbols and operations in one dim
MAX_ROUNDS = 4  # of a loop body until its carried types are taken as unknown


def infer_module(module: Module) -> None:
    """Sets `type` and `dims` of every value. Raises InferenceError that names the node."""
    infer_graph(module.main)


def infer_graph(graph: Graph) -> None:
    for node in graph:
        infer_node(node)


def infer_node(node: Node) -> None:
    """Sets the types and known contents of the node's results (and of everything in its regions)."""
    if node.regions:
        _infer_regions(node)
    c = context(node)
    try:
        out = node.op.infer(c)
    except InferenceError as e:
        raise _of(node, f"{e}") from None
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError) as e:
        raise _of(node, f"{node.op.name} cannot take these operands ({shown(c)}): {e}") from e
    types: list[Type | None] = list(out) if isinstance(out, (tuple, list)) else [out]  # type: ignore[list-item]
    if len(types) < len(node.results):
        raise _of(node, f"{node.op.name} has {len(types)} results, the node asks for {len(node.results)}")
    for v, t in zip(node.results, types):
        v.type = keep_layout(_short(t, v), v.type)
    _set_contents(node, c)


def _of(node: Node, message: str) -> InferenceError:
    error = InferenceError(f"{where(node)}: {message}")
    error.node = node
    return error


def where(node: Node) -> str:
    return f"node {'+'.join(node.locs) or '%' + node.name} ({node.op.name})"


def shown(c: InferContext) -> str:
    return ", ".join("none" if t is None else str(t) for t in c.types)


def _short(t: Type | None, v: Value) -> Type | None:
    """The type with dims that have grown too long to follow as symbols of their own, which a run binds like any unknown size.
    (Each operation of a T5 decoder's masks puts the last dim into two places: texts would double with every node.)"""
    if not isinstance(t, TensorType) or t.shape is None or v.graph is None or all(size_of(d) <= MAX_DIM for d in t.shape):
        return t
    return t.with_(shape=tuple(d if size_of(d) <= MAX_DIM else _named_dim(v, i) for i, d in enumerate(t.shape)))


def keep_layout(new: Type | None, old: Type | None) -> Type | None:
    """Layouts are decided by a pass, not inferred: where a type was known, its layout stays, or that it has none."""
    if not isinstance(new, TensorType) or new.shape is None:
        return new
    if isinstance(old, TensorType) and old.shape is not None and len(old.shape) == len(new.shape):
        return new.with_(layout=old.layout)
    return new if new.layout is None or len(new.layout.perm) == len(new.shape) else new.with_(layout=None)


def context(node: Node) -> InferContext:
    """What the node's `infer` is given."""
    module = node.graph.module if node.graph is not None else None

    def new_symbol(n: str, lo: int, hi: int | None) -> Dim:
        assert module is not None
        name = f"{node.name}.{n}"  # inferring twice gives the same symbol
        known = module.symbols.get(name)
        return Dim.of(known if known is not None else module.fresh_symbol(name, lo, hi))

    types = [None if v is None else v.type for v in node.operands]
    regions = [[o.type for o in r.outputs] for r in node.regions]
    return InferContext(node.op, types, node.all_attrs(), len(node.results), [contents(v) for v in node.operands],
                        new_symbol if module is not None else None, regions)  # fmt: skip


def contents(v: Value | None) -> np.ndarray | None:
    """The known contents of a value: a small constant's array, or what was found of shape arithmetic."""
    if v is None:
        return None
    if v.is_const:
        t = v.type
        return v.array if isinstance(t, TensorType) and isinstance(t.size, int) and t.size <= MAX_CONTENTS else None
    return v.dims


def _set_contents(node: Node, c: InferContext) -> None:
    for r in node.results:
        r.dims = None
    if node.op.dims is None or len(node.results) != 1:
        return
    r = node.results[0]
    if not isinstance(r.type, TensorType) or not (r.type.dtype.is_integer or r.type.dtype is BOOL):
        return
    try:
        found = node.op.dims(c)
    except (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError):
        found = None  # the contents are not known; whether the node is right is `infer`'s word
    if found is not None:
        found = np.asarray(found, object)
        if any(size_of(d) > MAX_DIM for d in found.ravel()):
            found = np.asarray(np.frompyfunc(lambda d: d if size_of(d) <= MAX_DIM else None, 1, 1)(found), object)
        r.dims = found if found.size <= MAX_CONTENTS and r.type.shape == found.shape else None


# ---- regions ----------------------------------------------------------------------------------------------------


def _infer_regions(node: Node) -> None:
    if node.op.has("isolated"):
        for region in node.regions:
            for inner, outer in zip(region.inputs, node.operands):
                if outer is not None:
                    inner.type, inner.dims = outer.type, contents(outer)
            infer_graph(region)
        return
    if node.op.name == "loop":
        _infer_loop(node)
    elif node.op.name == "scan":
        _infer_scan(node)
    elif node.op.name == "sequence_map":
        _infer_sequence_map(node)
    else:
        for region in node.regions:
            infer_graph(region)


def _infer_loop(node: Node) -> None:
    """Carried types are the join of what enters and what the body returns, found by repeating."""
    body, carried = node.regions[0], [v.type if v is not None else None for v in node.operands[2:]]
    for i, t in enumerate((TensorType(I64, ()), TensorType(BOOL, ()))):
        if i < len(body.inputs):
            body.inputs[i].type = t
    _fixed_point(body, body.inputs[2:], carried, lambda: [o.type for o in body.outputs[1 : 1 + len(carried)]])


def _infer_scan(node: Node) -> None:
    body, n = node.regions[0], node.attr("num_scan_inputs")
    operands = [v.type if v is not None else None for v in node.operands]
    if node.attr("batched"):  # sequence_lens, then operands whose axis 0 is the batch
        operands = [_without(t, 0) for t in operands[1:]]
    if not 0 < n <= len(operands):
        return  # the operator's own inference says so
    state = operands[: len(operands) - n]
    axes = node.attr("scan_input_axes") or (0,) * n
    for t, inp, axis in zip(operands[len(state) :], body.inputs[len(state) :], axes):
        inp.type = _without(t, axis)
    _fixed_point(body, body.inputs[: len(state)], state, lambda: [o.type for o in body.outputs[: len(state)]])


def _without(t: Type | None, axis: int) -> Type | None:
    """The type of one slice along `axis`."""
    if not isinstance(t, TensorType) or not t.shape:
        return t
    return t.with_(shape=tuple(d for i, d in enumerate(t.shape) if i != axis % len(t.shape)), layout=None)


def _infer_sequence_map(node: Node) -> None:
    """The body is given elements of sequences, whose sizes may differ from one to the next, and tensors as they are."""
    (body,) = node.regions
    for v, inp in zip(node.operands, body.inputs):
        t = v.type if v is not None else None
        if not isinstance(t, SequenceType):
            inp.type = t
        elif isinstance(t.elem, TensorType) and t.elem.shape is not None:
            sizes = enumerate(t.elem.shape)
            inp.type = t.elem.with_(shape=tuple(d if isinstance(d, int) else _named_dim(inp, i) for i, d in sizes))
        else:
            inp.type = t.elem
    infer_graph(body)


def _fixed_point(body: Graph, inputs: list[Value], first: list[Type | None], returned: Callable[[], list[Type | None]]) -> None:
    """Types the carried inputs so that they hold both what enters and what the body returns."""
    types = list(first)
    for round_ in range(MAX_ROUNDS):
        for v, t in zip(inputs, types):
            v.type = t
        infer_graph(body)
        joined = [join(a, b, v) for a, b, v in zip(types, returned(), inputs)]
        if joined == types:
            return
        if round_ == MAX_ROUNDS - 2:  # still changing: the rank itself may change
            joined = [t.with_(shape=None) if isinstance(t, TensorType) and t != old else t for t, old in zip(joined, types)]
        types = joined


def join(a: Type | None, b: Type | None, carried: Value) -> Type | None:
    """The narrowest type that holds both. Dims that differ become symbols named after the carried value and the axis."""
    if a is None or b is None or a == b:
        return b if a is None else a
    if isinstance(a, TensorType) and isinstance(b, TensorType) and a.dtype is b.dtype:
        if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
            return TensorType(a.dtype, None)
        pairs = enumerate(zip(a.shape, b.shape))
        return TensorType(a.dtype, tuple(x if x == y else _named_dim(carried, i) for i, (x, y) in pairs))
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        elem = join(a.elem, b.elem, carried)
        return SequenceType(elem) if elem is not None else None
    if isinstance(a, OptionalType) or isinstance(b, OptionalType):
        elem = join(a.elem if isinstance(a, OptionalType) else a, b.elem if isinstance(b, OptionalType) else b, carried)
        return OptionalType(elem) if elem is not None else None
    return None


def _named_dim(v: Value, axis: int) -> Dim:
    assert v.graph is not None
    module, name = v.graph.module, f"{v.name}.{axis}"
    known = module.symbols.get(name)
    return Dim.of(known if known is not None else module.fresh_symbol(name))


def input_symbols(module: Module) -> set[str]:
    """The names of symbols that a run binds when it is given its inputs: those that are the whole size of some axis."""
    dims = (d for v in module.main.inputs if isinstance(v.type, TensorType) for d in v.type.shape or ())
    return {s.name for s in map(as_symbol, dims) if s is not None}
