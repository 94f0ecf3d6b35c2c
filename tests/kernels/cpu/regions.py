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
    return apply_all(graph, name, *operands, **attrs)[0]


def apply_all(graph, name, *operands, results=1, **attrs):
    """A node of several results; `None` is an operand that is left out."""
    op = OPS[name]
    all_attrs = {k: a.default for k, a in op.attrs.items()} | attrs
    given = [[None if v is None else get(v) for v in operands] for get in (lambda v: v.type, lambda v: v.array)]
    t = op.infer(InferContext(op, given[0], all_attrs, results, given[1]))
    types = (t if isinstance(t, list) else [t])[:results]
    return graph.add(op, operands, attrs, names=[f"{name}{i}" for i in range(results)], types=types).results


def packed_attention(heads, kv, projections, *more, results=1, **attrs):
    """Attention of queries, keys and values that are columns: `projections` has (array, sizes of its parts) whose parts in turn are
    these; `more` are its other operands."""

    def build(body, inputs):
        arrays, parts = inputs[: len(projections)], []
        for x, (_, sizes) in zip(arrays, projections, strict=True):
            where = body.module.add_const("sizes", np.array(sizes, np.int64))
            parts += apply_all(body, "split", x, where, axis=-1, results=len(sizes)) if len(sizes) > 1 else [x]
        others = iter(inputs[len(projections) :])
        given = [None if x is None else next(others) for x in more]
        return apply_all(body, "attention", *parts[:3], *given, q_num_heads=heads, kv_num_heads=kv, results=results, **attrs)

    return fused(build, *(x for x, _ in projections), *(x for x in more if x is not None), kernel="attention")


def by_references(node: Node, arrays) -> list[np.ndarray]:
    """What the nodes of a region give, run in turn."""
    body = node.regions[0]
    values = dict(zip(body.inputs, arrays, strict=True))
    for n in body:
        operands = [None if v is None else v.array if v.is_const else values[v] for v in n.operands]
        values.update(zip(n.results, reference(n.op, operands, n.all_attrs(), len(n.results)), strict=True))
    return [np.asarray(values[v]) for v in body.outputs]
