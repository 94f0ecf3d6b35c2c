"""Opens what an opset cannot say into what it can: shape arithmetic into Shape, Gather and Mul, newer operators into older ones.

`openings` says how operators are written otherwise. After these the openers of the pass `decompose` are asked, and last the
function by which ONNX itself defines the operator. What they make is opened again where the opset cannot say it either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from ...ir.core import Graph, Module, Node, Value
from ...ir.errors import GraphmillError
from ...ir.infer import infer_node
from ...ir.passes.decompose import OPENERS
from ...ir.rewrite import Builder, Refusal, refuse
from ...ir.symbols import exact_quotient
from ...ir.types import BF16, F16, F32, F64, TensorType
from .copying import Portable
from .declared import type_proto
from .functions import newest_opsets, opsets_of, schema_function
from .openings import OPENINGS, Place
from .problems import Problem, Problems
from .reader import read
from .spelling import NoSpelling, Spelling, spell

_DEEPEST = 8  # openings of what an opening made
# Operators whose functions compute what the operators do, and not a rougher number: others cut off what f64 has more than f32, or
# overflow on the way (ReduceLogSumExp, Softplus).
DEFINED = frozenset({
    "affine_grid", "blackman_window", "causal_conv_with_state", "celu", "center_crop_pad", "dynamic_quantize_linear", "group_norm",
    "hamming_window", "hann_window", "hard_swish", "linear_attention", "mish", "attention", "reduce_l1", "reduce_l2",
    "reduce_log_sum", "reduce_sum_square", "rotary_embedding", "shrink", "swiglu", "thresholded_relu",
})  # fmt: skip
_LOCAL = "graphmill.opened"  # the domain of ONNX's own functions while they are read


class Legalizer:
    """Opens, in place, every node of a module that the opsets cannot say. `spellings` has what became of each node that stays;
    `problems` lists the others."""

    def __init__(self, module: Module, opsets: Mapping[str, int]):
        self.opsets = dict(opsets)
        self.spellings: dict[Node, Spelling] = {}
        self.problems = Problems()
        self._graph(module.main, Place(opsets))

    def _graph(self, graph: Graph, place: Place) -> None:
        for v in graph.inputs:
            place.bind(v)
        for node in graph:
            self._node(node, place, node, 0)

    def _node(self, node: Node, place: Place, origin: Node, depth: int) -> None:
        """Settles a node that was in the program (`origin`), or one of those that it was opened into."""
        for region in node.regions:
            self._graph(region, place.inside(region))
        try:
            _check_needs(node, place.opset)
            self.spellings[node] = spell(node, place.opsets)
        except NoSpelling as e:
            made, why = self._open(node, place) if depth < _DEEPEST else (None, "")
            if made is None:
                self._problem(node, origin, str(e), why)
            for n in made or ():
                self._node(n, place, origin, depth + 1)
        for v in node.results:
            if v.graph is not None and node.graph is not None:
                place.bind(v)

    def _problem(self, node: Node, origin: Node, reason: str, why: str) -> None:
        """One entry of the report; it is looked up which opset could say the node."""
        form = node.op.onnx[0] if node.op.onnx else None
        domain = form.domain if form is not None else ""
        newer = (v for v in range(self.opsets[""] + 1, newest_opsets()[""] + 1) if _has_spelling(origin, {**self.opsets, "": v}))
        first = next(newer, None)
        hint = f"export to opset {first} or above" if first is not None else "keep the program as text with write_text, or export "\
            "the model before the pass that made this node"  # fmt: skip
        message = f"{reason}; it cannot be opened: {why}" if why else reason
        if node is not origin:
            message = f"{message} ({origin.op.name} was opened into it)"
        self.problems.add(Problem(message, hint, "+".join(node.locs) or f"%{node.name}", form.op_type if form else node.op.name,
                                  domain, self.opsets.get(domain, 1)))  # fmt: skip

    def _open(self, node: Node, place: Place) -> tuple[list[Node] | None, str]:
        """The nodes that took the node's place; None, and why, where it has to stay."""
        why = ""
        for opener in (_counted_from_the_front, _widened, OPENINGS.get(node.op.name), _decomposed, _defined):
            if opener is None:
                continue
            b = Builder(node)
            try:
                out = opener(node, b, place)
            except (GraphmillError, ValueError, TypeError, AttributeError) as e:
                out = refuse(str(e))
            if isinstance(out, Refusal):
                why = why or str(out)
                b.undo()
                continue
            values = list(out) if isinstance(out, (tuple, list)) else [out]
            for old, new in zip(node.results, values):
                if new.node in b.added:
                    old.name, new.name = new.name, old.name
            assert node.graph is not None
            node.graph.replace(node, values[: len(node.results)])
            for old, new in zip(node.results, values):
                new.dims = new.dims if old.dims is None else old.dims  # what a list of known sizes holds is known as well
            now = dict(zip(node.results, values))
            place.sizes.update({d: now[v] for d, v in place.sizes.items() if v in now})
            return b.added, ""
        return None, why


def _has_spelling(node: Node, opsets: Mapping[str, int]) -> bool:
    try:
        _check_needs(node, opsets[""])
        spell(node, opsets)
    except NoSpelling:
        return False
    return True


