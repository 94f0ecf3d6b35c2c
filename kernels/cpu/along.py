"""Along one axis: the place of an extreme, running sums and products."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir.core import Node
from ...ir.recording import greatest
from ...ir.reduction import Reduction
from ...ir.types import DType
from ..lines import along_extreme, check_extreme, refuse_running, running_line
from ..operands import first_int, first_result, tiles_for
from ..printer import literal
from ..spec import Call, KernelSource, Launch, Refusal
from .reduce import indent
from .target import serves


def line_text(result: int, ints: int, body: Sequence[str]) -> str:
    """A kernel that runs `body` for each line u, whose first element is o."""
    return "\n".join([
        "def kernel(p, tile, ntiles):", "    x = param(p, 0)", f"    y = param(p, {result})", f"    lines = param(p, {ints})",
        f"    n = param(p, {ints + 1})", f"    inner = param(p, {ints + 2})",
        "    for u in range(lines * tile // ntiles, lines * (tile + 1) // ntiles):", "        q = u // inner",
        "        o = q * n * inner + (u - q * inner)", *indent(indent(body)), "",
    ])  # fmt: skip


@serves("arg_max", "arg_min")
def arg_extreme(node: Node) -> KernelSource | Refusal:
    """The place of the greatest or least element along an axis; NaN counts as more extreme than any number."""
    how = along_extreme(node)
    if isinstance(how, Refusal):
        return how
    x, axis, rows = node.operands[0].tensor, how.axis, how.contiguous  # type: ignore[union-attr]
    lines = _extreme_of_row(node, x.dtype) if rows else _extremes_of_columns(node, x.dtype)
    names = [f"{name} = param(p, {first_int(node) + i})" for i, name in enumerate(("units", "n", "inner", "blocks"))]
    head = ["x = param(p, 0)", f"y = param(p, {first_result(node)})", *names]
    loop = ["for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):", *indent(lines)]
    text = "\n".join(["def kernel(p, tile, ntiles):", *indent([*head, *loop]), ""])

    def bind(call: Call) -> Launch:
        shape = check_extreme(node, axis, call)
        n, inner = shape[axis], math.prod(shape[axis + 1 :])
        outer, blocks = math.prod(shape[:axis]), 1 if rows else -(-inner // 64)
        units = outer * inner if rows else outer * blocks
        return Launch((units, n, inner, greatest(blocks, 1)), tiles_for(units, units * n * (1 if rows else 64)))

    return KernelSource(text, bind, "rows" if rows else "columns")


def _extreme_of_row(node: Node, dtype: DType) -> list[str]:
    """First the extreme, in vectors; then the first (or last) place that holds it."""
    fn, fold = ("maximum", "hmax") if node.op.name == "arg_max" else ("minimum", "hmin")
    places = "range(n - 1, -1, -1)" if node.attr("select_last_index") else "range(n)"
    found = "v == best" if not dtype.is_float else "v == best or (v != v and best != best)"
    take = [f"a{i} = {fn}(a{i}, ldv_{dtype}(x, o + j + {i} * LANES))" for i in range(4)]
    # A tail shorter than a vector is filled with the row's first element.
    tail = [f"a0 = {fn}(a0, head(ldm_{dtype}(x, o + j, n - j), n - j, first))", "j += LANES"]
    return [
        "o = u * n", f"first = ld_{dtype}(x, o)", *(f"a{i} = splat(first)" for i in range(4)), "j = 0",
        "while j + 4 * LANES <= n:", *indent([*take, "j += 4 * LANES"]), "while j < n:", *indent(tail),
        f"best = {fold}({fn}({fn}(a0, a1), {fn}(a2, a3)))", "place = 0", f"for j in {places}:",
        *indent([f"v = ld_{dtype}(x, o + j)", f"if {found}:", "    place = j", "    break"]), "st_i64(y, u, place)",
    ]  # fmt: skip


def _extremes_of_columns(node: Node, dtype: DType) -> list[str]:
    """Up to 64 neighbouring lines, a vector of them at a time."""
    better = {"arg_max": "gt", "arg_min": "lt"}[node.op.name]
    last = node.attr("select_last_index")
    ordinary = f"{better[0]}e(v, best)" if last else f"{better}(v, best)"
    if dtype.is_float:
        first = "isnan(v)" if last else "and_(isnan(v), not_(isnan(best)))"
        ordinary = f"or_(and_({ordinary}, not_(isnan(best))), {first})"

    def vector(load: str, store: str) -> list[str]:
        step = [f"v = {load.format('o + c + j * inner')}", f"better = {ordinary}", "best = where(better, v, best)"]
        return [f"best = {load.format('o + c')}", "place = splat(0)", "for j in range(1, n):",
                *indent([*step, "place = where(better, j, place)"]), store]  # fmt: skip

    whole = vector(f"ldv_{dtype}(x, {{}})", "stv_i64(y, q * inner + c, place)")
    part = vector(f"ldm_{dtype}(x, {{}}, inner - c)", "stm_i64(y, q * inner + c, inner - c, place)")
    body = ["if c + LANES <= inner:", *indent(whole), "else:", *indent(part)]
    return ["q = u // blocks", "o = q * n * inner", "b = (u - q * blocks) * 64",
            "for c in range(b, minimum(b + 64, inner), LANES):", *indent(body)]  # fmt: skip


@serves("cum_sum", "cum_prod")
def running(node: Node) -> KernelSource | Refusal:
    """Running sums and products, in f32 for f16 and bf16."""
    x, refusal = node.operands[0].tensor, refuse_running(node)  # type: ignore[union-attr]
    if refusal is not None:
        return refusal
    acc, fn, first = Reduction.accumulator(x.dtype), *(("add", 0) if node.op.name == "cum_sum" else ("mul", 1))
    add = [f"acc = {fn}(acc, ld_{x.dtype}(x, at))"]
    store = [f"st_{x.dtype}(y, at, acc)"]
    if node.attr("exclusive"):
        add, store = [f"v = ld_{x.dtype}(x, at)", *store], [f"acc = {fn}(acc, v)"]
    place = "(n - 1 - j)" if node.attr("reverse") else "j"
    body = [f"acc = {literal(first, acc)}", "for j in range(n):", f"    at = o + {place} * inner", *indent([*add, *store])]
    host: set[int] = set()
    line = running_line(node, host)

    def bind(call: Call) -> Launch:
        """Parameters: lines, elements of one, their distance."""
        lines, n, inner = line(call)
        return Launch((lines, n, inner), tiles_for(lines, lines * n), units=lines)

    return KernelSource(line_text(first_result(node), first_int(node), body), bind, "lines", host=frozenset(host))
