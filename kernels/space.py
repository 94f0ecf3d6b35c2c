"""The iteration space of elementwise kernels: broadcast axes collapsed to as few loops as the types allow.

Everything here is decided from types, when a kernel is built; `Space.ints` then puts numbers to it when the kernel is bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.layout import physical
from ..ir.types import TensorType
from .spec import Call, Dims, Refusal

# An operand's dim is the space's; is 1; is known at run time only; is the space's, of an operand that lies in another order.
FULL, ONE, MAYBE, APART = "full", "one", "maybe", "apart"


@dataclass(frozen=True, slots=True)
class Space:
    """The collapsed axes of a broadcast, outermost first.

    `groups` holds the logical axes of the result that each collapsed axis covers, in physical order; `classes[k][g]` says how
    operand k meets group g; `types` are the operands' types, `result` the results' common type.
    """

    groups: tuple[tuple[int, ...], ...]
    classes: tuple[tuple[str, ...], ...]
    types: tuple[TensorType, ...]
    result: TensorType

    def is_linear(self, k: int) -> bool:
        """Whether operand k has an element for each of the space, in the same order."""
        return all(c == FULL for c in self.classes[k])

    def is_single(self, k: int) -> bool:
        """Whether operand k is one element."""
        return all(c == ONE for c in self.classes[k])

    def is_strided(self, k: int) -> bool:
        """Whether operand k is broadcast along some axes and not along others, or may be."""
        return not (self.is_linear(k) or self.is_single(k))

    def sizes(self, call: Call) -> Dims:
        """The sizes of the collapsed axes."""
        shape = call.results[0]
        out = []
        for group in self.groups:
            n = 1
            for a in group:
                n *= shape[a]
            out.append(n)
        return tuple(out)

    def strides(self, k: int, shape: Dims, result: Dims) -> Dims:
        """Operand k's step in elements along each collapsed axis, for its actual shape and the result's. Raises ValueError where a
        size is neither 1 nor the result's, which types need not tell."""
        memory = _strides(shape, self.types[k])
        pad = len(self.result.shape or ()) - len(shape)
        out = []
        for group, cls in zip(self.groups, self.classes[k], strict=True):
            a = group[-1] - pad
            one = cls == ONE or (cls == MAYBE and shape[a] == 1)
            if cls == MAYBE and not one and shape[a] != result[group[-1]]:
                raise ValueError(f"dimensions {shape[a]} and {result[group[-1]]} do not broadcast")
            out.append(0 if one else memory[a])
        return tuple(out)


def _strides(shape: Dims, t: TensorType) -> Dims:
    """The distance in elements between neighbours along each logical axis."""
    order = range(len(shape)) if t.layout is None else t.layout.perm
    out, step = [0] * len(shape), 1
    for a in reversed(order):
        out[a] = step
        step *= shape[a]
    return tuple(out)


def make_space(operands: Sequence[TensorType], result: TensorType, any_order: bool = False) -> Space | Refusal:
    """The space of a broadcast to `result`, or a Refusal where an operand's axes lie in another order in memory. With `any_order`
    they may, where it is known which of its dims are 1."""
    assert result.shape is not None
    rank = len(result.shape)
    order = tuple(range(rank)) if result.layout is None else result.layout.perm
    axes = [a for a in order if result.shape[a] != 1]
    rows = []
    for t in operands:
        row = {a: _class(t, a - rank + len(t.shape or ()), result.shape[a]) for a in axes}
        lying = [p + rank - len(t.shape or ()) for p in physical(tuple(range(len(t.shape or ()))), t.layout)]
        if [a for a in axes if row[a] != ONE] != [a for a in lying if row.get(a, ONE) != ONE]:
            if any_order and MAYBE not in row.values():
                rows.append({a: APART if c == FULL else c for a, c in row.items()})
                continue
            return Refusal("the operands lie in different layouts in memory", {"operand": t, "result": result})
        rows.append(row)
    groups: list[list[int]] = []
    for a in axes:
        if groups and all(r[a] == r[groups[-1][-1]] not in (MAYBE, APART) for r in rows):
            groups[-1].append(a)
        else:
            groups.append([a])
    classes = tuple(tuple(r[g[0]] for g in groups) for r in rows)
    return Space(tuple(map(tuple, groups)), classes, tuple(operands), result)


def _class(t: TensorType, axis: int, size: object) -> str:
    assert t.shape is not None
    if axis < 0 or t.shape[axis] == 1:
        return ONE
    return FULL if t.shape[axis] == size else MAYBE
