"""Rules on data movement: views, transposes, slices, pads, concatenations and splits that cancel or merge."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core import Node, Value
from ..infer import contents
from ..rewrite import Builder, Match, Pattern, Rule, refuse
from ..symbols import symbols_of
from ..types import FLOATS, I64, Shape, TensorType

VIEWS = ("reshape", "flatten", "squeeze", "unsqueeze")


def same_type(a: Value | None, b: Value) -> bool:
    """Whether both are tensors of one element type and provably one shape."""
    return a is not None and isinstance(a.type, TensorType) and a.type == b.type and a.type.shape is not None


def noop(m: Match, b: Builder) -> Any:
    """The first operand, where the result has its very type."""
    x = m.root.operands[0]
    return x if len(m.root.results) == 1 and same_type(x, m.root.result) else None


# ---- views ------------------------------------------------------------------------------------------------------


def known_shape(v: Value, b: Builder) -> bool:
    """Whether a run knows the shape of `v` from its inputs alone."""
    shape = v.type.shape if isinstance(v.type, TensorType) else None
    return shape is not None and all(s.name in b.facts.known for d in shape for s in symbols_of(d))


def shape_operand(b: Builder, shape: Shape | None, name: str) -> Value:
    """The shape of what is called `name` as an operand: a constant, or `dims` where it holds symbols."""
    assert shape is not None
    if all(isinstance(d, int) for d in shape):
        return b.const(np.array(shape, np.int64), f"{name}.shape")
    return b.op("dims", value=shape, dtype=I64, result=f"{name}.shape")


def _view_of_view(m: Match, b: Builder) -> Any:
    x = m.node("inner").operands[0]
    if same_type(x, m.root.result):
        return x
    if not known_shape(m.root.result, b):
        return refuse("the shape is known only at run time", shape=m.root.result.type)
    return b.op("reshape", x, shape_operand(b, m.root.result.tensor.shape, m.root.result.name), allowzero=1)


# ---- transposes -------------------------------------------------------------------------------------------------


def perm_of(node: Node) -> tuple[int, ...] | None:
    """The permutation of a transpose, None where its default depends on a rank that is not known."""
    perm, rank = node.attr("perm"), node.operands[0].tensor.rank  # type: ignore[union-attr]
    if perm:
        return tuple(p % len(perm) for p in perm)
    return None if rank is None else tuple(range(rank))[::-1]


def inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(perm.index(i) for i in range(len(perm)))


def _transpose_of_transpose(m: Match, b: Builder) -> Any:
    outer, inner = perm_of(m.root), perm_of(m.node("inner"))
    if outer is None or inner is None:
        return None
    perm = tuple(inner[p] for p in outer)
    x = m.node("inner").operands[0]
    return x if perm == tuple(range(len(perm))) else b.op("transpose", x, perm=perm)


def _trivial_transpose(m: Match, b: Builder) -> Any:
    """A transpose that moves only axes of size 1 is a view."""
    perm, shape = perm_of(m.root), m["x"].tensor.shape
    if perm is None or shape is None:
        return None
    if perm == tuple(range(len(perm))):
        return m["x"]
    moved = [p for p in perm if shape[p] != 1]
    if moved != sorted(moved) or not known_shape(m.root.result, b):
        return None
    return b.op("reshape", m["x"], shape_operand(b, m.root.result.tensor.shape, m.root.result.name), allowzero=1)


def _gemm_of_transpose(which: int) -> Any:
    """gemm has flags for its operands' transposes; a product of matrices becomes a gemm that has them."""

    def build(m: Match, b: Builder) -> Any:
        node, inner = m.root, m.node("t")
        if node.operands[0].tensor.rank != 2 or node.operands[1].tensor.rank != 2 or perm_of(inner) != (1, 0):  # type: ignore[union-attr]
            return refuse("a batched product has no transposed operands")
        if node.operands[0].tensor.dtype not in FLOATS:  # type: ignore[union-attr]
            return refuse("a product of integers stays a matmul", dtype=node.result.tensor.dtype)
        operands = list(node.operands)
        operands[which] = inner.operands[0]
        flag = ("transA", "transB")[which]
        old = node.attrs if node.op.name == "gemm" else {}
        return b.op("gemm", *operands, **(old | {flag: 1 - old.get(flag, 0)}))

    return build


