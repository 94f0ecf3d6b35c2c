"""Selections whose length the data decide: where elements are not zero, what a condition keeps, which boxes do not overlap.

The results are as long as they could be; the kernel reports how long they are (`KernelSource.trim`).
"""

from __future__ import annotations

import math

from ...ir.core import Node
from ..indexing import moved_as
from ..operands import fill_in, first_int, refuse_layouts, refuse_strings, slot_of
from ..printer import register, supported
from ..spec import Call, Dims, KernelSource, Launch, Refusal
from .target import serves

LENGTH = 16  # bytes of scratch: the word for errors and the length

# Sizes, then the strides, of the axes. Positions go to a column each; the step between rows is the bound of the length.
_NON_ZERO = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    y = param(p, 1)
    n = param(p, FIRST)
    count = 0
    for i in range(n):
        if TEST:
            rest = i
            for a in range(RANK):
                step = param(p, FIRST + 1 + a)
                q = rest // step
                st_i64(y, a * n + count, q)
                rest -= q * step
            count += 1
    st_i64(param(p, 2), 1, count)
"""


@serves("non_zero")
def non_zero(node: Node) -> KernelSource | Refusal:
    """The kernel of non_zero."""
    refusal = refuse_strings(node) or refuse_layouts(node)
    x = node.operands[0].tensor  # type: ignore[union-attr]
    if refusal is None and not supported(x.dtype):
        refusal = Refusal("an element type that kernels do not compute with", {"x": x})
    if refusal is not None:
        return refusal
    test = "ld_bool(x, i)" if x.dtype.name == "bool" else f"ld_{x.dtype}(x, i) != {register(x.dtype)}(0)"
    text = fill_in(_NON_ZERO.lstrip("\n"), FIRST=first_int(node), RANK=x.rank, TEST=test)

    def bind(call: Call) -> Launch:
        shape = call.operands[0] or ()
        return Launch((math.prod(shape), *(max(1, math.prod(shape[a + 1 :])) for a in range(len(shape)))), 1, LENGTH)

    def bound(call: Call) -> list[Dims]:
        shape = call.operands[0] or ()
        return [(len(shape), math.prod(shape))]

    return KernelSource(text, bind, bound=bound, trim=(1,))


# x[outer, size, inner] in bytes of items; the condition may be shorter or longer than the axis.
_COMPRESS = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    y = param(p, 2)
    outer = param(p, FIRST)
    size = param(p, FIRST + 1)
    inner = param(p, FIRST + 2)
    n = param(p, FIRST + 3)
    length = param(p, FIRST + 4)
    count = 0
    for i in range(minimum(n, length)):
        if ld_bool(param(p, 1), i):
            for b in range(outer):
                memcpy(y + (b * size + count) * inner, x + (b * size + i) * inner, inner)
            count += 1
    for i in range(n, length):
        if ld_bool(param(p, 1), i):
            st_i64(param(p, 3), 0, 1)
    st_i64(param(p, 3), 1, count)
"""


@serves("compress")
def compress(node: Node) -> KernelSource | Refusal:
    """The kernel of compress."""
    refusal = refuse_strings(node) or refuse_layouts(node)
    if refusal is not None:
        return refusal
    x, axis = node.operands[0].tensor, node.attr("axis")  # type: ignore[union-attr]
    at = None if axis is None else axis % max(x.rank or 0, 1)
    _, item, each = moved_as(x.dtype)

    def bind(call: Call) -> Launch:
        shape, condition = call.operands[:2]
        assert shape is not None and condition is not None
        outer, n, inner = (1, math.prod(shape), 1) if at is None else (math.prod(shape[:at]), shape[at], math.prod(shape[at + 1 :]))
        return Launch((outer, n, inner * item * each, n, condition[0]), 1, LENGTH)

    def bound(call: Call) -> list[Dims]:
        shape = call.operands[0] or ()
        return [(math.prod(shape),) if at is None else shape]

    message = f"compress: the condition holds true behind the end of the axis of {x}"
    text = fill_in(_COMPRESS.lstrip("\n"), FIRST=first_int(node))
    return KernelSource(text, bind, checked=message, bound=bound, trim=(0 if at is None else at,))


# Boxes become corners in scratch memory, candidates are kept in a heap by score (of equal ones the first), and each one that comes
# is compared with those kept. Once FEW of a class are kept, what each one strikes out is a row of bits that is made once for all
# classes of an image: n^2 comparisons at most for each image, and n / 64 words for each box kept.
FEW = 256  # boxes kept of a class before rows are made
MOST_ROWS = 64 << 20  # bytes of all rows: without them each candidate is compared with all kept, as ONNX Runtime does

