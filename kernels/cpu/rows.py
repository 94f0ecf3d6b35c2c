"""Operators that work on lines of a tensor: softmax and its relatives, and the normalizations.

A line lies in memory either contiguously (`Rows`: the vectors run along the line) or with a step (`Columns`: the vectors run
across neighbouring lines). Both offer the same two things, to fold a line into a value and to map it, so that each operator is
written once. f16 and bf16 are computed in f32. Sums have a fixed order, which depends on the length and the vector width alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ...ir.core import Node
from ...ir.recording import greatest
from ...ir.reduction import Reduction
from ...ir.types import DType
from ..lines import (
    BATCH_NORM,
    CHANNEL,
    Along,
    Array,
    Map,
    along,
    channel,
    formula,
    group_sizes,
    mean_and_inverse,
    norm_axis,
    norm_lines,
    overwritable,
    refuse_batch_norm,
    root,
    tensors,
    unsupported,
)
from ..operands import first_int, first_result, refuse_layouts, slot_of, tiles_for
from ..spec import Call, KernelSource, Launch, Refusal
from .target import serves

_HORIZONTAL = {"add": "hsum", "maximum": "hmax"}


@dataclass(frozen=True, slots=True)
class Rows:
    """Lines of n contiguous elements."""

    def fold(self, out: str, fn: str, zero: str, x: Array, value: Map, keep: Array | None = None) -> list[str]:
        """`out`: the fold of value(x) over the line; `keep` takes the values themselves."""
        wide = 1 if keep else 4
        accs = [f"a{i}" for i in range(wide)]
        main, at = [], "j"
        for i, a in enumerate(accs):
            at = f"j + {i} * LANES" if i else "j"
            main += [
                f"v = ldv_{x.dtype}({x.at(at)})",
                f"v = {value('v')}",
                *([f"stv_{keep.dtype}({keep.at(at)}, v)"] if keep else []),
            ]
            main += [f"{a} = {fn}({a}, v)"]
        tail = [f"v = ldm_{x.dtype}({x.at('j')}, n - j)", f"v = {value('v')}"]
        tail += [f"stm_{keep.dtype}({keep.at('j')}, n - j, v)"] if keep else []
        tail += [f"a0 = {fn}(a0, head(v, n - j, {zero}))"]
        total = "a0" if wide == 1 else f"{fn}({fn}(a0, a1), {fn}(a2, a3))"
        start = [*(f"{a} = splat({zero})" for a in accs), "j = 0"]
        return [*start, f"while j + {wide} * LANES <= n:", *indent([*main, f"j += {wide} * LANES"]),
                "while j < n:", *indent([*tail, "j += LANES"]), f"{out} = {_HORIZONTAL[fn]}({total})"]  # fmt: skip

    def map(self, x: Array, y: Array, value: Map, others: Sequence[Array] = (), n: str = "n") -> list[str]:
        """y = value(x) over the line; `others` are loaded beside it, under their names with a v."""

        def step(load: str, store: str) -> list[str]:
            loads = [f"v{a.name} = {load.format(a.dtype, a.at('j'))}" for a in others]
            return [f"v = {load.format(x.dtype, x.at('j'))}", *loads, store.format(y.dtype, y.at("j"), value("v"))]

        main = step("ldv_{}({})", "stv_{}({}, {})")
        tail = step(f"ldm_{{}}({{}}, {n} - j)", f"stm_{{}}({{}}, {n} - j, {{}})")
        return ["j = 0", f"while j + LANES <= {n}:", *indent([*main, "j += LANES"]), f"if j < {n}:", *indent(tail)]


@dataclass(frozen=True, slots=True)
class Columns:
    """Up to LANES neighbouring lines of n elements with a step: `load` and `store` are the forms for all or for w of them."""

    load: str
    store: str

    def fold(self, out: str, fn: str, zero: str, x: Array, value: Map, keep: Array | None = None) -> list[str]:
        body = [f"v = {self.load.format(x.dtype, x.at('j'))}", f"v = {value('v')}"]
        body += [self.store.format(keep.dtype, keep.at("j"), "v")] if keep else []
        return [f"{out} = splat({zero})", "for j in range(n):", *indent([*body, f"{out} = {fn}({out}, v)"])]

    def map(self, x: Array, y: Array, value: Map) -> list[str]:
        return [
            "for j in range(n):",
            *indent([f"v = {self.load.format(x.dtype, x.at('j'))}", self.store.format(y.dtype, y.at("j"), value("v"))]),
        ]


WHOLE = Columns("ldv_{}({})", "stv_{}({}, {})")
PART = Columns("ldm_{}({}, w)", "stm_{}({}, w, {})")


def indent(lines: Sequence[str]) -> list[str]:
    return ["    " + line for line in lines]


def join(lines: Sequence[str]) -> str:
    return "\n".join(["def kernel(p, tile, ntiles):", *indent(lines), ""])


# ---- softmax, log_softmax, lp_norm ------------------------------------------------------------------------------


@serves("softmax", "log_softmax", "lp_norm")
def along_axis(node: Node) -> KernelSource | Refusal:
    """The kernel of an operator that works along one axis."""
    how = along(node)
    if isinstance(how, Refusal):
        return how
    t, rows = node.operands[0].tensor, how.contiguous  # type: ignore[union-attr]
    lines = formula(node)
    wide = t.dtype.bits < 32 and node.op.name == "softmax"  # the exponentials are kept in f32 between the passes
    text = partial(_line_text, lines, t.dtype, rows, wide, first_result(node), first_int(node))
    bind = partial(_bind_lines, how=how, wide=wide)
    return KernelSource(text, bind, "rows" if rows else "columns", in_place=overwritable(node))


def _bind_lines(call: Call, how: Along, wide: bool) -> Launch:
    """Parameters: outer places, elements of a line, their step, bytes of scratch of a tile."""
    rows, (outer, n, inner) = how.contiguous, how.sizes(call.operands[0] or ())
    tiles = tiles_for(outer * inner if rows else outer * -(-inner // 16), outer * n * inner)
    scratch = -(-n * 4 * (1 if rows else 16) // 64) * 64 if wide else 0
    return Launch((outer, n, inner, scratch), tiles, scratch * tiles)


def _line_text(lines: Callable[..., list[str]], dtype: DType, rows: bool, wide: bool, result: int, ints: int) -> str:
    acc, d = Reduction.accumulator(dtype), dtype.name
    names = ["outer", "n", "inner", "bytes"]
    head = ["x = param(p, 0)", f"y = param(p, {result})", *(f"{name} = param(p, {ints + i})" for i, name in enumerate(names))]
    head += [f"e = param(p, {result + 1}) + tile * bytes"] if wide else []
    if rows:
        x, y = Array("x", d), Array("y", d)
        e = Array("e", acc.name, "0") if wide else y
        body = ["o = u * n", *lines(Rows(), x, e, y, acc)]
        return join([*head, "for u in range(outer * tile // ntiles, outer * (tile + 1) // ntiles):", *indent(body)])
    x, y = Array("x", d, step="inner"), Array("y", d, step="inner")
    e = Array("e", acc.name, "0", "LANES") if wide else y
    body = ["q = u // blocks", "c = (u - q * blocks) * LANES", "o = q * n * inner + c", "w = inner - c",
            "if w >= LANES:", *indent(lines(WHOLE, x, e, y, acc)), "else:", *indent(lines(PART, x, e, y, acc))]  # fmt: skip
    head += ["blocks = (inner + LANES - 1) // LANES", "units = outer * blocks"]
    return join([*head, "for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):", *indent(body)])


# ---- layer_norm, rms_norm ---------------------------------------------------------------------------------------


@serves("layer_norm", "rms_norm")
def layer_norm(node: Node) -> KernelSource | Refusal:
    """The kernel of a normalization over the trailing axes."""
    x, scale, bias = node.operand(0), node.operand(1), node.operand(2)
    t, axis = x.tensor, norm_axis(node)  # type: ignore[union-attr]
    if isinstance(axis, Refusal):
        return axis
    acc = Reduction.accumulator(t.dtype)
    result, ints = first_result(node), first_int(node)
    head = [
        "x = param(p, 0)",
        *(f"{n} = param(p, {slot_of(node, i)})" for n, v, i in (("s", scale, 1), ("b", bias, 2)) if v is not None),
    ]
    outputs = [n for n, _ in zip(("y", "ym", "yi"), node.results, strict=False)]
    head += [f"{n} = param(p, {result + j})" for j, n in enumerate(outputs)]
    head += [f"rows = param(p, {ints})", f"n = param(p, {ints + 1})"]
    body = norm_lines(Rows(), node, Array("x", t.dtype.name), Array("y", node.results[0].tensor.dtype.name), acc)
    body += [
        f"st_{v.tensor.dtype}({n}, u, {what})"
        for n, v, what in zip(outputs[1:], node.results[1:], ("mean", "inverse"), strict=False)
    ]
    text = join([*head, "for u in range(rows * tile // ntiles, rows * (tile + 1) // ntiles):", *indent(["o = u * n", *body])])

    def bind(call: Call) -> Launch:
        shape = call.operands[0] or ()
        rows, n = math.prod(shape[:axis]), math.prod(shape[axis:])
        return Launch((rows, n), tiles_for(rows, rows * n))

    return KernelSource(text, bind, "rows", in_place=overwritable(node))


# ---- instance_norm, group_norm, batch_norm ----------------------------------------------------------------------


@serves("instance_norm", "group_norm")
def group_norm(node: Node) -> KernelSource | Refusal:
    """The kernel of a normalization over groups of channels and all spatial axes, row-major."""
    x, scale, bias = node.operands[:3]
    t = x.tensor  # type: ignore[union-attr]
    refusal = refuse_layouts(node) or unsupported(node, tensors(x, scale, bias))
    if refusal is not None:
        return refusal
    by_group = node.op.name == "group_norm" and bool(node.attr("per_group"))
    acc, d = Reduction.accumulator(t.dtype), t.dtype.name
    names = ["rows", "n", "groups", "each", "space"]
    head = ["x = param(p, 0)", "s = param(p, 1)", "b = param(p, 2)", f"y = param(p, {first_result(node)})"]
    head += [f"{name} = param(p, {first_int(node) + i})" for i, name in enumerate(names)] + [f"size = to_{acc}(n)"]
    place = "g" if by_group else "g * each + q"
    each = [*channel(place, d), "o = u * n + q * space", *Rows().map(Array("x", d), Array("y", d), CHANNEL.format, n="space")]
    body = ["o = u * n", "g = u - u // groups * groups", *mean_and_inverse(Rows(), Array("x", d), acc, node.attr("epsilon"))]
    body += ["for q in range(each):", *indent(each)]
    text = join([*head, "for u in range(rows * tile // ntiles, rows * (tile + 1) // ntiles):", *indent(body)])

    def bind(call: Call) -> Launch:
        n, many, each, area = group_sizes(node, call.operands[0] or ())
        rows = n * many
        return Launch((rows, each * area, many, each, area), tiles_for(rows, rows * each * area))

    return KernelSource(text, bind, "rows", in_place=overwritable(node))


@serves("batch_norm")
def batch_norm(node: Node) -> KernelSource | Refusal:
    """The kernel of batch normalization in inference, for channels at axis 1 or last in memory."""
    x, result = node.operands[0].tensor, node.results[0].tensor  # type: ignore[union-attr]
    refusal = refuse_batch_norm(node)
    order = tuple(range(x.rank or 0)) if x.layout is None else x.layout.perm
    if x.layout != result.layout or (order and 1 in order and order[-1] != 1 and order[:2] != (0, 1)):
        refusal = Refusal("the channels lie neither second nor last in memory", {"x": x, "result": result})
    if refusal is not None:
        return refusal
    last, acc = (x.rank or 0) > 1 and order[-1] == 1, Reduction.accumulator(x.dtype)
    names = ["s", "b", "mean", "var"]
    head = [f"{name} = param(p, {i})" for i, name in enumerate(["x", *names, "y"])]
    head += [
        f"rows = param(p, {first_int(node)})",
        f"n = param(p, {first_int(node) + 1})",
        f"channels = param(p, {first_int(node) + 2})",
    ]
    at = "j" if last else "c"
    loads = [f"v{n} = get_{v.tensor.dtype}({n}, {at})" for n, v in zip(names, node.operands[1:5], strict=True)]  # type: ignore[union-attr]
    divisor = [f"root = {root('vvar', node.attr('epsilon'), acc)}"]
    value = f"put_{x.dtype}(y, o + j, {BATCH_NORM.format(f'get_{x.dtype}(x, o + j)')})"
    inner = [*loads, *divisor, value] if last else [value]
    channel = [] if last else ["c = u - u // channels * channels", *loads, *divisor]
    body = ["o = u * n", *channel, "for j in range(n):", *indent(inner)]
    text = join([*head, "for u in range(rows * tile // ntiles, rows * (tile + 1) // ntiles):", *indent(body)])

    def bind(call: Call) -> Launch:
        shape = call.operands[0] or (0,)
        channels, total = shape[1] if len(shape) > 1 else 1, math.prod(shape)
        n = channels if last else math.prod(shape[2:])
        rows = total // n if n else 0
        return Launch((rows, n, greatest(channels, 1)), tiles_for(rows, total), units=rows)

    return KernelSource(text, bind, "rows", in_place=overwritable(node))
