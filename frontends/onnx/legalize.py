"""Opens what an opset cannot say into what it can: shape arithmetic into Shape, Gather and Mul, newer operators into older ones.

`@opens("name")` says how a node is written otherwise: a function from the node, a `rewrite.Builder` and a `Place` to the values
that take the place of its results, or a Refusal. After these the openers of the pass `decompose` are asked, and last the function
by which ONNX itself defines the operator. What they make is opened again where the opset cannot say it either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from ...ir.core import Graph, Module, Node, Value
from ...ir.errors import GraphmillError
from ...ir.infer import infer_node
from ...ir.interp import region_symbols
from ...ir.passes.decompose import OPENERS
from ...ir.rewrite import Builder, Refusal, refuse
from ...ir.symbols import Apply, Dim, DimLike, Symbol, as_symbol, bounds, exact_quotient, symbols_of
from ...ir.types import BF16, F16, F32, F64, I32, I64, TensorType
from .copying import copy_nodes
from .declared import type_proto
from .functions import newest_opsets, opsets_of, schema_function
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


@dataclass
class Place:
    """Where nodes are being opened: the versions to reach, for each symbol a value and its axis that has that size, and the sizes
    computed so far as i64[1]."""

    opsets: Mapping[str, int]
    symbols: dict[str, tuple[Value, int]] = field(default_factory=dict)
    sizes: dict[DimLike, Value] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        return self.opsets[""]

    def bind(self, v: Value) -> None:
        """Takes the dims of a value that are one symbol."""
        if isinstance(v.type, TensorType):
            for axis, d in enumerate(v.type.shape or ()):
                s = as_symbol(d)
                if s is not None:
                    self.symbols.setdefault(s.name, (v, axis))

    def inside(self, region: Graph) -> Place:
        """The place within a region, whose inputs have their own sizes at every run."""
        kept = region_symbols(region, self.symbols)  # type: ignore[arg-type]
        sizes = {d: v for d, v in self.sizes.items() if _names(d) <= set(kept)}
        return Place(self.opsets, kept, sizes)  # type: ignore[arg-type]


def _names(d: DimLike) -> set[str]:
    return {s.name for s in symbols_of(d)}


Open = Callable[[Node, Builder, Place], Any]
_OPENERS: dict[str, Open] = {}


def opens(*names: str) -> Callable[[Open], Open]:
    """Announces how operators are opened."""

    def add(fn: Open) -> Open:
        _OPENERS.update(dict.fromkeys(names, fn))
        return fn

    return add


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
        for opener in (_counted_from_the_front, _widened, _OPENERS.get(node.op.name), _decomposed, _defined):
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
    b.added += (made := copy_nodes(body.main, b.graph, values, b.before))
    for n in made:
        for inner in (n, *(m for r in n.regions for m in r.walk())):
            inner.locs = b.locs
        infer_node(n)
    return [values[o] for o in body.main.outputs]


# ---- shapes -----------------------------------------------------------------------------------------------------


def _ints(b: Builder, *values: int) -> Value:
    return b.const(np.array(values, np.int64))


@opens("dims")
def _dims(node: Node, b: Builder, place: Place) -> Any:
    """Every entry as i64[1], all in one tensor."""
    value: tuple[DimLike, ...] = node.attr("value")
    missing = sorted({n for d in value for n in _names(d)} - set(place.symbols))
    if missing:
        return refuse(f"no value here has the size ${missing[0]}")
    out = _ints(b, *value) if all(isinstance(d, int) for d in value) else _entries(b, place, value)  # type: ignore[arg-type]
    if node.attr("dtype") is not I64:
        out = b.op("cast", out, to=node.attr("dtype"))
    return b.op("squeeze", out, _ints(b, 0)) if node.attr("scalar") else out


def _entries(b: Builder, place: Place, value: tuple[DimLike, ...]) -> Value:
    """Sizes as a list; runs of plain numbers are one constant."""
    parts: list[Value] = []
    numbers: list[int] = []
    for d in (*value, None):
        if isinstance(d, int):
            numbers.append(d)
            continue
        if numbers:
            parts.append(_ints(b, *numbers))
            numbers = []
        if d is not None:
            parts.append(size(b, place, d))
    return parts[0] if len(parts) == 1 else b.op("concat", *parts, axis=0)


def size(b: Builder, place: Place, d: DimLike) -> Value:
    """A size as i64[1]: a polynomial as a sum of products. One that was computed before is used again."""
    if isinstance(d, int):
        return _ints(b, d)
    if d not in place.sizes:
        out: Value | None = None
        for mono, factor in sorted(d.terms, key=lambda term: term[1] < 0):  # those that are taken away come last
            term = None if abs(factor) == 1 and mono else _ints(b, abs(factor) if out is not None else factor)
            for atom in mono:
                x = _atom(b, place, atom)
                term = x if term is None else b.op("mul", x, term)
            assert term is not None
            if out is None:
                out = term if factor != -1 or not mono else b.op("neg", term)
            else:
                out = b.op("add" if factor > 0 else "sub", out, term)
        assert out is not None
        place.sizes[d] = out
    return place.sizes[d]


def _atom(b: Builder, place: Place, atom: Symbol | Apply) -> Value:
    if isinstance(atom, Symbol):
        d = Dim.of(atom)
        if d not in place.sizes:
            v, axis = place.symbols[atom.name]
            place.sizes[d] = b.op("shape", v, start=axis, end=axis + 1)
        return place.sizes[d]
    left, right = atom.args
    x, y = size(b, place, left), size(b, place, right)
    if atom.fn == "bcast":
        return b.op("where", b.op("equal", x, _ints(b, 1)), y, x)
    if atom.fn != "floordiv":
        return b.op(atom.fn, x, y)
    if bounds(left)[0] < 0 or bounds(right)[0] < 0:  # Div cuts towards zero; what is left after Mod divides without a rest
        x = b.op("sub", x, b.op("mod", x, y))
    return b.op("div", x, y)


@opens("shape")
def _shape(node: Node, b: Builder, place: Place) -> Any:
    """Before opset 15 Shape gave all sizes."""
    start, end = node.attr("start"), node.attr("end")
    if (start, end) == (0, None):
        return refuse("")
    whole = b.op("shape", node.operands[0])
    last = np.iinfo(np.int64).max if end is None else end
    return b.op("slice", whole, _ints(b, start), _ints(b, last), _ints(b, 0))


@opens("reshape")
def _reshape(node: Node, b: Builder, place: Place) -> Any:
    """Before opset 14 a 0 copied the axis of the input there, so that no other axis could become empty: axes that stay are copied,
    one that changes is -1. Where only axes of size 1 come and go no shape is needed."""
    x, given = node.operands[0], node.operands[1]
    assert x is not None and given is not None
    have, target = x.tensor.shape, given.array if given.is_const else given.dims
    if have is None or target is None or None in target.tolist():
        return refuse("the shape is not known, and a size of it may be zero")
    want: list[DimLike] = target.tolist()
    if 0 in want and not (0 in have and have == tuple(want)) and x.tensor.dtype.kind != "string":  # what is empty has no contents
        return b.op("constant_of_shape", given, value=np.zeros(1, x.tensor.dtype.np))
    if [d for d in have if d != 1] == [d for d in want if d != 1]:
        return _rearranged(b, x, have, want)
    changed = [i for i, d in enumerate(want) if not (i < len(have) and have[i] == d) and (isinstance(d, Dim) or d == 0)]
    if len(changed) > 1:
        return refuse("several sizes that may be zero have no form before opset 14")
    shape = [-1 if i in changed else 0 if i < len(have) and have[i] == d else d for i, d in enumerate(want)]
    return b.op("reshape", x, _ints(b, *shape))  # type: ignore[arg-type]


def _rearranged(b: Builder, x: Value, have: Sequence[DimLike], want: Sequence[DimLike]) -> Value:
    """Without all axes of size 1, then with those that are wanted."""
    gone, new = ([i for i, d in enumerate(dims) if d == 1] for dims in (have, want))
    x = b.op("squeeze", x, _ints(b, *gone)) if gone else x
    return b.op("unsqueeze", x, _ints(b, *new)) if new else x


@opens("split")
def _split(node: Node, b: Builder, place: Place) -> Any:
    """Equal parts and a smaller last one, by their sizes."""
    shape, count = node.operands[0].tensor.shape, len(node.results)  # type: ignore[union-attr]
    n = None if shape is None else shape[node.attr("axis")]
    if node.operand(1) is not None or not isinstance(n, int):
        return refuse("the sizes of the parts are not known")
    part = -(-n // count)
    sizes = _ints(b, *(part,) * (count - 1), n - part * (count - 1))
    return b.op("split", node.operands[0], sizes, axis=node.attr("axis"), results=count)


# ---- operators --------------------------------------------------------------------------------------------------


def _like(x: Value, number: float, b: Builder) -> Value:
    return b.const(np.array(number, x.tensor.dtype.np))


@opens("gelu")
def _gelu(node: Node, b: Builder, place: Place) -> Any:
    """x * (1 + erf(x / sqrt(2))) / 2, or with tanh."""
    (x,) = node.operands
    assert x is not None
    if node.attr("approximate") == "tanh":
        cube = b.op("mul", b.op("mul", b.op("mul", x, x), x), _like(x, 0.044715, b))
        inner = b.op("tanh", b.op("mul", b.op("add", x, cube), _like(x, np.sqrt(2 / np.pi), b)))
    else:
        inner = b.op("erf", b.op("mul", x, _like(x, np.sqrt(0.5), b)))
    return b.op("mul", b.op("mul", x, _like(x, 0.5, b)), b.op("add", inner, _like(x, 1, b)))


@opens("swish")
def _swish(node: Node, b: Builder, place: Place) -> Any:
    x, alpha = node.operands[0], node.attr("alpha")
    assert x is not None
    return b.op("mul", x, b.op("sigmoid", x if alpha == 1 else b.op("mul", x, _like(x, alpha, b))))


@opens("softmax", "log_softmax", "hardmax")
def _softmax(node: Node, b: Builder, place: Place) -> Any:
    """Over all axes from one on (flatten): on a matrix, whose shape is then put back. Before opset 13 an axis that is not the last
    is brought there."""
    x, name = node.operands[0], node.op.name
    assert x is not None
    axis, rank = node.attr("axis"), x.tensor.rank
    if node.attr("flatten"):
        return b.op("reshape", b.op(name, b.op("flatten", x, axis=axis), axis=1), b.op("shape", x), allowzero=1)
    if rank is None or axis % rank == rank - 1:
        return refuse("the rank is not known")
    perm = list(range(rank))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    y = b.op(name, b.op("transpose", x, perm=tuple(perm)), axis=rank - 1)
    return b.op("transpose", y, perm=tuple(perm))


@opens(*(f"reduce_{kind}" for kind in ("l1", "l2", "log_sum", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square")))
def _reduce(node: Node, b: Builder, place: Place) -> Any:
    """What empty axes mean is of no matter where there are some."""
    axes = node.operand(1)
    if not node.attr("noop_with_empty_axes") or axes is None or axes.array is None or not axes.array.size:
        return refuse("")
    return b.op(node.op, *node.operands, **{k: v for k, v in node.attrs.items() if k != "noop_with_empty_axes"})


@opens("max", "min")
def _extreme(node: Node, b: Builder, place: Place) -> Any:
    """Of integers, which Max and Min take from opset 12 on."""
    out = node.operands[0]
    assert out is not None
    if not out.tensor.dtype.is_integer:
        return refuse("")
    for v in node.operands[1:]:
        out = b.op("where", b.op("greater" if node.op.name == "max" else "less", out, v), out, v)
    return out


@opens("add", "sub", "mul")
def _arithmetic(node: Node, b: Builder, place: Place) -> Any:
    """Of 8 and 16 bits, which opset 14 brought: in 32, of which the lower ones are the same."""
    dtype = node.result.tensor.dtype
    if not dtype.is_integer or dtype.bits not in (8, 16):
        return refuse("")
    wide = [b.op("cast", v, to=I32) for v in node.operands]
    return b.op("cast", b.op(node.op, *wide), to=dtype)


@opens("gemm")
def _gemm(node: Node, b: Builder, place: Place) -> Any:
    """Before opset 11 something had to be added."""
    if node.operand(2) is not None:
        return refuse("")
    return b.op("gemm", *node.operands[:2], b.const(np.zeros(1, node.result.tensor.dtype.np)), **node.attrs)


@opens("slice")
def _slice(node: Node, b: Builder, place: Place) -> Any:
    """Before opset 10 every step was 1."""
    steps = node.operand(4)
    if steps is None or steps.array is None or (steps.array != 1).any():
        return refuse("its steps are not known to be 1")
    return b.op("slice", *node.operands[:4])


@opens("cast_like")
def _cast_like(node: Node, b: Builder, place: Place) -> Any:
    return b.op("cast", node.operands[0], to=node.operands[1].tensor.dtype, **node.attrs)  # type: ignore[union-attr]


@opens("greater_or_equal", "less_or_equal")
def _or_equal(node: Node, b: Builder, place: Place) -> Any:
    strict = b.op(node.op.name.removesuffix("_or_equal"), *node.operands)
    return b.op("or", strict, b.op("equal", *node.operands))


@opens("pad")
def _pad(node: Node, b: Builder, place: Place) -> Any:
    """Before opset 18 pads were given for all axes."""
    x, pads, axes, rank = node.operands[0], node.operands[1], node.operand(3), node.operands[0].tensor.rank  # type: ignore[union-attr]
    if axes is None or axes.array is None or pads.array is None or rank is None:  # type: ignore[union-attr]
        return refuse("the pads or their axes are not known")
    whole, given = np.zeros((2, rank), np.int64), axes.array.astype(np.int64) % max(rank, 1)
    whole[:, given] = pads.array.reshape(2, -1)  # type: ignore[union-attr]
    return b.op("pad", x, b.const(whole.ravel()), node.operand(2), **node.attrs)


@opens("resize")
def _resize(node: Node, b: Builder, place: Place) -> Any:
    """Before opset 13 an empty list stood for an operand that is left out."""
    given = [node.operand(i) or b.const(np.zeros(0, np.float32)) for i in (1, 2)]
    return b.op("resize", node.operands[0], *given, node.operand(3), **node.attrs)


@opens("attention")
def _attention(node: Node, b: Builder, place: Place) -> Any:
    """softmax(q k' * scale + mask) v, for as many heads of keys as of queries and no past."""
    q, k, v = (x.tensor for x in node.operands[:3])  # type: ignore[union-attr]
    plain = set(node.attrs) <= {"scale"} and all(x is None for x in node.operands[4:]) and len(node.results) == 1
    shapes, mask = [t.shape or () for t in (q, k, v)], node.operand(3)
    width = shapes[0][-1] if shapes[0] else None
    scale = node.attr("scale") if node.attr("scale") is not None else isinstance(width, int) and width**-0.5
    if not plain or not scale or any(len(s) != 4 for s in shapes) or shapes[0][1] != shapes[1][1] or q.dtype not in (F32, F64):
        return refuse("there is a past, a cap or a mask of causality, or heads are shared")
    if mask is not None and (mask.tensor.dtype is not q.dtype or not mask.tensor.shape or mask.tensor.shape[-1] != shapes[1][2]):
        return refuse("the mask is boolean, or shorter than the keys")
    scores = b.op("matmul", node.operands[0], b.op("transpose", node.operands[1], perm=(0, 1, 3, 2)))
    scores = b.op("mul", scores, _like(node.operands[0], scale, b))  # type: ignore[arg-type]
    if mask is None:
        return b.op("matmul", b.op("softmax", scores, axis=-1), node.operands[2])
    weights = b.op("softmax", b.op("add", scores, mask), axis=-1)
    if mask.array is None or np.isneginf(mask.array.max(-1)).any():  # a query that sees no key gives zeros
        blind = b.op("equal", b.op("reduce_max", mask, _ints(b, -1)), _like(scores, -np.inf, b))
        weights = b.op("where", blind, _like(scores, 0, b), weights)
    return b.op("matmul", weights, node.operands[2])


@opens("group_norm")
def _group_norm(node: Node, b: Builder, place: Place) -> Any:
    """Scale and bias by group, as before opset 21, are repeated for each channel of the group."""
    x, *by_group = node.operands
    channels = x.tensor.shape[1] if x is not None and x.tensor.shape else None
    groups = node.attr("num_groups")
    if not node.attr("per_group") or not isinstance(channels, int):
        return refuse("the number of channels is not known")

    def repeated(v: Value) -> Value:
        wide = b.op("expand", b.op("unsqueeze", v, _ints(b, 1)), _ints(b, groups, channels // groups))
        return b.op("reshape", wide, _ints(b, channels))

    return b.op("group_norm", x, *(repeated(v) for v in by_group), **{k: v for k, v in node.attrs.items() if k != "per_group"})  # type: ignore[arg-type]
