"""Indices that count: that each row picks from itself. Masks of exported transformers are read by batch * $seq + position."""

from __future__ import annotations

from ..core import Value
from ..infer import contents
from ..symbols import Dim, DimLike, prove_ge, prove_le
from .site import Factor, Site

SAME = ("reshape", "unsqueeze", "squeeze", "flatten", "expand", "transpose", "identity")
Count = tuple[DimLike, DimLike]  # scale, limit
DEEPEST = 32  # nodes between an index and where its counting begins


def counted(site: Site, v: Value | None, depth: int = 0) -> Count | None:
    """(scale, limit) where each element of an integer tensor is scale * r + t with 0 <= t < limit, r being the number of the row
    of $S that the element belongs to (0 where it belongs to none); None where that is not known."""
    if v is None or depth > DEEPEST:
        return None
    known = _constant(v)
    if known is not None:
        return (0, known + 1) if prove_ge(known, 0) and not site.mentions(known) else None
    node = v.node
    if node is None:
        return None
    inner = [counted(site, x, depth + 1) for x in (node.operands[:1] if node.op.name in SAME else node.operands)]
    if node.op.name == "range":
        return _range(site, v)
    if node.op.name in SAME:
        return inner[0]
    if node.op.name == "add" and inner[0] and inner[1]:
        (a, m), (b, n) = inner[0], inner[1]
        return a + b, m + n - 1
    if node.op.name == "mul" and inner[0] and inner[1]:
        for (a, m), x in zip(inner, reversed(node.operands)):  # type: ignore[misc]
            by = None if x is None else _constant(x)
            if by is not None and prove_ge(by, 0) and not site.mentions(by):
                return a * by, (m - 1) * by + 1
    return None


def _constant(v: Value) -> DimLike | None:
    """The only number that a value holds, a size perhaps."""
    found = contents(v)
    if found is None or found.dtype.kind not in "iuO" or found.size == 0:
        return None
    items = found.ravel().tolist()
    return items[0] if all(isinstance(x, (int, Dim)) and x == items[0] for x in items) else None


def _range(site: Site, v: Value) -> Count | None:
    """0, 1, ... to a size: along rows the number of the row."""
    assert v.node is not None
    start, delta = (None if x is None else _constant(x) for x in (v.node.operand(0), v.node.operand(2)))
    if start != 0 or delta != 1 or v.tensor.shape is None or not v.tensor.dtype.is_integer:
        return None
    (n,) = v.tensor.shape
    if n == site.dim:
        return 1, 1
    return None if site.mentions(n) else (0, n)


def picks_itself(site: Site, v: Value | None, factor: Factor) -> bool:
    """Whether indices that carry rows, into an axis that holds rows so, each stay within their own row."""
    outer, inner = factor
    found = counted(site, v)
    return found is not None and outer == 1 and found[0] == inner and prove_le(found[1], inner)
