"""Rotary positions: pairs of elements of each head turned by the angles of their position."""

from __future__ import annotations

from ...ir.core import Node
from ..operands import fill_in, first_int, refuse_layouts, tiles_for
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
    refusal = refuse_layouts(node)
    x, cos, sin = (v.tensor for v in node.operands[:3])  # type: ignore[union-attr]
    if refusal is None and len({x.dtype, cos.dtype, sin.dtype}) > 1:
        refusal = Refusal("the caches are of another type", {"x": x, "cos_cache": cos, "sin_cache": sin})
    if refusal is not None:
        return refusal
    assert register(x.dtype) == "f32"
    given = node.operand(3) is not None
    rotated, heads = node.attr("rotary_embedding_dim"), node.attr("num_heads")
    pairs = ("2 * i", "2 * i + 1") if node.attr("interleaved") else ("i", "half + i")
    words = {"LEFT": pairs[0], "RIGHT": pairs[1], "PLACE": "ld_i64(param(p, 3), n * length + s) + 0" if given else "n * length + s"}
    text = _KERNEL.lstrip("\n").replace("_TYPE(", f"_{x.dtype}(")
    text = fill_in(text, **words, FIRST=first_int(node), RESULT=3 + given)

    def bind(call: Call) -> Launch:
        shape, cache = call.operands[:2]
        assert shape is not None and cache is not None
        if len(shape) == 4:
            b, h, s, d = shape
            steps = (h * s * d, s * d, d)
        else:
            b, h, s, d = shape[0], heads, shape[1], shape[2] // heads
            steps = (s * h * d, d, h * d)
        positions = cache[0] if given else b * s
        units = b * h * s
        return Launch((units, h, s, d, (rotated or d) // 2, positions, *steps), tiles_for(units, units * d), 8, units=units)

    return KernelSource(text, bind, checked="rotary_embedding: a position lies outside of the caches" if given else "")
