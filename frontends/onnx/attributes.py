"""AttributeProto to plain Python values, checked against the operator's ONNX schema where there is one."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto as A

from ...ir.errors import HostileModelError
from ...ir.limits import Limits
from .declared import input_type
from .tensors import decode_string, read_sparse, read_tensor

_NAMES = {v: k for k, v in A.AttributeType.items()}
# Where AttributeProto keeps the value of each type; before IR version 4 the type could be left out.
_FIELDS = {
    A.FLOAT: "f", A.INT: "i", A.STRING: "s", A.TENSOR: "t", A.GRAPH: "g", A.SPARSE_TENSOR: "sparse_tensor",
    A.TYPE_PROTO: "tp", A.FLOATS: "floats", A.INTS: "ints", A.STRINGS: "strings", A.TENSORS: "tensors", A.GRAPHS: "graphs",
}  # fmt: skip


def attribute_type(a: onnx.AttributeProto) -> int:
    """The type of an attribute's value. Raises HostileModelError where it is unknown or the value is of another type."""
    found = [
        t for t, field in _FIELDS.items() if (len(getattr(a, field)) if field.endswith("s") and field != "s" else a.HasField(field))
    ]
    if a.type == A.UNDEFINED:
        if len(found) != 1:
            raise HostileModelError("the attribute says neither its type nor one value; expected `type` to be set")
        return found[0]
    if a.type not in _FIELDS:
        raise HostileModelError(f"attributes of type {_NAMES.get(a.type, a.type)} are not supported")
    if any(t != a.type for t in found):
        raise HostileModelError(f"the attribute is of type {_NAMES[a.type]} but holds a value of type {_NAMES[found[0]]}")
    return a.type


def decode(a: onnx.AttributeProto, limits: Limits, folder: Path | None) -> Any:
    """int, float, str, array, a tuple of one of these, or an IR type; graphs are the caller's. Raises GraphmillError."""
    kind = attribute_type(a)
    if kind == A.FLOAT:
        return a.f
    if kind == A.INT:
        return a.i
    if kind == A.STRING:
        return decode_string(a.s)
    if kind == A.INTS:
        return tuple(a.ints)
    if kind == A.FLOATS:
        return tuple(a.floats)
    if kind == A.STRINGS:
        return tuple(decode_string(s) for s in a.strings)
    if kind == A.TENSOR:
        return read_tensor(a.t, limits, folder)[0].array
    if kind == A.TENSORS:
        return tuple(read_tensor(t, limits, folder)[0].array for t in a.tensors)
    if kind == A.SPARSE_TENSOR:
        return read_sparse(a.sparse_tensor, limits, folder)[0].array
    if kind == A.TYPE_PROTO:
        return input_type(a.tp, a.name, lambda d, owner: d.dim_value)
    raise HostileModelError(f"attributes of type {_NAMES[kind]} are not supported")


@lru_cache(maxsize=4096)
def schema(domain: str, op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """The ONNX schema of an operator at an opset, None where ONNX defines none."""
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None


@lru_cache(maxsize=4096)
def schema_types(domain: str, op_type: str, opset: int) -> dict[str, int]:
    """The types of an operator's attributes by name; empty where ONNX defines no such operator."""
    s = schema(domain, op_type, opset)
    return {} if s is None else {name: int(a.type) for name, a in s.attributes.items()}  # type: ignore[call-overload]


def check_type(a: onnx.AttributeProto, expected: int | None) -> None:
    """Raises HostileModelError where the attribute's type is not the schema's."""
    kind = attribute_type(a)
    if expected is not None and kind != expected:
        raise HostileModelError(f"the attribute is of type {_NAMES[kind]}, expected {_NAMES[expected]}")
