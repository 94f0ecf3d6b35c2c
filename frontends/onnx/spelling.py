"""One node of the IR as the ONNX node that means the same at a chosen opset.

The operator's records (`ir.op.Onnx`) say how it is spelled in its newest form. An older form is found by the schema of that opset:
what is an operand today may have been an attribute. Nothing that was found is believed before it was read back as the reader does
(`Onnx.before`, `adapt`) and gave the same operands and attributes: an older opset whose operator means something else is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx

from ...ir.core import Constant, Node, Value
from ...ir.limits import DEFAULT_LIMITS
from ...ir.op import REQUIRED, Onnx, OnnxCall
from ...ir.types import DType, TensorType, dtype_of
from . import opaque
from .attributes import decode, schema
from .encode import CODES, attribute_proto, type_text

OLDEST = 7  # before it operators broadcast by attributes, and runtimes no longer read such models
_EVER = (1 << 31) - 1
Single = onnx.defs.OpSchema.FormalParameterOption.Single
_ATTRIBUTE_OF = {"constant_value": "value"}  # operands that were attributes of another name


class NoSpelling(ValueError):
    """The node has no form at this opset."""


@dataclass(slots=True)
class Spelling:
    """An ONNX node without the names of its values. Inputs that are in no module are constants made for this node."""

    op_type: str
    domain: str
    inputs: list[Value | None]
    attributes: list[onnx.AttributeProto]

    def node(self, inputs: Sequence[str], outputs: Sequence[str], name: str = "") -> onnx.NodeProto:
        out = onnx.NodeProto(op_type=self.op_type, domain=self.domain, name=name, input=inputs, output=outputs)
        out.attribute.extend(self.attributes)
        return out


def spell(node: Node, opsets: Mapping[str, int]) -> Spelling:
    """The node's ONNX form where the domains have these versions; regions are left to the caller. Raises NoSpelling."""
    if node.op.has("opaque"):
        return _opaque(node, opsets)
    reason: ValueError | None = None
    for form in node.op.onnx:
        try:
            return _by_form(node, form, opsets)
        except ValueError as e:
            reason = reason or e
    raise NoSpelling(str(reason) if reason is not None else f"{node.op.name} is an operator of the IR alone, without an ONNX form")


def version_of(domain: str, opsets: Mapping[str, int]) -> int:
    """The version of a domain; 1 of one that nobody names."""
    return opsets.get(domain, 1)


def _opaque(node: Node, opsets: Mapping[str, int]) -> Spelling:
    domain, op_type = opaque.split(node.op.name)
    version = version_of(domain, opsets)
    s = _schema(op_type, domain, version)
    if s is None or s.since_version != node.attr("opset"):
        raise NoSpelling(f"it has the meaning of opset {node.attr('opset')} of {op_type}, which opset {version} changed")
    attrs = {k: v for k, v in node.attrs.items() if k not in opaque.OWN}
    return Spelling(op_type, domain, list(node.operands), _protos(attrs, s))


