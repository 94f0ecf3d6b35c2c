"""Precision: between nodes floats are kept in 16 bits, where that loses little.

Nodes that work (`WORKING`: products, convolutions, pools, normalizations) take and give f16 or bf16, and their kernels sum in f32;
weights are converted once. What only moves data or does light arithmetic (`FOLLOWING`) runs in 16 bits where one of its operands
has them already. All others, those whose results may be large, tiny or sums of many, see f32. Graphs keep the types of their
inputs and outputs, those of control flow too.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core import Graph, Module, Node, Value
from ..errors import InferenceError, IRError
from ..infer import infer_node
from ..op import OPS
from ..rewrite import DecisionLog
from ..types import BF16, F16, F32, DType, TensorType
from .manager import Context, register

WORKING = frozenset({
    "conv", "conv_transpose", "matmul", "gemm", "attention", "max_pool", "average_pool", "global_max_pool", "global_average_pool",
    "softmax", "log_softmax", "layer_norm", "rms_norm", "instance_norm", "group_norm", "batch_norm",
})  # fmt: skip
FOLLOWING = frozenset({
    "add", "sub", "mul", "neg", "abs", "relu", "leaky_relu", "prelu", "clip", "sigmoid", "tanh", "gelu", "erf", "elu", "selu",
    "celu", "hard_sigmoid", "hard_swish", "swish", "mish", "softplus", "softsign", "swiglu", "thresholded_relu", "max", "min",
    "where", "reduce_max", "reduce_min", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "concat", "split", "slice",
    "gather", "gather_elements", "gather_nd", "pad", "tile", "expand", "identity", "depth_to_space", "space_to_depth",
    "rotary_embedding", "resize",
})  # fmt: skip
TYPES = {"f16": F16, "bf16": BF16}


@register
@dataclass(frozen=True)
class PrecisionPass:
    """Converts to 16-bit floats. `to` is f16 or bf16; `keep` names nodes (of the model or of the IR, with semicolons between) that
    stay in f32."""

    name: ClassVar[str] = "precision"
    to: str = "f16"
    keep: str = ""

    def run(self, module: Module, ctx: Context) -> bool:
        if self.to not in TYPES:
            raise IRError(f"precision{{to={self.to}}}: expected one of {', '.join(TYPES)}")
        kept = frozenset(filter(None, self.keep.split(";")))
        check_names(module, kept)
        changed = False
        for graph in module.open_graphs():
            changed |= _Narrowing(graph, TYPES[self.to], kept, ctx.log).run()
        return changed


def check_names(module: Module, kept: Collection[str]) -> None:
    """Raises IRError where a name among those of nodes that are to stay in f32 is none of the model's or of the IR's."""
    known = {name for node in module.walk() for name in (node.name, *node.locs)} if kept else set()
    unknown = sorted(set(kept) - known)
    if unknown:
        raise IRError(f"nodes to keep in f32: there is no node named {', '.join(unknown)}")


class _Narrowing:
    def __init__(self, graph: Graph, to: DType, kept: frozenset[str], log: DecisionLog):
        self.graph, self.to, self.kept, self.log = graph, to, kept, log
        self.narrowed: set[Value] = set()  # values that were f32
        self.converted: dict[tuple[Value, DType], Value] = {}

    def run(self) -> bool:
        """Whether any node was given 16-bit floats."""
        for node in self.graph.nodes:
            reason = self._refusal(node)
            if reason is None and self._narrow(node):
                continue
            if reason:
                self.log.record("precision", node, "refused", reason)
            self._widen(node)
        self.graph.set_outputs([self._as(v, F32, None) if v in self.narrowed else v for v in self.graph.outputs])
        return bool(self.narrowed)

    def _refusal(self, node: Node) -> str | None:
        """Why a node stays in f32, "" where that goes without saying."""
        floats = [v for v in node.operands if v is not None and (v in self.narrowed or _dtype(v) is F32)]
        if not floats or node.regions:
            return ""
        follows = any(v in self.narrowed for v in floats)
        if not follows and node.op.name not in WORKING:
            return ""
        if node.op.name not in WORKING | FOLLOWING:
            return f"{node.op.name} stays in f32"
        if self.kept & {node.name, *node.locs}:
            return "the node is to stay in f32"
        large = next((v for v in floats if self._overflows(v) and not _is_mask(node, v)), None)
        return None if large is None else f"%{large.name} has numbers that {self.to} has not"

    def _overflows(self, v: Value) -> bool:
        """Whether `v` is a constant with numbers that 16 bits have not."""
        if v.array is None:
            return False
        with np.errstate(over="ignore"):
            return bool(np.any(np.isfinite(v.array) & ~np.isfinite(v.array.astype(self.to.np).astype(np.float32))))

    def _narrow(self, node: Node) -> bool:
        """Gives a node 16-bit operands and results; takes that back where the operator has no such form."""
        operands, types = list(node.operands), [r.type for r in node.results]
        for i, v in enumerate(operands):
            taken = node.op.operands[min(i, len(node.op.operands) - 1)].dtypes  # the last one may be many
            if v is not None and _is_mask(node, v) and self._overflows(v):
                continue
            if v is not None and _dtype(v) is F32 and self.to in taken:
                node.set_operand(i, self._as(v, self.to, node))
            elif v is not None and v in self.narrowed and self.to not in taken:
                node.set_operand(i, self._as(v, F32, node))
        try:
            infer_node(node)
        except InferenceError as e:
            self.log.record("precision", node, "refused", str(e))
            for i, v in enumerate(operands):
                node.set_operand(i, v)
            for r, t in zip(node.results, types, strict=True):
                r.type = t
            return False
        self.narrowed.update(r for r, t in zip(node.results, types, strict=True) if r.type != t and _dtype(r) is self.to)
        self.log.record("precision", node, "applied", f"{node.op.name} in {self.to}")
        return True

    def _widen(self, node: Node) -> None:
        """Gives a node, and its regions, the operands that they had."""
        for i, v in enumerate(node.operands):
            if v is not None and v in self.narrowed:
                node.set_operand(i, self._as(v, F32, node))
        inside = {g for r in node.regions for g in r.graphs()}
        for v in [v for v in node.captures() if v in self.narrowed] if node.regions else ():
            wide = self._as(v, F32, node)
            for user, i in [(user, i) for user, i in v.uses if user.graph in inside]:
                user.set_operand(i, wide)
            for g in {g for g, _ in v.output_of if g in inside}:
                g.set_outputs([wide if o is v else o for o in g.outputs])

    def _as(self, v: Value, to: DType, before: Node | None) -> Value:
        """`v` as another float: converted once, right behind its producer; one from outside of the graph before its reader."""
        source = v.node.operands[0] if v.node is not None and v.node.op.name == "cast" and v in self.converted.values() else None
        if source is not None and _dtype(source) is to:
            return source
        key = v, to
        if key not in self.converted:
            name = f"{v.name}.{to}"
            if v.is_const:
                assert v.array is not None
                self.converted[key] = self.graph.module.add_const(name, v.array.astype(to.np))
            else:
                own = v.graph is self.graph
                place = before if not own else v.node._next if v.node is not None else next(iter(self.graph), None)
                made = self.graph.add(OPS["cast"], [v], {"to": to}, names=[name], types=[v.tensor.with_(dtype=to)], before=place,
                                      locs=v.node.locs if v.node is not None else ()).result  # fmt: skip
                if not own:
                    return made
                self.converted[key] = made
        return self.converted[key]


def _is_mask(node: Node, v: Value) -> bool:
    """Whether `v` is a mask of attention alone, which may be of another type than the queries."""
    return node.op.name == "attention" and [i for i, x in enumerate(node.operands) if x is v] == [3]


def _dtype(v: Value) -> DType | None:
    return v.type.dtype if isinstance(v.type, TensorType) else None
