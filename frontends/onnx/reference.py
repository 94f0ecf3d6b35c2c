"""onnx.reference as the reference of operators that the IR has no entry of its own for: one node is run at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx

from ...ir.errors import UnsupportedError
from ...ir.types import STR, Type, dtype_of
from .attributes import schema, schema_types
from .declared import type_proto


@lru_cache(maxsize=1)
def implemented() -> frozenset[tuple[str, str]]:
    """(domain, operator) of everything that onnx.reference implements itself, functions that it would expand not among them."""
    from importlib import import_module

    packages = {
        "": "",
        "ai.onnx.ml": ".aionnxml",
        "ai.onnx.preview": ".aionnx_preview",
        "ai.onnx.preview.training": ".aionnx_preview_training",
    }
    return frozenset(
        (domain, op_type)
        for domain, package in packages.items()
        for op_type in import_module(f"onnx.reference.ops{package}._op_list")._build_registered_operators()
    )


def make_node(
    domain: str, op_type: str, opset: int, attrs: Mapping[str, Any], present: Sequence[bool], n_results: int
) -> onnx.NodeProto:
    """The ONNX node with inputs `x0`, `x1`, ... (empty where not present) and outputs `y0`, ..."""
    node = onnx.NodeProto(op_type=op_type, domain=domain)
    node.input.extend(f"x{i}" if p else "" for i, p in enumerate(present))
    node.output.extend(f"y{i}" for i in range(n_results))
    types = schema_types(domain, op_type, opset)
    for name in sorted(attrs):
        node.attribute.append(_attribute(name, attrs[name], types.get(name)))
    return node


def _attribute(name: str, value: Any, kind: int | None) -> onnx.AttributeProto:
    one = tuple(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
    return onnx.helper.make_attribute(name, one, attr_type=kind)


def _plain(value: Any) -> Any:
    """One value of an attribute as onnx.helper takes it."""
    if isinstance(value, np.ndarray):
        return onnx.numpy_helper.from_array(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return type_proto(value) if isinstance(value, Type) else value


def run(
    domain: str, op_type: str, opset: int, attrs: Mapping[str, Any], operands: Sequence[Any], n_results: int
) -> tuple[Any, ...]:
    """The results of one node. Tensors are arrays, sequences lists, absent optionals None.

    Raises UnsupportedError where onnx.reference declines, and whatever its implementation raises.
    """
    node = make_node(domain, op_type, opset, attrs, [x is not None for x in operands], n_results)
    try:
        evaluator = _evaluator(node.SerializeToString(deterministic=True), domain, opset)
    except (NotImplementedError, RuntimeError) as e:
        raise UnsupportedError(f"onnx.reference has no {op_type} for opset {opset}: {e}") from e
    feeds = {name: x for name, x in zip(node.input, operands) if name}
    return tuple(_settled(y) for y in evaluator.run(None, feeds))


def _settled(y: Any) -> Any:
    """onnx.reference's result as a value of the IR."""
    if y is None or isinstance(y, dict):
        return y
    if isinstance(y, (list, tuple)):
        return [_settled(x) for x in y]
    a = np.asarray(y)
    return a.astype(object) if dtype_of(a) is STR and a.dtype != object else a


@lru_cache(maxsize=512)
def _evaluator(node: bytes, domain: str, opset: int) -> Any:
    from onnx.reference import ReferenceEvaluator

    proto = onnx.NodeProto.FromString(node)
    graph = onnx.GraphProto(name="node", node=[proto])
    graph.input.extend(onnx.ValueInfoProto(name=n) for n in proto.input if n)
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in proto.output)
    return ReferenceEvaluator(onnx.ModelProto(ir_version=onnx.IR_VERSION, graph=graph, opset_import=imports(domain, opset)))


def imports(domain: str, opset: int) -> list[onnx.OperatorSetIdProto]:
    """The opset imports of a one-node model."""
    newest = [] if domain == "" else [onnx.helper.make_opsetid("", onnx.defs.onnx_opset_version())]
    return [*newest, onnx.helper.make_opsetid(domain, opset)]


def is_random(domain: str, op_type: str, opset: int) -> bool:
    """Whether the operator may give another result each time."""
    s = schema(domain, op_type, opset)
    if s is None:
        return False
    return s.node_determinism == s.NodeDeterminism.NonDeterministic  # type: ignore[attr-defined]  # missing in onnx's stub