def _gemm_between_views(m: Match, b: Builder) -> Any:
    """Leading axes that are made one for a gemm, and several behind it: a matmul takes as many as there are."""
    gemm, before, w, c = m.node("gemm"), m.node("before"), m.node("gemm").operands[1], m.node("gemm").operand(2)
    product, result = gemm.result.tensor, m.root.result.tensor.shape
    columns = None if product.shape is None else product.shape[1]
    if not isinstance(columns, int) or not columns or result is None or len(result) < 3 or result[-1] != columns:
        return refuse("the view does more than to cut the leading axis", view=m.root.result.type)
    if (gemm.attr("alpha"), gemm.attr("beta"), gemm.attr("transA")) != (1, 1, 0) or product.dtype not in FLOATS:
        return refuse("the gemm does more than to multiply and to add", alpha=gemm.attr("alpha"), beta=gemm.attr("beta"))
    if c is not None and (c.tensor.shape is None or c.tensor.shape[:-1] not in ((), (1,))):
        return refuse("what is added differs from row to row", c=c.type)
    if not known_shape(m.root.result, b):
        return refuse("the shape is known only at run time", view=m.root.result.type)
    x, shape = before.operands[0], (*result[:-1], before.result.tensor.shape[-1])  # type: ignore[index]
    if x.tensor.shape != shape:  # type: ignore[union-attr]
        x = b.op("reshape", x, shape_operand(b, shape, m.root.result.name), allowzero=1)
    y = b.op("matmul", x, b.op("transpose", w, perm=(1, 0)) if gemm.attr("transB") else w)
    return y if c is None else b.op("add", y, c)


# ---- slices, pads, concatenations, splits -----------------------------------------------------------------------


def _full_slice(m: Match, b: Builder) -> Any:
    """A slice that takes everything forwards."""
    steps = m.root.operand(4)
    if not same_type(m["x"], m.root.result):
        return None
    if steps is not None and (steps.array is None or np.any(steps.array != 1)):
        return refuse("steps other than 1")
    return m["x"]


def slice_range(node: Node) -> tuple[int, int, int] | None:
    """(axis, start, end) of a slice along one axis of known size, forwards, with constant bounds."""
    x, given = node.operands[0].tensor, [contents(v) for v in node.operands[1:]]  # type: ignore[union-attr]
    numbers = [None if a is None or a.size != 1 else a.ravel()[0] for a in given]
    starts, ends, axis, step = (*numbers, None, None)[:4]
    absent = [node.operand(i) is None for i in (3, 4)]
    if absent[0] and x.rank == 1:
        axis = 0
    if absent[1]:
        step = 1
    if x.shape is None or not all(isinstance(n, (int, np.integer)) for n in (starts, ends, axis, step)) or step != 1:
        return None
    axis = int(axis) % len(x.shape)  # type: ignore[arg-type]
    size = x.shape[axis]
    if not isinstance(size, int):
        return None
    start, end, _ = slice(int(starts), int(ends)).indices(size)  # type: ignore[arg-type]
    return axis, start, max(start, end)


def concat_ranges(concat: Node, axis: int) -> list[tuple[int, int]] | None:
    """Where each operand of a concat lies along its axis, if that is `axis` and all sizes are known."""
    rank = concat.result.tensor.rank
    if rank is None or concat.attr("axis") % rank != axis:
        return None
    sizes = [v.tensor.shape[axis] for v in concat.operands]  # type: ignore[union-attr, index]
    if not all(isinstance(s, int) for s in sizes):
        return None
    ends = np.cumsum(sizes).tolist()  # type: ignore[arg-type]
    return [(e - s, e) for s, e in zip(sizes, ends)]  # type: ignore[operator]


def _slice_of_concat(m: Match, b: Builder) -> Any:
    """What lies within one operand of the concat is taken from there."""
    taken, concat = slice_range(m.root), m.node("concat")
    ranges = None if taken is None else concat_ranges(concat, taken[0])
    if taken is None or ranges is None:
        return refuse("the slice's bounds or the sizes of what is concatenated are not known")
    axis, start, end = taken
    for v, (first, last) in zip(concat.operands, ranges):
        if first <= start and end <= last:
            if (first, last) == (start, end):
                return v
            bounds = (b.const(np.array([i], np.int64)) for i in (start - first, end - first, axis))
            return b.op("slice", v, *bounds)
    return refuse("the slice spans several operands", start=start, end=end)


def _split_of_concat(m: Match, b: Builder) -> Any:
    """Split where it was joined: the operands themselves."""
    concat = m.node("concat")
    rank = concat.result.tensor.rank
    if rank is None or m.root.attr("axis") % rank != concat.attr("axis") % rank:
        return refuse("the axes differ")
    if len(concat.operands) != len(m.root.results) or not all(map(same_type, concat.operands, m.root.results)):
        return refuse("the pieces are not what was joined")
    return list(concat.operands)


def _concat_of_split(m: Match, b: Builder) -> Any:
    """All pieces of a split joined again in their order."""
    first = m["first"].node
    if first is None or first.op.name != "split" or list(first.results) != list(m.root.operands):
        return None
    rank = m.root.result.tensor.rank
    if rank is None or first.attr("axis") % rank != m.root.attr("axis") % rank:
        return refuse("the axes differ")
    return first.operands[0] if same_type(first.operands[0], m.root.result) else refuse("the sizes are not known to agree")


