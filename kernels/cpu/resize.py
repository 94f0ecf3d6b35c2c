"""Resize: tables of indices and weights for each axis, made when the node is bound, and two kernels that follow them.

An output row lies along the last resized axis (with the axes behind it, which it carries along). It is made by adding up weighted
input rows, whole and contiguous, into a buffer, and then elements of the buffer.
"""

from __future__ import annotations

import math

import numpy as np

from ...ir.core import Node
from ...ir.layout import physical
from ...ir.types import dtype_of
from ..boxes import strides_of
from ..operands import fill_in, first_int, first_result, tiles_for
from ..resize import Taps, resize_of
from ..spec import Call, Dims, KernelSource, Launch, Refusal
from .target import serves

# The parameters: rows, leading axes, elements of a row, elements behind the row's axis, its taps, slot of its table, fill, bytes
# of scratch for each tile, elements of an input row; then of each leading axis, innermost first: size, stride in elements, taps (0
# for an axis that stays), slot of its table. Tables hold the taps' indices of all positions; where there are weights these follow.
_HEAD = 9
_NEAREST = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    rows = param(p, FIRST)
    last = FIRST + 9 + 4 * param(p, FIRST + 1)
    width = param(p, FIRST + 2)
    inner = param(p, FIRST + 3)
    table = param(p, FIRST + 5)
    fill = ld_TYPE(p + 8 * (FIRST + 6), 0)
    for u in range(rows * tile // ntiles, rows * (tile + 1) // ntiles):
        source = x
        outside = False
        rest = u
        for k in range(FIRST + 9, last, 4):
            n = param(p, k)
            q = rest // n
            i = rest - q * n
            rest = q
            if param(p, k + 2) > 0:
                i = param(p, param(p, k + 3) + i)
            outside = outside or i < 0
            source += i * param(p, k + 1) * ITEM
        row = param(p, OUT) + u * width * inner * ITEM
        if outside:
            for j in range(width * inner):
                put_TYPE(row, j, fill)
        elif inner == 1:
            for j in range(width):
                i = param(p, table + j)
                put_TYPE(row, j, get_TYPE(source, i) if i >= 0 else fill)
        else:
            for j in range(width):
                i = param(p, table + j) * inner
                for e in range(inner):
                    put_TYPE(row, j * inner + e, get_TYPE(source, i + e) if i >= 0 else fill)
"""

_INTERPOLATE = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    rows = param(p, FIRST)
    last = FIRST + 9 + 4 * param(p, FIRST + 1)
    width = param(p, FIRST + 2)
    inner = param(p, FIRST + 3)
    taps = param(p, FIRST + 4)
    table = param(p, FIRST + 5)
    weights = p + 8 * (table + width * taps)
    fill = ld_REAL(p + 8 * (FIRST + 6), 0)
    n_in = param(p, FIRST + 8)
    buffer = param(p, OUT + 1) + tile * param(p, FIRST + 7)
    sums = buffer + n_in * SIZE
    for u in range(rows * tile // ntiles, rows * (tile + 1) // ntiles):
        row = param(p, OUT) + u * width * inner * ITEM
        combinations = 1
        for k in range(FIRST + 9, last, 4):
            combinations *= maximum(param(p, k + 2), 1)
        outside = False
        for c in range(combinations):
            source = x
            weight = REAL(1)
            choice = c
            rest = u
            for k in range(FIRST + 9, last, 4):
                n = param(p, k)
                q = rest // n
                i = rest - q * n
                rest = q
                m = param(p, k + 2)
                if m > 0:
                    at = i * m + choice % m
                    choice //= m
                    i = param(p, param(p, k + 3) + at)
                    weight = mul(weight, ld_REAL(p + 8 * (param(p, k + 3) + n * m), at))
                outside = outside or i < 0
                source += i * param(p, k + 1) * ITEM
            if outside:
                break
            if c == 0:
                for j in range(n_in):
                    put_REAL(buffer, j, mul(to_REAL(get_TYPE(source, j)), weight))
            else:
                for j in range(n_in):
                    put_REAL(buffer, j, add(ld_REAL(buffer, j), mul(to_REAL(get_TYPE(source, j)), weight)))
        if outside:
            for j in range(width * inner):
                v = fill
                st_TYPE(row, j, NARROW)
        elif inner == 1 and taps == 2:
            for j in range(width):
                i = param(p, table + 2 * j)
                v = fill
                if i >= 0:
                    a = mul(ld_REAL(buffer, i), ld_REAL(weights, 2 * j))
                    v = add(a, mul(ld_REAL(buffer, param(p, table + 2 * j + 1)), ld_REAL(weights, 2 * j + 1)))
                put_TYPE(row, j, NARROW)
        else:
            for j in range(width):
                if param(p, table + j * taps) < 0:
                    for e in range(inner):
                        st_REAL(sums, e, fill)
                else:
                    for e in range(inner):
                        st_REAL(sums, e, REAL(0))
                    for t in range(j * taps, (j + 1) * taps):
                        source = buffer + param(p, table + t) * inner * SIZE
                        weight = ld_REAL(weights, t)
                        for e in range(inner):
                            put_REAL(sums, e, add(ld_REAL(sums, e), mul(get_REAL(source, e), weight)))
                for e in range(inner):
                    v = ld_REAL(sums, e)
                    put_TYPE(row + j * inner * ITEM, e, NARROW)
"""


def _table(taps: Taps, real: np.dtype) -> list[int]:
    """The integers of a table: indices, then the bits of the weights, as they lie in memory."""
    ints = taps.index.ravel().tolist()
    if taps.weight is not None:
        raw = taps.weight.astype(real).tobytes()
        ints += np.frombuffer(raw + b"\0" * (-len(raw) % 8), np.int64).tolist()
    return ints


def parameters(taps: dict[int, Taps], shape: Dims, out: Dims, first: int, item: int, real: np.dtype, fill: bytes) -> Launch:
    """The launch for physical shapes; `taps` by physical axis."""
    axis = max(taps, default=max(len(shape) - 1, 0))
    inner, strides = math.prod(shape[axis + 1 :]), strides_of(shape)
    width = out[axis] if out else 1
    size = shape[axis] if shape else 1
    row = taps.get(axis) or Taps(np.arange(width)[:, None], np.ones((width, 1)))
    leading, tables = [], _table(row, real)
    at = first + _HEAD + 4 * axis
    slot = at + len(tables)
    for a in reversed(range(axis)):
        t = taps.get(a)
        leading += [out[a], strides[a], t.index.shape[1] if t else 0, slot]
        if t:
            more = _table(t, real)
            tables += more
            slot += len(more)
    rows = math.prod(out[:axis]) if 0 not in out else 0
    scratch = -(-(size + 1) * inner * real.itemsize // 64) * 64
    tiles = tiles_for(rows, rows * (width + size) * inner)
    head = [rows, axis, width, inner, row.index.shape[1], at, int.from_bytes(fill, "little", signed=True), scratch, size * inner]
    return Launch(tuple(head + leading + tables), tiles, tiles * scratch, units=rows, slice=scratch)


@serves("resize")
def resize(node: Node) -> KernelSource | Refusal:
    found = resize_of(node)
    if isinstance(found, Refusal):
        return found
    x, real = node.operands[0].tensor, found.real
    item, first = x.dtype.itemsize, first_int(node)

    def bind(call: Call) -> Launch:
        shape, out = call.operands[0], call.results[0]
        if 0 in out:
            return Launch((0,) * _HEAD)
        return parameters(found.taps(call), physical(shape, x.layout), physical(out, x.layout), first, item, real, found.fill)

    words = {"FIRST": first, "OUT": first_result(node), "ITEM": item, "SIZE": real.itemsize}
    if found.nearest:
        text = _NEAREST.replace("TYPE", f"u{8 * item}")
    else:
        text = _INTERPOLATE.replace("TYPE", str(x.dtype)).replace("REAL", str(dtype_of(real)))
        words["NARROW"] = found.narrow
    return KernelSource(fill_in(text, **words), bind, host=found.host)