def _check_needs(node: Node, opset: int) -> None:
    """Raises NoSpelling for what an older opset means otherwise although it is spelled alike."""
    if opset < 18 and node.op.name == "split" and node.operand(1) is None:
        x = node.operands[0].tensor.shape  # type: ignore[union-attr]
        if x is None or exact_quotient(x[node.attr("axis")], len(node.results)) is None:
            raise NoSpelling("Split into parts that may not be equal is new in opset 18")
    if opset < 14 and node.op.name == "batch_norm" and len(node.results) > 1:
        raise NoSpelling("BatchNormalization with running statistics means something else before opset 14")
    if opset < 13 and node.op.name in ("quantize_linear", "dequantize_linear") and node.operands[1].tensor.size != 1:  # type: ignore[union-attr]
        raise NoSpelling("scales along an axis are new in opset 13")
    if opset < 8 and node.op.name in ("max", "min", "mean", "sum") and len({v.tensor.shape for v in node.operands}) > 1:  # type: ignore[union-attr]
        raise NoSpelling("operands of several shapes are new in opset 8")
    if opset < 11 and _negative_axis(node):
        raise NoSpelling("axes that count from the end are new in opset 11")


def _negative_axis(node: Node) -> bool:
    axes = [node.attr(k) for k in ("axis", "axes") if k in node.op.attrs]
    axes += [v.array for o, v in zip(node.op.operands, node.operands) if o.name == "axes" and v is not None and v.is_const]
    return any(a is not None and np.any(np.asarray(a) < 0) for a in axes)


# ---- openers that know nothing of the operator ------------------------------------------------------------------


def _counted_from_the_front(node: Node, b: Builder, place: Place) -> Any:
    """Before opset 11 no axis was counted from the end."""
    counted = node.results[0] if node.op.name in ("unsqueeze", "one_hot") else node.operand(0)
    if place.opset >= 11 or not _negative_axis(node) or counted is None or counted.tensor.rank is None:
        return refuse("")
    rank = counted.tensor.rank
    front = {k: tuple(a % rank for a in v) if isinstance(v, tuple) else v % rank
             for k in ("axis", "axes") if k in node.op.attrs and (v := node.attr(k)) is not None}  # fmt: skip
    operands = list(node.operands)
    for i, (o, v) in enumerate(zip(node.op.operands, operands)):
        if o.name == "axes" and v is not None and v.is_const:
            axes = v.array % rank  # type: ignore[operator]
            operands[i] = b.const(axes if node.op.name in ("slice", "pad") else np.sort(axes))
    return b.op(node.op, *operands, results=len(node.results), **{**node.attrs, **front})


def _widened(node: Node, b: Builder, place: Place) -> Any:
    """In f32, as kernels compute what is given in f16 and bf16."""
    narrow = (F16, BF16)
    wide = [v is not None and isinstance(v.type, TensorType) and v.type.dtype in narrow for v in node.operands]
    if not any(wide) or not (node.op.is_elementwise or node.op.name in DEFINED) or node.op.name in ("cast", "bit_cast"):
        return refuse("")
    operands = [b.op("cast", v, to=F32) if w else v for v, w in zip(node.operands, wide)]
    made = b.op(node.op, *operands, results=len(node.results), **node.attrs)
    results = zip(node.results, made if len(node.results) > 1 else [made])
    return [b.op("cast", y, to=r.tensor.dtype) if r.tensor.dtype in narrow else y for r, y in results]


def _decomposed(node: Node, b: Builder, place: Place) -> Any:
    """By the pass decompose."""
    fn = OPENERS.get(node.op.name)
    return refuse("") if fn is None else fn(node, b)


def _defined(node: Node, b: Builder, place: Place) -> Any:
    """By the function that ONNX defines the operator with, in its newest opset."""
    values = [v for v in (*node.operands, *node.results) if v is not None]
    if node.op.name not in DEFINED or any(isinstance(v.type, TensorType) and v.type.dtype is F64 for v in values):
        return refuse("")
    newest = {**newest_opsets(), **{d: v for d, v in place.opsets.items() if d not in newest_opsets()}}
    present = [v for v in node.operands if v is not None]
    try:
        found = spell(node, newest)
    except NoSpelling as e:
        return refuse(str(e))
    if node.regions or any(v is not None and v not in present for v in found.inputs):
        return refuse("")
    inputs = [f"x{present.index(v)}" if v is not None else "" for v in found.inputs]
    call = found.node(inputs, [f"y{i}" for i in range(len(node.results))])
    f = schema_function(call, newest.get(found.domain, 1), [None if v is None else v.type for v in found.inputs])
    if f is None:
        return refuse("")
    f.domain = call.domain = _LOCAL
    graph = onnx.GraphProto(name="opened", node=[call], output=[onnx.ValueInfoProto(name=o) for o in call.output])
    graph.input.extend(onnx.ValueInfoProto(name=f"x{i}", type=type_proto(v.type, {})) for i, v in enumerate(present))
    versions = {"": newest[""], **opsets_of(f.opset_import), _LOCAL: 1}
    imports = [onnx.helper.make_opsetid(d, v) for d, v in versions.items()]
    body = read(onnx.ModelProto(ir_version=onnx.IR_VERSION, graph=graph, functions=[f], opset_import=imports))
    return _splice(body, present, b)


def _splice(body: Module, operands: list[Value], b: Builder) -> list[Value]:
    """Puts the nodes of a module in front of the builder's node; the values that it returns."""
    values = dict(zip(body.main.inputs, operands, strict=True))
    for c in body.consts.values():
        values[c] = b.const(c.const)  # type: ignore[arg-type]
    b.added += (made := Portable().nodes(body.main, b.graph, values, b.before))
    for n in made:
        for inner in (n, *(m for r in n.regions for m in r.walk())):
            inner.locs = b.locs
        infer_node(n)
    return [values[o] for o in body.main.outputs]
