"""The numpy reference interpreter over the IR: oracle, constant folder and core of the debugger.

A value at run time is an ndarray (tensor, in its logical axis order), a list (sequence), a dict (map) or None (absent optional).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .core import Graph, Module, Node, Value
from .errors import GraphmillError, RunError, UnsupportedError
from .limits import DEFAULT_LIMITS, Budget, Limits, nbytes_of
from .symbols import as_symbol, evaluate, symbols_of
from .types import TensorType, Type, type_of

Hook = Callable[[Node, list[Any], list[Any]], None]


@dataclass
class Env:
    """The values of a graph while it runs, and the symbols whose sizes are known by now."""

    values: dict[Value, Any] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)

    def put(self, v: Value, x: Any) -> None:
        self.values[v] = x
        bind_symbols(v.type, x, self.symbols)


def bind_symbols(t: Type | None, x: Any, symbols: dict[str, int]) -> None:
    """Takes the value of every dim of an array's type that is one symbol and not bound yet."""
    if isinstance(t, TensorType) and hasattr(x, "shape"):
        bind_dims(t, x.shape, symbols)


def bind_dims(t: TensorType, shape: Sequence[int], symbols: dict[str, int]) -> None:
    """`bind_symbols` for a tensor of which only the shape is known."""
    if t.shape is not None and len(t.shape) == len(shape):
        for d, n in zip(t.shape, shape):
            s = None if isinstance(d, int) else as_symbol(d)
            if s is not None and s.name not in symbols:
                symbols[s.name] = n


def run(module: Module, inputs: Mapping[str, Any], limits: Limits = DEFAULT_LIMITS, hook: Hook | None = None) -> dict[str, Any]:
    """Runs the main graph on `inputs` (by name) and returns its outputs by name, in order.

    `hook(node, operands, results)` is called after every node. Raises RunError naming the node that failed.
    """
    graph = module.main
    env = Env()
    for v in graph.inputs:
        env.put(v, inputs[v.name])
    fed = sum(map(nbytes_of, env.values.values()))
    budget = Budget(limits, constant_bytes(module) + fed, fed)
    return dict(zip(output_names(module), run_graph(graph, env, budget, hook), strict=True))


def constant_bytes(module: Module) -> int:
    """The bytes of all constants, by their types: no weight is read for it. Constants that the file held as sparse do not count.
    Tables that a node holds (the trees of an ensemble) are constants too: a byte an entry, which a file spends at least."""
    tensors = [v.type for v in module.consts.values() if isinstance(v.type, TensorType) and v.type.is_static]
    total: int = sum(math.prod(t.shape or ()) * t.dtype.itemsize for t in tensors)  # type: ignore[assignment, misc]
    tables = sum(len(v) for n in module.walk() for v in n.attrs.values() if isinstance(v, tuple))
    return max(0, total - module.dense_bytes) + tables


def output_names(module: Module) -> list[str]:
    """The names under which the main graph's outputs are returned: the model's own, kept apart from value names."""
    return list(module.output_names or [v.name for v in module.main.outputs])


def run_graph(graph: Graph, env: Env, budget: Budget, hook: Hook | None = None) -> list[Any]:
    """Runs one graph whose inputs and captured values stand in `env`; returns its outputs."""
    last_use = last_readers(graph)
    for node in graph:
        operands = [None if v is None else lookup(v, env) for v in node.operands]
        results = run_node(node, operands, env, budget, hook)
        if hook is not None:
            hook(node, operands, results)
        for v, x in zip(node.results, results, strict=True):
            env.put(v, x)
        for v in last_use.get(node, ()):
            env.values.pop(v, None)
    return [lookup(v, env) for v in graph.outputs]


def last_readers(graph: Graph) -> dict[Node, list[Value]]:
    """Values of this graph that nobody reads after the given node (those that regions read count as read by their node)."""
    last: dict[Value, Node] = {}
    for node in graph:
        for v in [*node.operands, *(node.captures() if node.regions else ()), *node.results]:
            if v is not None and v.graph is graph:
                last[v] = node
    out: dict[Node, list[Value]] = {}
    keep = set(graph.outputs)
    for v, node in last.items():
        if v not in keep:
            out.setdefault(node, []).append(v)
    return out


def lookup(v: Value, env: Env) -> Any:
    return v.array if v.is_const else env.values[v]


def run_node(node: Node, operands: Sequence[Any], env: Env | None, budget: Budget, hook: Hook | None = None) -> list[Any]:
    """The results of one node by its reference. Errors are wrapped in a RunError that names the node."""
    if node.op.name == "dims" and env is not None:
        return [sizes(node, env.symbols)]
    if node.op.reference is None:
        raise UnsupportedError(f"{where(node)}: {node.op.name} has no reference implementation")
    attrs = node.all_attrs()
    for name, region in zip(node.op.regions, node.regions):
        attrs[name] = _callable(region, env or Env(), budget, hook)
    try:
        budget.check_time(where(node))
        if node.op.has("control"):
            attrs["budget"] = budget
        with np.errstate(all="ignore"), budget.watching(where(node)):
            out = node.op.reference(*operands, **attrs)
    except GraphmillError:
        raise
    except (MemoryError, RecursionError) as e:
        raise RunError(f"{where(node)}: {type(e).__name__}: {e}") from e
    except Exception as e:
        kinds = ["none" if x is None else str(type_of(x)) if isinstance(x, np.ndarray) else type(x).__name__ for x in operands]
        raise RunError(f"{where(node)} on ({', '.join(kinds)}): {type(e).__name__}: {e}") from e
    results = list(out) if isinstance(out, tuple) else [out]
    return [settle(r, v) for r, v in zip(results[: len(node.results)], node.results, strict=True)]


def settle(result: Any, value: Value) -> Any:
    """numpy scalars become arrays; a wrong element type is an error of the reference, found here and not three nodes later."""
    if result is None or isinstance(result, (list, dict)):
        return result
    a = np.asarray(result)
    if isinstance(value.type, TensorType) and a.dtype != value.type.dtype.np:
        raise RunError(f"%{value.name}: the reference returned {a.dtype}, expected {value.type.dtype}")
    return a


def _callable(region: Graph, env: Env, budget: Budget, hook: Hook | None) -> Callable[..., tuple]:
    def call(*args: Any) -> tuple:
        inner = Env(dict(env.values), region_symbols(region, env.symbols))
        for v, x in zip(region.inputs, args, strict=True):
            inner.put(v, x)
        return tuple(run_graph(region, inner, budget, hook))

    call.types = tuple(v.type for v in region.outputs)  # type: ignore[attr-defined]  # a loop without iterations needs them
    return call


def region_symbols(region: Graph, known: Mapping[str, int]) -> dict[str, int]:
    """The symbols known inside a region: those of its own inputs have new values at every call."""
    own = {s.name for v in region.inputs if isinstance(v.type, TensorType) for d in v.type.shape or () for s in symbols_of(d)}
    return {k: n for k, n in known.items() if k not in own}


def sizes(node: Node, symbols: Mapping[str, int]) -> np.ndarray:
    """What `dims` stands for, with the symbols' values."""
    try:
        a = np.array([evaluate(d, symbols) for d in node.attr("value")], node.attr("dtype").np)
    except OverflowError:
        raise RunError(f"{where(node)}: a product or sum of sizes does not fit into {node.attr('dtype')}") from None
    return a.reshape(()) if node.attr("scalar") else a


def where(node: Node) -> str:
    """How messages call a node: its ONNX names if it has any, and its operator."""
    return f"node {'+'.join(node.locs) or '%' + node.name} ({node.op.name})"
