"""Rotary positions: pairs of elements of each head turned by the angles of their position."""

from __future__ import annotations

from ...ir.core import Node
from ..attention import refuse_rotary, rotary_of
from ..operands import fill_in, first_int, tiles_for
from ..printer import register
from ..spec import Call, KernelSource, Launch, Refusal
from .target import serves

_KERNEL = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    y = param(p, RESULT)
    cos = param(p, 1)
    sin = param(p, 2)
    heads = param(p, FIRST + 1)
    length = param(p, FIRST + 2)
    size = param(p, FIRST + 3)
    half = param(p, FIRST + 4)
    positions = param(p, FIRST + 5)
    n_step = param(p, FIRST + 6)
    h_step = param(p, FIRST + 7)
    s_step = param(p, FIRST + 8)
    units = param(p, FIRST)
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        n = u // (heads * length)
        h = u // length % heads
        s = u % length
        at = n * n_step + h * h_step + s * s_step
        place = PLACE
        if place < 0 or place >= positions:
            st_i64(param(p, RESULT + 1), 0, 1)
        else:
            for i in range(half):
                a = get_TYPE(x, at + LEFT)
                b = get_TYPE(x, at + RIGHT)
                c = get_TYPE(cos, place * half + i)
                d = get_TYPE(sin, place * half + i)
                put_TYPE(y, at + LEFT, to_TYPE(sub(mul(c, a), mul(d, b))))
                put_TYPE(y, at + RIGHT, to_TYPE(add(mul(d, a), mul(c, b))))
            for i in range(2 * half, size):
                put_TYPE(y, at + i, get_TYPE(x, at + i))
"""


@serves("rotary_embedding")
def rotary_embedding(node: Node) -> KernelSource | Refusal:
    """The kernel of rotary_embedding, in f32."""
    refusal = refuse_rotary(node)
    if refusal is not None:
        return refusal
    x = node.operands[0].tensor  # type: ignore[union-attr]
    assert register(x.dtype) == "f32"
    given = node.operand(3) is not None
    pairs = ("2 * i", "2 * i + 1") if node.attr("interleaved") else ("i", "half + i")
    words = {"LEFT": pairs[0], "RIGHT": pairs[1], "PLACE": "ld_i64(param(p, 3), n * length + s) + 0" if given else "n * length + s"}
    text = _KERNEL.lstrip("\n").replace("_TYPE(", f"_{x.dtype}(")
    text = fill_in(text, **words, FIRST=first_int(node), RESULT=3 + given)

    def bind(call: Call) -> Launch:
        r = rotary_of(node, call)
        units = r.batch * r.heads * r.length
        ints = (units, r.heads, r.length, r.size, r.half, r.positions, r.batch_step, r.head_step, r.step)
        return Launch(ints, tiles_for(units, units * r.size), 8, units=units)

    return KernelSource(text, bind, checked="rotary_embedding: a position lies outside of the caches" if given else "")