def _gather_of_all(m: Match, b: Builder) -> Any:
    """What is gathered in its own order is a view, as masks of padding are in Hugging Face's exports."""
    shape, numbers = m["x"].tensor.shape, m["i"].array
    if numbers is None or not shape or numbers.size != shape[m.root.attr("axis") % len(shape)]:
        return None
    if not np.array_equal(numbers.ravel(), np.arange(numbers.size)) or not known_shape(m.root.result, b):
        return None
    return b.op("reshape", m["x"], shape_operand(b, m.root.result.tensor.shape, m.root.result.name), allowzero=1)


def _zero_pad(m: Match, b: Builder) -> Any:
    pads = contents(m.root.operand(1))
    if pads is None or any(p is None or p != 0 for p in np.asarray(pads, object).ravel()):
        return None
    return m["x"]


def _single(m: Match, b: Builder) -> Any:
    """concat, sum, max, min, mean of one operand."""
    x = m.root.operands[0]
    return x if len(m.root.operands) == 1 and same_type(x, m.root.result) else None


def _split_into_one(m: Match, b: Builder) -> Any:
    return m["x"] if len(m.root.results) == 1 and same_type(m["x"], m.root.result) else None


def _expanded_operand(m: Match, b: Builder) -> Any:
    """Elementwise operators broadcast by themselves: an expanded operand is read as it was, where the result stays as large."""
    root, done = m.root, False
    operands = list(root.operands)
    for i, v in enumerate(operands):
        inner = v.node if v is not None else None
        if inner is None or inner.op.name != "expand" or inner.graph is not root.graph:
            continue
        trial = [*operands[:i], inner.operands[0], *operands[i + 1 :]]
        value = b.op(root.op, *trial, **root.attrs)
        same = value.type == root.result.type
        b.undo()
        if same:
            operands, done = trial, True
    return b.op(root.op, *operands, **root.attrs) if done else None


BROADCASTING = ("add", "sub", "mul", "div", "pow", "min", "max", "where", "equal", "less", "less_or_equal", "greater",
                "greater_or_equal", "and", "or", "xor")  # fmt: skip

RULES = (
    Rule("view(x) of its own shape => x", Pattern(VIEWS, "x"), noop),
    Rule("view(view(x)) => reshape(x)", Pattern(VIEWS, Pattern(VIEWS, "x", bind="inner")), _view_of_view, keeps_inner=True),
    Rule("transpose(transpose(x)) => transpose(x)", Pattern("transpose", Pattern("transpose", "x", bind="inner")),
         _transpose_of_transpose, keeps_inner=True),
    Rule("transpose(x) of axes of size 1 => reshape(x)", Pattern("transpose", "x"), _trivial_transpose),
    Rule("gemm(transpose(a), b) => gemm(a, b)", Pattern(("matmul", "gemm"), Pattern("transpose", "a", bind="t"), "b"),
         _gemm_of_transpose(0), keeps_inner=True),
    Rule("gemm(a, transpose(b)) => gemm(a, b)", Pattern(("matmul", "gemm"), "a", Pattern("transpose", "b", bind="t")),
         _gemm_of_transpose(1), keeps_inner=True),
    Rule("view(gemm(view(x), w, c)) => matmul(x, w) + c",
         Pattern(VIEWS, Pattern("gemm", Pattern(VIEWS, bind="before"), bind="gemm")), _gemm_between_views, keeps_inner=True),
    Rule("slice(x) of everything => x", Pattern("slice", "x"), _full_slice),
    Rule("slice(concat(x, ...)) => slice(x)", Pattern("slice", Pattern("concat", bind="concat")), _slice_of_concat,
         keeps_inner=True),
    Rule("split(concat(x, ...)) => x, ...", Pattern("split", Pattern("concat", bind="concat")), _split_of_concat, keeps_inner=True),
    Rule("concat(split(x)) => x", Pattern("concat", "first"), _concat_of_split),
    Rule("split(x) into one => x", Pattern("split", "x"), _split_into_one),
    Rule("gather(x, 0 ... n - 1) => reshape(x)", Pattern("gather", "x", "i"), _gather_of_all),
    Rule("pad(x) by nothing => x", Pattern("pad", "x"), _zero_pad),
    Rule("expand(x), tile(x) to its own shape => x", Pattern(("expand", "tile"), "x"), noop),
    Rule("concat(x), sum(x), ... of one => x", Pattern(("concat", "sum", "max", "min", "mean"), "x"), _single),
    Rule("op(expand(x), y) => op(x, y)", Pattern(BROADCASTING, "x"), _expanded_operand, keeps_inner=True),
)  # fmt: skip
