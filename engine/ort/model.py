"""What a session tells of its model: inputs and outputs as onnxruntime prints them, metadata, the sizes that options fix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from ...frontends.onnx.declared import input_type
from ...frontends.onnx.protobuf import load
from ...ir.core import Module
from ...ir.errors import HostileModelError
from ...ir.types import OptionalType, TensorType, Type
from .errors import InvalidArgument
from .options import SessionOptions
from .values import type_name

Shape = list[Any]


@dataclass(frozen=True, repr=False)
class NodeArg:
    """An input or output: a dim is an int, the name of a symbolic one, or None where nothing is known of it."""

    name: str
    type: str
    shape: Shape

    def __repr__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape})"


@dataclass(frozen=True)
class ModelMetadata:
    """What the model says of itself."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


def metadata(proto: onnx.ModelProto) -> ModelMetadata:
    return ModelMetadata(proto.producer_name, proto.graph.name, proto.domain, proto.doc_string, proto.graph.doc_string,
                         proto.model_version, {p.key: p.value for p in proto.metadata_props})  # fmt: skip


def fixed_dims(graph: onnx.GraphProto, options: SessionOptions) -> dict[str, int]:
    """The sizes that the options give to symbolic dims of the inputs, by the names that `compile(shapes=)` knows them by."""
    fixed: dict[str, int] = {}
    for v in graph.input:
        for axis, d in enumerate(v.type.tensor_type.shape.dim):
            if d.HasField("dim_value"):
                continue
            if d.dim_param in options._dims and d.dim_param:
                fixed[d.dim_param] = options._dims[d.dim_param]
            elif d.denotation in options._denotations and d.denotation:
                fixed[d.dim_param or f"{v.name}.{axis}"] = options._denotations[d.denotation]
    return fixed


def replaced(source: str | bytes, arrays: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model with these arrays in the place of its initializers. Raises InvalidArgument for a name that has none."""
    from ...frontends.onnx.encode import tensor_proto

    proto = onnx.ModelProto()
    proto.CopyFrom(onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source))
    places = {t.name: t for t in proto.graph.initializer}
    for name, array in arrays.items():
        if name not in places:
            raise InvalidArgument(
                f"an initializer was given for {name!r}, which the model does not have; it has {', '.join(places) or 'none'}"
            )
        places[name].CopyFrom(tensor_proto(name, array))
    return proto


def headers(source: str | bytes) -> onnx.ModelProto:
    """The model without the data of its large initializers. Raises what reading a model raises."""
    return load(source).proto


def inputs_of(proto: onnx.ModelProto, fixed: Mapping[str, int]) -> list[NodeArg]:
    """The inputs that have no initializer."""
    constants = {t.name for t in proto.graph.initializer} | {t.values.name for t in proto.graph.sparse_initializer}
    return [declared(v, fixed) for v in proto.graph.input if v.name not in constants]


def outputs_of(proto: onnx.ModelProto, module: Module, fixed: Mapping[str, int]) -> list[NodeArg]:
    """The outputs as the model declares them; where it declares no shape, the inferred one."""
    return [_merged(declared(v, fixed), v, inferred.type) for v, inferred in zip(proto.graph.output, module.main.outputs)]


def declared(v: onnx.ValueInfoProto, fixed: Mapping[str, int]) -> NodeArg:
    try:
        t: Type | None = input_type(v.type, v.name, lambda d, owner: 0)
    except (HostileModelError, TypeError, ValueError):
        t = None
    dims = _dims_of(v.type)
    shape = [d.dim_value if d.HasField("dim_value") else fixed.get(d.dim_param or f"{v.name}.{i}", d.dim_param or None)
             for i, d in enumerate(dims)]  # fmt: skip
    return NodeArg(v.name, type_name(t) if t is not None else "", [None if d == "?" else d for d in shape])


def _dims_of(t: onnx.TypeProto) -> Iterable[onnx.TensorShapeProto.Dimension]:
    if t.HasField("optional_type"):
        return _dims_of(t.optional_type.elem_type)
    return t.tensor_type.shape.dim


def _merged(arg: NodeArg, v: onnx.ValueInfoProto, inferred: Type | None) -> NodeArg:
    """What was declared, filled up with what was inferred."""
    if inferred is None:
        return arg
    arg = replace(arg, type=arg.type or type_name(inferred))
    t = inferred.elem if isinstance(inferred, OptionalType) else inferred
    if not isinstance(t, TensorType) or t.shape is None:
        return arg
    known = [d if isinstance(d, int) else None for d in t.shape]
    if not v.type.tensor_type.HasField("shape"):
        return replace(arg, shape=known)
    return replace(
        arg, shape=[d if k is None else k for d, k in zip(arg.shape, known)] if len(known) == len(arg.shape) else arg.shape
    )
