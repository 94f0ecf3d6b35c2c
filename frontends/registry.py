"""Converters: functions that bring a foreign operator into the IR as several IR nodes.

    @converter("com.example", "ScaledAdd")
    def scaled_add(b, call):
        x, y = call.inputs
        return b.op("add", b.op("mul", x, b.const(np.float32(call.attrs.get("alpha", 1.0)))), y)

A user's converter goes before everything that is built in; it needs no knowledge of the ONNX protobuf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..ir.core import Graph, Value
from ..ir.errors import IRError
from ..ir.op import OPS, OnnxCall

Converter = Callable[["Builder", OnnxCall], "Value | Sequence[Value]"]

_CONVERTERS: dict[tuple[str, str], Converter] = {}


class Builder:
    """Emits IR nodes at the end of a graph. They are named `<base>.<operator>` and carry the foreign node's location."""

    def __init__(self, graph: Graph, base: str, locs: Sequence[str] = ()):
        self.graph, self._base, self._locs = graph, base, tuple(locs)
        self.made: set[Value] = set()  # the results of all nodes emitted here

    def op(self, name: str, *operands: Any, n_results: int | None = None, **attrs: Any) -> Any:
        """A node of the IR operator `name`; returns its result, or a tuple where it has several (`n_results` where the
        operator leaves open how many). Operands are Values, None (left out) or numpy arrays and scalars (constants)."""
        d = OPS[name]
        count = n_results if n_results is not None else d.results
        if count is None:
            raise IRError(f"{name} leaves the number of its results open; give n_results")
        values = [x if x is None or isinstance(x, Value) else self.const(x) for x in operands]
        names = [f"{self._base}.{name}" if count == 1 else f"{self._base}.{name}.{i}" for i in range(count)]
        node = self.graph.add(d, values, attrs, names=names, locs=self._locs)
        self.made.update(node.results)
        return node.result if count == 1 else tuple(node.results)

    def const(self, array: Any) -> Value:
        """A constant of the module."""
        return self.graph.module.add_const(f"{self._base}.const", np.asarray(array))


def converter(domain: str, op_type: str) -> Callable[[Converter], Converter]:
    """Registers `fn(builder, call)`, which returns the Values of the node's outputs, as the way to import an operator.

    `call` is an `ir.op.OnnxCall`: its inputs are Values (None where left out), its attributes plain Python values. The last
    registration of an operator counts.
    """

    def register(fn: Converter) -> Converter:
        _CONVERTERS[_key(domain, op_type)] = fn
        return fn

    return register


def find(domain: str, op_type: str) -> Converter | None:
    """The converter of an operator, None where there is none."""
    return _CONVERTERS.get(_key(domain, op_type))


def unregister(domain: str, op_type: str) -> None:
    """Forgets a converter."""
    del _CONVERTERS[_key(domain, op_type)]


def registered() -> Iterable[tuple[str, str]]:
    """(domain, operator) of every converter."""
    return sorted(_CONVERTERS)


def _key(domain: str, op_type: str) -> tuple[str, str]:
    return ("" if domain == "ai.onnx" else domain), op_type
