"""Fused regions made by hand, and their results from the operators' references one by one."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
from graphmill.ir.core import Graph, Module, Node
from graphmill.ir.op import OPS, InferContext
from graphmill.ir.types import TensorType, dtype_of

from .harness import reference


def fused(build, *arrays, layout=None, constants=(), kernel="loops"):
    """A fused node whose body `build(graph, inputs)` makes; it returns the outputs."""
    module = Module()
    values = [module.add_const(f"c{i}", x) if i in constants else
              module.main.add_input(f"x{i}", TensorType(dtype_of(x), x.shape, layout if x.ndim == 4 else None))
              for i, x in enumerate(arrays)]  # fmt: skip
    body = Graph("body", module)
    inner = [body.add_input(f"i{i}", v.type) for i, v in enumerate(values)]
    body.set_outputs(build(body, inner))
    node = module.main.add(OPS["fused"], values, {"kernel": kernel}, names=[f"y{i}" for i in range(len(body.outputs))],
                           types=[v.type for v in body.outputs], regions=[body])  # fmt: skip
    module.main.set_outputs(node.results)
    return node


def apply(graph, name, *operands, **attrs):
    op = OPS[name]
    all_attrs = {k: a.default for k, a in op.attrs.items()} | attrs
    t = op.infer(InferContext(op, [v.type for v in operands], all_attrs, 1, [v.array for v in operands]))
    t = t[0] if isinstance(t, list) else t
    return graph.add(op, operands, attrs, names=[name], types=[t]).results[0]


def by_references(node: Node, arrays) -> list[np.ndarray]:
    """What the nodes of a region give, run in turn."""
    body = node.regions[0]
    values = dict(zip(body.inputs, arrays, strict=True))
    for n in body:
        operands = [None if v is None else v.array if v.is_const else values[v] for v in n.operands]
        values.update(zip(n.results, reference(n.op, operands, n.all_attrs(), len(n.results)), strict=True))
    return [np.asarray(values[v]) for v in body.outputs]
