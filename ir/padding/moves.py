"""Rules of the padding analysis for what moves data: views, transposes, parts, joins, broadcasts, indices."""

from __future__ import annotations

from collections.abc import Sequence

from ..symbols import DimLike, exact_quotient, product
from .counting import picks_itself
from .site import FREE, ROWS, Carried, Factor, Site, rule


@rule("reshape", "flatten", "squeeze", "unsqueeze")
def view(site: Site) -> list[Carried]:
    """The order in memory stays: rows keep what stands before and behind them in it. (The sizes asked for are in the types.)"""
    source, target = site.dims(0), site.shape()
    site.sizes_only(1)
    if not site.carried(0):
        site.refuse(f"it takes a shape made of ${site.name} for data that has none of it")
    return [{_behind(site, source, axis, factor, target): _inside(site, source, axis, factor, target)
             for axis, factor in site.carried(0).items()}]  # fmt: skip


def _behind(site: Site, source: Sequence[DimLike], axis: int, factor: Factor, target: Sequence[DimLike]) -> int:
    """The axis of a view's result in which the rows of an axis stand."""
    for i in range(len(target)):
        if _split(site, source, axis, factor, target, i) is not None:
            return i
    shown = [f"[{','.join(map(str, s))}]" for s in (source, target)]
    site.refuse(f"rows of ${site.name} (axis {axis}) do not stay together from {shown[0]} to {shown[1]}")


def _inside(site: Site, source: Sequence[DimLike], axis: int, factor: Factor, target: Sequence[DimLike]) -> Factor:
    found = _split(site, source, axis, factor, target, _behind(site, source, axis, factor, target))
    assert found is not None
    return found


def _split(site: Site, source: Sequence[DimLike], axis: int, factor: Factor, target: Sequence[DimLike], i: int) -> Factor | None:
    """What stands around the rows in axis i of the target; None where they do not stand in it."""
    if not site.mentions(target[i]) or 0 in (*source, *target):
        return None
    outer = _quotient([*source[:axis], factor[0]], target[:i])
    if outer is None or site.mentions(outer):
        return None
    # As many elements stand on both sides, so that what is behind the rows is equal where what is before them is.
    inner = exact_quotient(target[i], outer * site.dim)
    return None if inner is None or site.mentions(inner) else (outer, inner)


def _quotient(above: Sequence[DimLike], below: Sequence[DimLike]) -> DimLike | None:
    """One product of sizes over another; what stands in both is left out, since long sizes are not divided."""
    rest = list(above)
    left = []
    for d in below:
        if d in rest:
            rest.remove(d)
        else:
            left.append(d)
    return exact_quotient(product(rest), product(left))


@rule("transpose")
def transpose(site: Site) -> list[Carried]:
    rank = len(site.dims(0))
    perm = site.node.attr("perm") or tuple(reversed(range(rank)))
    carried = site.carried(0)
    return [{i: carried[a] for i, a in enumerate(perm) if a in carried}]


@rule("concat")
def concat(site: Site) -> list[Carried]:
    axis = site.axis(site.node.attr("axis"), len(site.dims(0)))
    all_carried = [site.carried(i) for i in range(len(site.states))]
    for carried in all_carried:
        site.apart(carried, [axis], "joins rows of")
    if any(carried != all_carried[0] for carried in all_carried):
        site.refuse(f"operands hold ${site.name} along different axes")
    return [all_carried[0]]


@rule("split")
def split(site: Site) -> list[Carried]:
    site.others_free(0)
    site.apart(site.carried(0), [site.axis(site.node.attr("axis"), len(site.dims(0)))], "splits rows of")
    return [site.carried(0)] * len(site.node.results)


@rule("slice")
def slice_(site: Site) -> list[Carried]:
    """Rows are sliced only as a whole, or to the first one. Of what is free $S elements become rows, where the start is known."""
    source, target, carried = site.dims(0), site.shape(), dict(site.carried(0))
    site.sizes_only(1, 2, 3, 4)
    starts, steps = site.entries(1), site.entries(4) if site.has(4) else None
    axes = site.ints(3) if site.has(3) else list(range(len(starts or ())))
    if starts is None or axes is None or (site.has(4) and steps is None):
        site.refuse(f"which part it takes is not known, beside ${site.name}")
    for k, axis in enumerate(a % len(source) for a in axes):
        start, step = starts[k], 1 if steps is None else steps[k]
        if axis in carried and start == 0 and target[axis] == 1 and carried[axis][0] == 1:
            del carried[axis]  # the first element is there always, and of the first row
        elif axis in carried and (start != 0 or step != 1 or source[axis] != target[axis]):
            site.refuse(f"it takes a part of the rows of ${site.name} (axis {axis})")
        if site.mentions(start) or site.mentions(step):
            site.refuse(f"where it starts along axis {axis} is made of ${site.name}")
        if axis not in carried and site.mentions(target[axis]):
            if not isinstance(start, int) or start < 0 or not isinstance(step, int) or step < 1:
                site.refuse(f"where it starts along axis {axis} is not known")
            carried[axis] = ROWS
    return [carried]


@rule("expand", "constant_of_shape")
def expand(site: Site) -> list[Carried]:
    """Axes that become as long as the rows hold the same in each."""
    target = site.shape()
    is_fill = site.node.op.name == "constant_of_shape"
    site.sizes_only(0 if is_fill else 1)
    carried, rank = (FREE, 0) if is_fill else (site.carried(0), len(site.dims(0)))
    out = {}
    for i, d in enumerate(target):
        axis = i - (len(target) - rank)
        if axis in carried:
            out[i] = carried[axis]
        elif site.mentions(d):
            if axis >= 0 and site.dims(0)[axis] != 1:
                site.refuse(f"it broadcasts {site.dims(0)[axis]} to {d}")
            out[i] = (1, site.times(d))
    return [out]


