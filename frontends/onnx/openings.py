"""How operators are opened that an older opset, or ONNX altogether, does not have.

    @opens("swish")
    def _swish(node, b, place): ...

makes of the node, by a `rewrite.Builder`, the values that take the place of its results, or a Refusal. `legalize` asks these first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.core import Graph, Node, Value
from ...ir.interp import region_symbols
from ...ir.rewrite import Builder, refuse
from ...ir.symbols import Apply, Dim, DimLike, Symbol, as_symbol, bounds, symbols_of
from ...ir.types import F32, F64, I32, I64, Shape, TensorType


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
OPENINGS: dict[str, Open] = {}


def opens(*names: str) -> Callable[[Open], Open]:
    """Announces how operators are opened."""

    def add(fn: Open) -> Open:
        OPENINGS.update(dict.fromkeys(names, fn))
        return fn

    return add


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
    heads, groups = node.attr("q_num_heads"), node.attr("kv_num_heads")
    q, k, v = (x.tensor for x in node.operands[:3])  # type: ignore[union-attr]
    plain = set(node.attrs) <= {"scale", "q_num_heads", "kv_num_heads"} and all(x is None for x in node.operands[4:])
    shapes, mask = [_cut(t.shape or (), n) for t, n in ((q, heads), (k, groups), (v, groups))], node.operand(3)
    width = shapes[0][-1] if shapes[0] else None
    scale = node.attr("scale") if node.attr("scale") is not None else isinstance(width, int) and width**-0.5
    alike = all(len(s) == 4 for s in shapes) and shapes[0][1] == shapes[1][1] and q.dtype in (F32, F64)
    if not plain or len(node.results) > 1 or not scale or not alike:
        return refuse("there is a past, a cap or a mask of causality, or heads are shared")
    if mask is not None and (mask.tensor.dtype is not q.dtype or not mask.tensor.shape or mask.tensor.shape[-1] != shapes[1][2]):
        return refuse("the mask is boolean, or shorter than the keys")
    first, keys, values = (_heads_first(x, s, b) for x, s in zip(node.operands, shapes))  # type: ignore[arg-type]
    scores = b.op("matmul", first, b.op("transpose", keys, perm=(0, 1, 3, 2)))
    scores = b.op("mul", scores, _like(first, scale, b))
    weights = b.op("softmax", scores if mask is None else b.op("add", scores, mask), axis=-1)
    if mask is not None and (mask.array is None or np.isneginf(mask.array.max(-1)).any()):  # a query that sees no key gives zeros
        blind = b.op("equal", b.op("reduce_max", mask, _ints(b, -1)), _like(scores, -np.inf, b))
        weights = b.op("where", blind, _like(scores, 0, b), weights)
    y = b.op("matmul", weights, values)
    return (
        y if q.rank == 4 else b.op("reshape", b.op("transpose", y, perm=(0, 2, 1, 3)), _ints(b, 0, 0, shapes[2][1] * shapes[2][3]))
    )  # type: ignore[arg-type]


def _cut(shape: Shape, heads: int | None) -> Shape:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    if len(shape) != 3 or not heads or not isinstance(shape[2], int):
        return shape
    return shape[0], heads, shape[1], shape[2] // heads


def _heads_first(x: Value, shape: Shape, b: Builder) -> Value:
    """`x`, which may have its heads in the last axis, in the shape [batch, heads, length, size]."""
    if x.tensor.rank == 4:
        return x
    return b.op("transpose", b.op("reshape", x, _ints(b, 0, 0, shape[1], shape[3])), perm=(0, 2, 1, 3))  # type: ignore[arg-type]


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