_NMS = """
@function
def before(scores, a, b):
    x = ld_f32(scores, a)
    y = ld_f32(scores, b)
    if x != x or y != y:
        return (a < b) if (x != x) == (y != y) else x == x
    return x > y or (x == y and a < b)


@function
def sink(heap, scores, at, n):
    top = ld_i64(heap, at) + 0
    while 2 * at + 1 < n:
        child = 2 * at + 1
        if child + 1 < n and before(scores, ld_i64(heap, child + 1), ld_i64(heap, child)):
            child += 1
        if not before(scores, ld_i64(heap, child), top):
            break
        st_i64(heap, at, ld_i64(heap, child))
        at = child
    st_i64(heap, at, top)


@function
def area(corners, n, i):
    height = sub(ld_f32(corners, 2 * n + i), ld_f32(corners, i))
    return mul(height, sub(ld_f32(corners, 3 * n + i), ld_f32(corners, n + i)))


@function
def overlaps(corners, n, a, b, limit):
    y1 = maximum(ld_f32(corners, a), ld_f32(corners, b))
    x1 = maximum(ld_f32(corners, n + a), ld_f32(corners, n + b))
    y2 = minimum(ld_f32(corners, 2 * n + a), ld_f32(corners, 2 * n + b))
    x2 = minimum(ld_f32(corners, 3 * n + a), ld_f32(corners, 3 * n + b))
    common = mul(maximum(sub(y2, y1), f32(0)), maximum(sub(x2, x1), f32(0)))
    first = area(corners, n, a)
    second = area(corners, n, b)
    union = sub(add(first, second), common)
    return first > 0 and second > 0 and union > 0 and div(common, union) > limit


@function
def strike(corners, n, box, limit, rows, words, made, dead):
    row = rows + box * words * 8
    if ld_i64(made, box) == 0:
        some = 1
        for w in range(words):
            bits = 0
            for i in range(64 * w, minimum(64 * w + 64, n)):
                bits |= (1 if overlaps(corners, n, box, i, limit) else 0) << (i - 64 * w)
            if w == box // 64:
                bits &= ~(1 << (box % 64))
            if bits != 0:
                some = 2
            st_i64(row, w, bits)
        st_i64(made, box, some)
    if ld_i64(made, box) == 2:  # it strikes out others
        for w in range(words):
            put_i64(dead, w, get_i64(dead, w) | get_i64(row, w))


def kernel(p, tile, ntiles):
    batch = param(p, FIRST)
    classes = param(p, FIRST + 1)
    n = param(p, FIRST + 2)
    words = param(p, FIRST + 3)
    y = param(p, RESULT)
    most = MOST
    limit = LIMIT
    heap = param(p, RESULT + 1) + 64
    corners = heap + n * 8
    made = corners + n * 16
    dead = made + n * 8
    rows = dead + words * 8
    count = 0
    for b in range(batch):
        if words > 0:
            memset(made, 0, n * 8)
        boxes = param(p, 0) + b * n * 16
        for i in range(n):
            b0 = ld_f32(boxes, 4 * i)
            b1 = ld_f32(boxes, 4 * i + 1)
            b2 = ld_f32(boxes, 4 * i + 2)
            b3 = ld_f32(boxes, 4 * i + 3)
            CORNERS
        for c in range(classes):
            scores = param(p, 1) + (b * classes + c) * n * 4
            left = 0
            for i in range(n):
                if LEAST:
                    st_i64(heap, left, i)
                    left += 1
            for i in range(left // 2 - 1, -1, -1):
                sink(heap, scores, i, left)
            first = count
            struck = 0
            while left > 0 and count - first < most:
                box = ld_i64(heap, 0) + 0
                left -= 1
                st_i64(heap, 0, ld_i64(heap, left))
                sink(heap, scores, 0, left)
                good = True
                if words > 0 and count - first >= FEW:
                    if struck == 0:
                        memset(dead, 0, words * 8)
                    for kept in range(first + struck, count):
                        strike(corners, n, ld_i64(y, 3 * kept + 2) + 0, limit, rows, words, made, dead)
                    struck = count - first
                    good = (ld_i64(dead, box // 64) >> (box % 64)) & 1 == 0
                else:
                    for kept in range(first, count):
                        if overlaps(corners, n, ld_i64(y, 3 * kept + 2) + 0, box, limit):
                            good = False
                            break
                if good:
                    st_i64(y, 3 * count, b)
                    st_i64(y, 3 * count + 1, c)
                    st_i64(y, 3 * count + 2, box)
                    count += 1
    st_i64(param(p, RESULT + 1), 1, count)
"""
_CORNERS = {
    0: ("minimum(b0, b2)", "minimum(b1, b3)", "maximum(b0, b2)", "maximum(b1, b3)"),
    1: ("sub(b1, b3 / f32(2))", "sub(b0, b2 / f32(2))", "add(b1, b3 / f32(2))", "add(b0, b2 / f32(2))"),
}


@serves("non_max_suppression")
def non_max_suppression(node: Node) -> KernelSource | Refusal:
    """The kernel of non_max_suppression."""
    refusal = refuse_layouts(node)
    if refusal is not None:
        return refusal
    stores = [f"st_f32(corners, {k} * n + i, {x})" for k, x in enumerate(_CORNERS[bool(node.attr("center_point_box"))])]
    optional = {i: f"param(p, {slot_of(node, i)})" for i in (2, 3, 4) if node.operand(i) is not None}
    words = {
        "FIRST": first_int(node), "RESULT": first_int(node) - 2,
        "MOST": f"ld_i64({optional[2]}, 0) + 0" if 2 in optional else "0",
        "LIMIT": f"ld_f32({optional[3]}, 0)" if 3 in optional else "f32(0)",
        "LEAST": f"ld_f32(scores, i) > ld_f32({optional[4]}, 0)" if 4 in optional else "True",
        "CORNERS": "\n            ".join(stores), "FEW": FEW,
    }  # fmt: skip

    def bind(call: Call) -> Launch:
        batch, classes, n = call.operands[1]  # type: ignore[misc]
        words = -(-n // 64)
        words = words if n > FEW and n * words * 8 <= MOST_ROWS else 0
        return Launch((batch, classes, n, words), 1, 64 + n * 32 + words * 8 + n * words * 8)

    def bound(call: Call) -> list[Dims]:
        most = call.contents.get(2)
        batch, classes, n = call.operands[1]  # type: ignore[misc]
        kept = n if most is None else min(n, max(int(most.item()), 0))
        return [(batch * classes * (kept if 2 in optional else 0), 3)]

    host = frozenset({2} if 2 in optional else ())
    return KernelSource(fill_in(_NMS.lstrip("\n"), **words), bind, host=host, bound=bound, trim=(0,))
