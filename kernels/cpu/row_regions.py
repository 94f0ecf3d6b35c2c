"""Fused regions with `kernel = rows`: elementwise nodes before and behind one softmax or normalization along contiguous rows.

A row at a time: what comes before is computed into scratch memory that stays in the cache, the operator works there, and what comes
behind is computed from its result. Values from before the operator may be results too (a residual sum beside its normalization)
and may be read behind it, where they are computed once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir.core import Node, Value
from ...ir.reduction import Reduction
from ...ir.types import DType
from ..lines import Array, anchor_lines
from ..operands import first_int, first_result, tiles_for
from ..printer import Printer
from ..regions import named, print_nodes
from ..row_regions import RowRegion, split_dims, take_apart
from ..space import ONE
from ..spec import Call, KernelSource, Launch, Refusal
from .rows import Rows, indent, join
from .target import serves


@serves("fused.rows")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of a region around one of `row_regions.ANCHORS`, row-major, its rows contiguous."""
    r = take_apart(node)
    if isinstance(r, Refusal):
        return r
    acc = Reduction.accumulator(r.x.dtype)
    text = _text(node, r, acc)

    def bind(call: Call) -> Launch:
        shape = call.results[0]
        rows, n = math.prod(shape[: r.axis]), math.prod(shape[r.axis :])
        outer = [split_dims(s, len(shape), r.axis) for s in call.operands if s is not None]
        seen = Call([o for o, _ in outer], [shape[: r.axis]])
        tiles, scratch = tiles_for(rows, rows * n), -(-n * acc.itemsize // 64) * 64
        ints = [rows, n, scratch, *r.outer.sizes(seen)]
        for k in r.loaded.values():
            ints += [s * math.prod(outer[k][1]) for s in r.outer.strides(k, outer[k][0], shape[: r.axis])]
        return Launch(tuple(ints), tiles, scratch * tiles)

    return KernelSource(text, bind, "rows")


def _text(node: Node, r: RowRegion, acc: DType) -> str:
    first, at = first_result(node), first_int(node)
    groups = range(len(r.outer.groups))
    inputs = [v for v in r.region.inputs if v is not None]
    head = [f"x{k} = param(p, {k})" for k in r.loaded.values()]
    head += [f"y{j} = param(p, {first + j})" for j in range(len(r.outputs))]
    head += [f"{a} = param(p, {inputs.index(v)})" for a, v in zip("sb", r.anchor.operands[1:], strict=False) if v is not None]
    names = ["rows", "n", "bytes", *(f"n{g}" for g in groups), *(f"s{k}_{g}" for k in r.loaded.values() for g in groups)]
    head += [f"{name} = param(p, {at + i})" for i, name in enumerate(names)]
    head += [f"c = param(p, {first + len(r.outputs)}) + tile * bytes"]
    body = ["base = u * n", *_offsets(r), *_around(r, acc)]
    return join([*head, "for u in range(rows * tile // ntiles, rows * (tile + 1) // ntiles):", *indent(body)])


def _offsets(r: RowRegion) -> list[str]:
    """Where each operand's row begins; what is one number a row is loaded."""
    groups = range(len(r.outer.groups))
    lines = ["q = u"]
    for g in reversed(groups):
        lines += [f"i{g} = q % n{g}", f"q = q // n{g}"] if g else ["i0 = q"]
    for v, k in r.loaded.items():
        terms = [f"i{g} * s{k}_{g}" for g in groups if r.outer.classes[k][g] != ONE]
        lines.append(f"o{k} = {' + '.join(terms) or '0'}")
        if r.inner.is_single(k):
            lines.append(f"w{k} = ld_{v.tensor.dtype}(x{k}, o{k})")
    return lines


def _around(r: RowRegion, acc: DType) -> list[str]:
    """What is done for a row."""
    x, result = r.anchor.operands[0], r.anchor.results[0]
    buffer = Array("c", acc.name, "0")
    before = {v for n in r.needed([x]) for v in n.results} | {x}  # type: ignore[list-item]
    early = [j for j, v in enumerate(r.outputs) if v in before]
    late = [j for j, v in enumerate(r.outputs) if v not in before]
    lines = _pass(r, {}, [x], early, f"st{{}}_{acc}(c, j, {{}}{{}})")  # type: ignore[list-item]
    alone = len(late) == 1 and r.outputs[late[0]] is result
    y = Array(f"y{late[0]}", result.tensor.dtype.name, "base") if alone else buffer
    lines += anchor_lines(Rows(), r.anchor, buffer, y, acc)
    return lines if alone else lines + _pass(r, {result: acc}, [], late, "")


def _pass(r: RowRegion, buffered: dict[Value, DType], keep: Sequence[Value], outputs: Sequence[int], kept: str) -> list[str]:
    """One loop over the row: the values `keep` go to the buffer in the form `kept`, the outputs to their results."""

    def step(form: str, behind: str) -> list[str]:
        body, env = Printer(), dict(r.region.constants)
        for v, k in r.loaded.items():
            whole = f"ld{form}_{v.tensor.dtype}(x{k}, o{k} + j{behind})"
            env[v] = f"w{k}" if r.inner.is_single(k) else body.let(whole)  # type: ignore[assignment]
        for v, acc in buffered.items():
            x = body.let(f"ld{form}_{acc}(c, j{behind})")
            env[v] = x if v.tensor.dtype is acc else body.let(f"to_{v.tensor.dtype}({x})")  # type: ignore[assignment]
        print_nodes(body, r.needed([*keep, *(r.outputs[j] for j in outputs)]), env)  # type: ignore[arg-type]
        stores = [kept.format(form, f"{behind[2:]}, " if behind else "", named(env[v])) for v in keep]
        stores += [f"st{form}_{r.outputs[j].tensor.dtype}(y{j}, base + j{behind}, {named(env[r.outputs[j]])})" for j in outputs]
        return [*body.lines, *stores]

    main, tail = step("v", ""), step("m", ", n - j")
    return ["j = 0", "while j + LANES <= n:", *indent([*main, "j += LANES"]), "if j < n:", *indent(tail)]