@rule("tile")
def tile(site: Site) -> list[Carried]:
    """Whole copies stand one behind the other: they are what is outermost."""
    repeats, source = site.entries(1), site.dims(0)
    site.sizes_only(1)
    if repeats is None or None in repeats:
        site.refuse("how often it repeats is not known")
    out = {}
    for axis, (n, d) in enumerate(zip(repeats, source, strict=True)):
        assert n is not None
        if axis in site.carried(0):
            outer, inner = site.carried(0)[axis]
            out[axis] = (n * outer, inner)
        elif site.mentions(n):
            out[axis] = (1, site.times(n) * d)
    return [out]


@rule("range")
def range_(site: Site) -> list[Carried]:
    """Counting to $S: number r is in row r, however many there are."""
    start, delta = site.ints(0), site.ints(2)
    site.sizes_only(1)
    if start is None or delta is None:
        site.refuse(f"it counts from or by numbers that may be made of ${site.name}")
    return [{0: (1, site.times(site.shape()[0]))}]


@rule("trilu")
def trilu(site: Site) -> list[Carried]:
    site.others_free(0)
    return [site.carried(0)]


@rule("pad")
def pad(site: Site) -> list[Carried]:
    carried, pads = site.carried(0), site.entries(1)
    site.others_free(0, 1)
    rank = len(site.dims(0))
    axes = site.ints(3) if site.has(3) else list(range(rank))
    if pads is None or axes is None:
        site.refuse("how much it pads is not known")
    for k, axis in enumerate(a % rank for a in axes):
        if axis in carried and (pads[k] != 0 or pads[k + len(axes)] != 0):
            site.refuse(f"it pads ${site.name} itself (axis {axis})")
    return [carried]


# ---- by index ---------------------------------------------------------------------------------------------------


@rule("gather", "gather_block_quantized")
def gather(site: Site) -> list[Carried]:
    """Indices that carry rows take what is free; rows are gathered from along other axes only, but for the first."""
    name = "axis" if site.node.op.name == "gather" else "gather_axis"
    data, indices, rank = site.carried(0), site.carried(1), len(site.dims(0))
    axis, n = site.axis(site.node.attr(name), rank), len(site.dims(1))
    site.others_free(0, 1)
    if data and indices:
        if set(data) != {axis} or len(indices) != 1 or not picks_itself(site, site.node.operand(1), data[axis]):
            site.refuse(f"its indices may reach other rows of ${site.name}")
        return [{axis + a: f for a, f in indices.items()}]
    found = site.ints(1)
    if axis in data and not (data[axis][0] == 1 and found and set(found) == {0}):  # an element of row 0, which is there always
        site.refuse(f"it picks rows of ${site.name} (axis {axis})")
    out = {a if a < axis else a + n - 1: f for a, f in data.items() if a != axis}
    return [out | {axis + a: f for a, f in indices.items()}]


@rule("gather_elements")
def gather_elements(site: Site) -> list[Carried]:
    data, indices = site.carried(0), site.carried(1)
    axis = site.axis(site.node.attr("axis"), len(site.dims(0)))
    site.apart(data, [axis], "picks rows of")
    if {a: f for a, f in indices.items() if a != axis} != dict(data):
        site.refuse(f"data and indices hold ${site.name} along different axes")
    return [indices]


@rule("gather_nd")
def gather_nd(site: Site) -> list[Carried]:
    data, indices, batch = site.carried(0), site.carried(1), site.node.attr("batch_dims")
    rank, depth = len(site.dims(1)), site.dims(1)[-1]
    if not isinstance(depth, int):
        site.refuse("the depth of its indices is not known")
    site.apart(indices, [rank - 1], "indexes by")
    picked = [a for a in range(batch, batch + depth) if a in data]
    if len(picked) == 1 == len(data) and batch == 0 and len(indices) == 1 and _columns(site, picked[0], data[picked[0]]):
        return [indices]
    site.apart(data, picked, "picks rows of")
    if {a: f for a, f in data.items() if a < batch} != {a: f for a, f in indices.items() if a < batch}:
        site.refuse(f"data and indices hold ${site.name} along different axes")
    if any(a >= batch for a in data) and any(a >= batch for a in indices):
        site.refuse(f"data and indices both hold ${site.name}")
    return [dict(indices) | {a - batch - depth + rank - 1: f for a, f in data.items() if a >= batch}]


def _columns(site: Site, column: int, factor: Factor) -> bool:
    """Whether a column of gather_nd's indices, which are joined from columns, stays within its own row."""
    v = site.node.operand(1)
    joined = v.node if v is not None else None
    if joined is None or joined.op.name != "concat" or joined.attr("axis") not in (-1, len(site.dims(1)) - 1):
        return False
    if any(x is None or x.tensor.shape is None or x.tensor.shape[-1] != 1 for x in joined.operands):
        return False
    return picks_itself(site, joined.operands[column], factor)


@rule("one_hot")
def one_hot(site: Site) -> list[Carried]:
    site.others_free(0)
    rank = len(site.dims(0)) + 1
    axis = site.axis(site.node.attr("axis"), rank)
    return [{a if a < axis else a + 1: f for a, f in site.carried(0).items()}]


@rule("cast_like", "identity")
def as_it_is(site: Site) -> list[Carried]:
    return [site.carried(0)]


@rule("affine_grid")
def affine_grid(site: Site) -> list[Carried]:
    """A grid for each matrix; of the sizes only the first is of rows, and the type says so."""
    carried = site.carried(0)
    site.sizes_only(1)
    if set(carried) - {0}:
        site.refuse(f"${site.name} is not the batch")
    return [carried]
