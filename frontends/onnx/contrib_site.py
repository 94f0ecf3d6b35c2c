"""How the converters of the domain com.microsoft are written: as functions whose parameters are the operator's.

    @contrib("BiasGelu")
    def bias_gelu(e, a, b):
        return e("gelu", e("add", a, b))

Parameters behind the first are inputs (annotated with None: may be left out; `*xs`: all the rest), keyword-only ones attributes
with their defaults. ONNX has no schemas for these operators, so that what a node gives is held against the signature alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.core import Value
from ...ir.op import OnnxCall
from ...ir.types import DType, Shape, TensorType
from ..registry import Builder, converter

MICROSOFT = "com.microsoft"


class Emitter:
    """Emits IR nodes (`e("add", x, y)`) and says what is known of values."""

    def __init__(self, builder: Builder, call: OnnxCall):
        self._builder, self._call = builder, call
        self.n_outputs, self.array = call.n_outputs, call.array

    def __call__(self, name: str, *operands: Any, **attrs: Any) -> Any:
        return self._builder.op(name, *operands, **attrs)

    def rank(self, v: Value, name: str) -> int:
        """Raises ValueError where the rank of the input `name` is not known."""
        rank = self._call.rank(v)
        if rank is None:
            raise ValueError(f"the rank of its input {name} is not known; expected a model whose inputs declare their ranks")
        return rank

    def shape(self, v: Value, name: str) -> Shape:
        self.rank(v, name)
        assert isinstance(v.type, TensorType) and v.type.shape is not None
        return v.type.shape

    def dtype(self, v: Value, name: str) -> DType:
        """Raises ValueError where the element type of the input `name` is not known."""
        d = self._call.dtype(v)
        if d is None:
            raise ValueError(f"the element type of its input {name} is not known; expected inputs of declared types")
        return d

    def number(self, value: float, like: Value, name: str) -> np.ndarray:
        """A scalar of the element type of the input `name`, `like`."""
        return np.asarray(value, self.dtype(like, name).np)

    def sizes(self, v: Value, axis: int) -> Value:
        """The size of one axis as i64[1]."""
        return self("shape", v, start=axis, end=axis + 1 or None)

    def swapped(self, v: Value, rank: int) -> Value:
        """The last two axes swapped."""
        return self("transpose", v, perm=(*range(rank - 2), rank - 1, rank - 2))


def only(name: str, value: Any, *expected: Any) -> None:
    """Raises ValueError unless the attribute has one of the values."""
    if value not in expected:
        raise ValueError(f"the attribute {name} = {value!r} is not supported; expected {' or '.join(map(repr, expected))}")


def absent(**inputs: Value | None) -> None:
    """Raises ValueError for an input that is given."""
    for name, v in inputs.items():
        if v is not None:
            raise ValueError(f"its input {name} is not supported; expected it to be left out")


def contrib(*op_types: str, domain: str = MICROSOFT) -> Callable[[Callable], Callable]:
    """Registers a function (see the module's text) as the converter of these operators."""

    def register(fn: Callable) -> Callable:
        def convert(builder: Builder, call: OnnxCall) -> list[Any]:
            inputs, attrs = _bound(fn, call)
            made = fn(Emitter(builder, call), *inputs, **attrs)
            results = [made] if isinstance(made, Value) else list(made)
            if call.n_outputs > len(results):
                raise ValueError(f"{call.n_outputs} outputs are asked for; expected at most {len(results)}")
            return results

        for op_type in op_types:
            converter(domain, op_type)(convert)
        return fn

    return register


def _bound(fn: Callable, call: OnnxCall) -> tuple[list[Value | None], dict[str, Any]]:
    """The inputs and attributes as `fn` takes them. Raises ValueError where they do not fit its signature."""
    params = list(inspect.signature(fn).parameters.values())[1:]
    attrs = {p.name: p.default for p in params if p.kind is p.KEYWORD_ONLY}
    params = [p for p in params if p.kind is not p.KEYWORD_ONLY]
    rest = bool(params) and params[-1].kind is params[-1].VAR_POSITIONAL
    inputs = list(call.inputs)
    if len(inputs) > len(params) and not rest:
        raise ValueError(f"{len(inputs)} inputs are given; expected at most {len(params)}")
    inputs += [None] * (len(params) - rest - len(inputs))
    for i, p in enumerate(params):
        if "None" not in str(p.annotation) and p.kind is not p.VAR_POSITIONAL and inputs[i] is None:
            raise ValueError(f"its input {i} ({p.name}) is missing; the operator needs it")
    for name, value in call.attrs.items():
        if name not in attrs:
            raise ValueError(f"the attribute {name} is not supported; expected only {', '.join(sorted(attrs)) or 'none'}")
        default = attrs[name]
        if default not in (None, inspect.Parameter.empty) and type(default) is not type(value):
            raise ValueError(f"the attribute {name} = {value!r} is of another type; expected one like {default!r}")
        attrs[name] = value
    missing = [name for name, value in attrs.items() if value is inspect.Parameter.empty]
    if missing:
        raise ValueError(f"the attribute {missing[0]} is missing; the operator needs it")
    return inputs, attrs
