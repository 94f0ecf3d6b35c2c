"""Opaque operators: ONNX operators without an entry in `ir/ops` that run through onnx.reference.

Such a node is named `onnx.<op_type>` or `<domain>.<op_type>`, has the ONNX attributes as they are, and two more: `opset`, the
opset whose meaning it has, and `outputs`, how many results it was asked for. Its OpDef is made when its name is first asked for,
so that text IR that holds one parses back once this module was imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from ...ir.op import OPS, Attr, InferContext, OnnxCall, OpDef, Operand
from ...ir.symbols import DimLike
from ...ir.types import ONNX_DTYPES, OptionalType, SequenceType, TensorType, Type
from . import reference
from .attributes import schema
from .declared import input_type, type_proto
from .problems import shown

OWN = ("opset", "outputs")  # the attributes that are not ONNX's
_SMALL = 1024  # elements of a constant operand that shape inference is shown


def name_of(domain: str, op_type: str) -> str:
    return f"{domain or 'onnx'}.{op_type}"


def split(name: str) -> tuple[str, str]:
    """(domain, op_type) of an opaque operator's name."""
    domain, _, op_type = name.rpartition(".")
    return ("" if domain == "onnx" else domain), op_type


def make(name: str) -> OpDef | None:
    """The opaque operator called `name`, None where onnx.reference has no implementation or the operator has regions."""
    domain, op_type = split(name)
    if name != name_of(domain, op_type) or (domain, op_type) not in reference.implemented():
        return None
    newest = schema(domain, op_type, _newest(domain))
    if newest is None or any(a.type == onnx.defs.OpSchema.AttrType.GRAPH for a in newest.attributes.values()):
        return None

    def infer(c: InferContext) -> Sequence[Type | None]:
        return _infer(c, domain, op_type)

    def run(*operands: Any, opset: int, outputs: int, **attrs: Any) -> tuple[Any, ...]:
        return reference.run(domain, op_type, opset, attrs, operands, outputs)

    traits = {"opaque", "host"} | ({"random"} if reference.is_random(domain, op_type, _newest(domain)) else set())
    return OpDef(name, run, infer, (Operand("inputs", variadic=True),), {"opset": Attr(), "outputs": Attr(1)},
                 f"ONNX {op_type}, by onnx.reference.", "opaque", traits=frozenset(traits), results=None)  # fmt: skip


def prepare(call: OnnxCall) -> None:
    """Checks an ONNX node against its schema and gives it the attributes of the IR's opaque node. Raises ValueError."""
    s = schema(call.domain, call.op_type, call.opset)
    assert s is not None
    unknown = sorted(set(call.attrs) - set(s.attributes))
    missing = sorted(name for name, a in s.attributes.items() if a.required and name not in call.attrs)
    if unknown or missing:
        wrong = f"{unknown[0]} is unknown" if unknown else f"{missing[0]} is missing"
        raise ValueError(f"the attribute {shown(wrong)}; expected only {', '.join(sorted(s.attributes)) or 'none'}")
    if not s.min_input <= len(call.inputs) <= s.max_input or call.n_outputs > s.max_output:
        raise ValueError(
            f"it has {len(call.inputs)} inputs and {call.n_outputs} outputs; "
            f"expected {s.min_input} to {s.max_input} inputs and at most {s.max_output} outputs"
        )
    call.attrs |= {"opset": s.since_version, "outputs": call.n_outputs}


def _newest(domain: str) -> int:
    return onnx.defs.onnx_opset_version() if domain == "" else (1 << 31) - 1


def _infer(c: InferContext, domain: str, op_type: str) -> list[Type | None]:
    """Types by onnx.shape_inference on the one node; what it leaves open becomes symbols, or a type without a shape."""
    opset, count = c.attr("opset"), c.attr("outputs")
    attrs = {k: v for k, v in c.attrs.items() if k not in OWN}
    node = reference.make_node(domain, op_type, opset, attrs, [c.has(i) for i in range(len(c.types))], count)
    names: dict[DimLike, str] = {}
    graph = onnx.GraphProto(name="node", node=[node])
    for i, t in enumerate(c.types):
        if c.has(i):
            graph.input.append(onnx.ValueInfoProto(name=f"x{i}", type=type_proto(t, names)))
            data = c.data(i)
            if data is not None and data.dtype != object and data.size <= _SMALL:
                graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), f"x{i}"))
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in node.output)
    model = onnx.ModelProto(ir_version=onnx.IR_VERSION, graph=graph, opset_import=reference.imports(domain, opset))
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as e:
        raise c.error(str(e).strip()) from e
    dims = {name: d for d, name in names.items()}
    found = {o.name: _from_proto(o.type, dims, c) for o in inferred.graph.output}
    return [found.get(f"y{i}") or _by_constraint(c, domain, op_type, opset, i) for i in range(count)]


def _from_proto(t: onnx.TypeProto, dims: dict[str, DimLike], c: InferContext) -> Type | None:
    def dim(d: onnx.TensorShapeProto.Dimension, owner: str) -> DimLike:
        if d.HasField("dim_value"):
            return d.dim_value
        if d.dim_param not in dims:
            return c.symbol()
        return dims[d.dim_param]

    if t.WhichOneof("value") == "tensor_type" and not t.tensor_type.elem_type:
        return None
    return input_type(t, "y", dim)


def _by_constraint(c: InferContext, domain: str, op_type: str, opset: int, i: int) -> Type | None:
    """The type of result i without a shape, where the schema's type constraints leave only one."""
    s = schema(domain, op_type, opset)
    if s is None or i >= len(s.outputs):
        return None
    kind = s.outputs[i].type_str
    for p, t in zip(s.inputs, c.types):
        if p.type_str == kind and t is not None:
            return _unshaped(t)
    allowed = next((p.allowed_type_strs for p in s.type_constraints if p.type_param_str == kind), [kind])
    code = (
        onnx.TensorProto.DataType.get(allowed[0].removeprefix("tensor(").removesuffix(")").upper()) if len(allowed) == 1 else None
    )
    return None if code is None else TensorType(ONNX_DTYPES[code], None)


def _unshaped(t: Type) -> Type:
    if isinstance(t, TensorType):
        return TensorType(t.dtype, None)
    if isinstance(t, SequenceType):
        return SequenceType(_unshaped(t.elem))
    return OptionalType(_unshaped(t.elem)) if isinstance(t, OptionalType) else t


OPS.resolvers.append(make)