@lru_cache(maxsize=4096)
def _schema(op_type: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    """The schema at a version, None for an operator of a domain that ONNX does not define. Raises NoSpelling where ONNX has the
    operator in other versions only."""
    s = schema(domain, op_type, version)
    if s is not None and not s.deprecated:
        return s
    since = sorted(x.since_version for x in _history() if (x.name, x.domain) == (op_type, domain))
    if not since:
        return None
    if s is None:
        raise NoSpelling(f"{op_type} is new in opset {since[0]}{f' of {domain}' if domain else ''}")
    raise NoSpelling(f"{op_type} was removed from ONNX in opset {s.since_version}{f' of {domain}' if domain else ''}")


@lru_cache(maxsize=1)
def _history() -> list[onnx.defs.OpSchema]:
    return onnx.defs.get_all_schemas_with_history()


# ---- by the operator's record -----------------------------------------------------------------------------------


def _by_form(node: Node, form: Onnx, opsets: Mapping[str, int]) -> Spelling:
    version = version_of(form.domain, opsets)
    s = _schema(form.op_type, form.domain, version)
    if version < form.since:
        raise NoSpelling(f"{form.op_type} is read from opset {form.since} on")
    attrs = {k: v for k, v in node.all_attrs().items() if v is not None}
    call = _call(form, version, node, list(node.operands), attrs)
    if form.export is not None:
        form.export(call)
    back = {ours: theirs for theirs, ours in form.rename.items()}
    written = {back.get(k, k): CODES[v] if isinstance(v, DType) else v for k, v in call.attrs.items()}
    reason: ValueError | None = None
    for inputs, given in _candidates(node, s, _stripped(call.inputs), written):
        try:
            found = Spelling(form.op_type, form.domain, inputs, _protos(given, s))
            if s is not None:
                _check_schema(node, s, inputs, found.attributes)
            _check_meaning(node, form, version, found)
            return found
        except ValueError as e:
            reason = e
    assert reason is not None
    raise reason


def _call(form: Onnx, version: int, node: Node, inputs: list[Any], attrs: dict[str, Any]) -> OnnxCall:
    return OnnxCall(form.op_type, form.domain, version, node.name, inputs, attrs, max(len(node.results), 1), _const, _array, _rank,
                    _dtype)  # fmt: skip


def _const(array: np.ndarray) -> Value:
    array = np.asarray(array)
    return Value("const", TensorType(dtype_of(array), array.shape), const=Constant(array))


def _array(v: Value | None) -> np.ndarray | None:
    return None if v is None else v.array


def _rank(v: Value | None) -> int | None:
    return v.type.rank if v is not None and isinstance(v.type, TensorType) else None


def _dtype(v: Value | None) -> DType | None:
    return v.type.dtype if v is not None and isinstance(v.type, TensorType) else None


def _stripped(inputs: Sequence[Value | None]) -> list[Value | None]:
    out = list(inputs)
    while out and out[-1] is None:
        out.pop()
    return out


def _candidates(node: Node, s: onnx.defs.OpSchema | None, inputs: list[Value | None],
                attrs: dict[str, Any]) -> Iterator[tuple[list[Value | None], dict[str, Any]]]:  # fmt: skip
    """Ways in which the node may be written: as it is, and with the operands that the schema has under their names, the others
    moved to the attributes that it has in their place."""
    yield inputs, attrs
    if s is None:
        return
    if any(o.variadic for o in node.op.operands) or len(inputs) > len(node.op.operands):
        return
    places, given, moved = {p.name.lower(): i for i, p in enumerate(s.inputs)}, dict(attrs), [None] * len(s.inputs)
    for i, v in enumerate(inputs):
        if v is None:
            continue
        names = _operand_names(node, s, i)
        place = next((places[n] for n in names if n in places), None)
        attribute = next((n for n in names if n in s.attributes), None)
        if place is not None:
            moved[place] = v  # type: ignore[call-overload]
        elif attribute is not None:
            given[attribute] = _as_attribute(v, attribute, s)
        else:
            raise NoSpelling(f"in this opset {s.name} has no operand {names[0]}")
    yield _stripped(moved), given


def _operand_names(node: Node, s: onnx.defs.OpSchema, i: int) -> list[str]:
    """What operand i is called: in the record, in the newest schema, and as the attribute that it was."""
    newest = schema(s.domain, s.name, _EVER)
    names = [node.op.operands[i].name.lower()]
    if newest is not None and i < len(newest.inputs):
        names.append(newest.inputs[i].name.lower())
    return names + [_ATTRIBUTE_OF[n] for n in names if n in _ATTRIBUTE_OF]


def _as_attribute(v: Value, name: str, s: onnx.defs.OpSchema) -> Any:
    """The contents of an operand that the opset has as an attribute."""
    array, one = v.array, s.attributes[name].type in (onnx.defs.OpSchema.AttrType.INT, onnx.defs.OpSchema.AttrType.FLOAT)
    if array is None:
        raise NoSpelling(f"in this opset {name} is an attribute of {s.name}, and the operand is no constant")
    if one and array.size != 1:
        raise NoSpelling(f"in this opset {name} is an attribute of {s.name} that holds one number")
    return array.item() if one else tuple(array.ravel().tolist())


def _protos(attrs: Mapping[str, Any], s: onnx.defs.OpSchema | None) -> list[onnx.AttributeProto]:
    """The attributes that the schema has and whose values are not its defaults. What is dropped is found out by reading back."""
    out = []
    for name in sorted(attrs):
        if s is None:
            if attrs[name] != ():
                out.append(attribute_proto(name, attrs[name], None))
        elif name in s.attributes:
            a = attribute_proto(name, attrs[name], int(s.attributes[name].type))  # type: ignore[call-overload]
            default = s.attributes[name].default_value
            if not default.type or a.SerializeToString() != _named(default, name):
                out.append(a)
    return out


def _named(a: onnx.AttributeProto, name: str) -> bytes:
    """The bytes of a schema's default without its documentation."""
    plain = onnx.AttributeProto()
    plain.CopyFrom(a)
    plain.name = name
    plain.ClearField("doc_string")
    return plain.SerializeToString()


# ---- checks -----------------------------------------------------------------------------------------------------


def _check_schema(node: Node, s: onnx.defs.OpSchema, inputs: list[Value | None], attributes: list[onnx.AttributeProto]) -> None:
    """Raises NoSpelling where the schema wants other operands, attributes, results or element types."""
    given = {a.name for a in attributes}
    missing = [n for n, a in s.attributes.items() if a.required and n not in given and n not in node.op.regions]
    if missing:
        raise NoSpelling(f"opset {s.since_version} of {s.name} needs the attribute {missing[0]}")
    if not s.min_input <= len(inputs) <= s.max_input or len(node.results) > s.max_output:
        raise NoSpelling(f"it has {len(inputs)} operands and {len(node.results)} results; the opset's {s.name} takes {s.min_input} "
                         f"to {s.max_input} and makes at most {s.max_output}")  # fmt: skip
    bound: dict[str, str] = {}
    for values, params in ((inputs, s.inputs), (node.results, s.outputs)):
        for i, v in enumerate(values):
            p = params[min(i, len(params) - 1)]
            if v is None and p.option is Single:
                raise NoSpelling(f"its operand {p.name} is left out, which this opset's {s.name} needs")
            if v is not None and v.type is not None:
                _check_type(s, p, type_text(v.type), bound)


def _check_type(s: onnx.defs.OpSchema, p: onnx.defs.OpSchema.FormalParameter, found: str, bound: dict[str, str]) -> None:
    if found not in p.types:
        raise NoSpelling(f"{s.name} takes no {found} for {p.name} in this opset")
    if p.is_homogeneous and bound.setdefault(p.type_str, found) != found:
        raise NoSpelling(f"{s.name} wants one type for {p.type_str} in this opset, and is given {bound[p.type_str]} and {found}")


def _check_meaning(node: Node, form: Onnx, version: int, found: Spelling) -> None:
    """Raises NoSpelling unless the reader makes the same node of what was found."""
    attrs = {a.name: decode(a, DEFAULT_LIMITS, None) for a in found.attributes}
    call = _call(form, version, node, list(found.inputs), attrs)
    for newer in sorted(form.before):
        if newer > version:
            form.before[newer](call)
    if form.adapt is not None:
        form.adapt(call)
    inputs, wanted = _stripped(call.inputs), _stripped(node.operands)
    if len(inputs) != len(wanted) or not all(map(_same_operand, inputs, wanted)):
        raise NoSpelling(f"opset {version} has no such operands of {form.op_type}")
    read = {form.rename.get(k, k): v for k, v in call.attrs.items()}
    for name in {*read, *node.attrs}:
        default = node.op.attrs[name].default if name in node.op.attrs else REQUIRED
        if not _same(read.get(name, default), node.attrs.get(name, default)):
            raise NoSpelling(f"opset {version} of {form.op_type} cannot say {name} = {node.attrs.get(name, default)!r}")


def _same_operand(a: Value | None, b: Value | None) -> bool:
    if a is b or a is None or b is None:
        return a is b
    x, y = a.array, b.array
    if x is None or y is None:
        return False
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":  # an axis given as a scalar, a list, 32 or 64 bits is one axis
        return np.array_equal(x.ravel(), y.ravel())
    return x.dtype == y.dtype and x.shape == y.shape and _same(x, y)


def _same(a: Any, b: Any) -> bool:
    """Whether two values of an attribute are one in ONNX, which holds floats in 32 bits."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        bits = (lambda v: v.tolist()) if x.dtype == object else np.ndarray.tobytes
        return x.dtype == y.dtype and x.shape == y.shape and bits(x) == bits(y)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return a == b or (len(a) == len(b) and all(map(_same, a, b)))
    if isinstance(a, float) or isinstance(b, float):
        numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
        return numbers and np.array_equal(np.float32(a), np.float32(b), equal_nan=True)
    return a is b or a == b
