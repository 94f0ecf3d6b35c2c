"""What a rule of the padding analysis is given: a node, and how its operands hold the rows of the symbol that is padded.

A value *carries* rows along an axis whose size is outer * $S * inner: element (o, r, i) of it belongs to row r. Where a rule
says that a result carries rows, it promises that row r is computed from rows up to r (most rules: from row r alone), from r
itself and from what does not depend on $S: then rows that are added behind the last one change none of the others. An axis that
carries nothing, and a value whose `Carried` is empty, are the same whatever is added.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NoReturn

from ..core import Node, Value
from ..infer import contents
from ..symbols import Dim, DimLike, exact_quotient, symbols_of
from ..types import MapType, OptionalType, SequenceType, TensorType, Type

Factor = tuple[DimLike, DimLike]  # outer, inner
Carried = Mapping[int, Factor]  # by axis
FREE: Carried = {}
ROWS: Factor = (1, 1)


class Sizes:
    """The state of a value whose contents are integers made of $S, which `Value.dims` has: good as a size, not as a number."""


State = Carried | Sizes


def mentions(d: object, symbol: str) -> bool:
    """Whether a size is made of a symbol."""
    return isinstance(d, Dim) and any(s.name == symbol for s in symbols_of(d))


def speaks(t: Type | None, symbol: str) -> bool:
    """Whether a type has a symbol anywhere."""
    if isinstance(t, TensorType):
        return any(mentions(d, symbol) for d in t.shape or ())
    inner = t.value if isinstance(t, MapType) else t.elem if isinstance(t, (SequenceType, OptionalType)) else None
    return inner is not None and speaks(inner, symbol)


class Refused(Exception):
    """Why padding may change what a node computes."""


class Site:
    """A node, and the states of its operands (those left out are free)."""

    def __init__(self, node: Node, name: str, states: Mapping[Value, State]):
        self.node, self.name = node, name
        self.states = [FREE if v is None else states.get(v, FREE) for v in node.operands]

    def refuse(self, why: str) -> NoReturn:
        raise Refused(why)

    def has(self, i: int) -> bool:
        return self.node.operand(i) is not None

    def carried(self, i: int) -> Carried:
        """How operand i carries rows. Refuses where it is sizes: its numbers change with padding."""
        state = self.states[i] if i < len(self.states) else FREE
        if isinstance(state, Sizes):
            self.refuse(f"it computes with sizes made of ${self.name} ({self._operand(i)})")
        return state

    def _operand(self, i: int) -> str:
        return f"%{v.name}" if (v := self.node.operand(i)) is not None else str(i)

    def dims(self, i: int) -> Sequence[DimLike]:
        """The shape of operand i."""
        v = self.node.operand(i)
        if v is None or not isinstance(v.type, TensorType) or v.type.shape is None:
            self.refuse(f"the rank of {self._operand(i)} is not known")
        return v.type.shape

    def shape(self, i: int = 0) -> Sequence[DimLike]:
        """The shape of result i."""
        t = self.node.results[i].type
        if not isinstance(t, TensorType) or t.shape is None:
            self.refuse("the rank of its result is not known")
        return t.shape

    def ints(self, i: int) -> list[int] | None:
        """The contents of operand i, if all are known numbers."""
        found = self.entries(i)
        return None if found is None or not all(isinstance(x, int) for x in found) else found  # type: ignore[return-value]

    def entries(self, i: int) -> list[DimLike | None] | None:
        """The known contents of operand i: numbers, sizes, None for an entry that is not known."""
        found = contents(self.node.operand(i))
        if found is None or found.dtype.kind not in "iuO":
            return None
        return [x if x is None or isinstance(x, Dim) else int(x) for x in found.ravel().tolist()]

    def mentions(self, d: object) -> bool:
        """Whether a size is made of the symbol."""
        return mentions(d, self.name)

    @property
    def dim(self) -> Dim:
        """The symbol as a size."""
        assert self.node.graph is not None
        return Dim.of(self.node.graph.module.symbols[self.name])

    def times(self, d: DimLike) -> DimLike:
        """How many times $S a size is. Refuses where it is no multiple of it."""
        n = exact_quotient(d, self.dim)
        if n is None or self.mentions(n):
            self.refuse(f"it makes {d} of ${self.name}, expected a multiple of it")
        return n

    def axis(self, a: int, rank: int) -> int:
        return a % rank if rank else 0

    def others_free(self, *but: int, why: str = "depends on the rows") -> None:
        """Refuses where an operand, but for those, carries rows."""
        for i in range(len(self.states)):
            if i not in but and self.carried(i):
                self.refuse(f"its operand {self._operand(i)} {why}")

    def sizes_only(self, *operands: int) -> None:
        """Refuses where an operand that says sizes has numbers of the rows."""
        for i in operands:
            if i < len(self.states) and not isinstance(self.states[i], Sizes) and self.carried(i):
                self.refuse(f"its sizes ({self._operand(i)}) depend on the rows")

    def apart(self, carried: Carried, axes: Sequence[int], does: str) -> None:
        """Refuses where rows stand along one of the axes."""
        for a in axes:
            if a in carried:
                self.refuse(f"it {does} ${self.name} (axis {a})")


Rule = Callable[[Site], "Sequence[Carried]"]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Declares what becomes of rows in such operators: a function from a site, of which an operand carries rows or is sizes, to how
    each result carries them."""

    def keep(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, fn))
        return fn

    return keep


def labelled(site: Site, operands: Sequence[tuple[int, Sequence[Hashable]]], result: Sequence[Hashable]) -> Carried:
    """How a result carries rows whose axes are named by labels, as an einsum's are: along axes of one label operands go together,
    and what the result does not have is summed over."""
    found: dict[Hashable, Factor] = {}
    for i, labels in operands:
        for axis, factor in site.carried(i).items():
            if found.setdefault(labels[axis], factor) != factor:
                site.refuse(f"operands hold ${site.name} in two orders")
    for label in found:
        if label not in result:
            site.refuse(f"it sums over ${site.name}")
    for i, labels in operands:
        for axis, label in enumerate(labels):
            if label in found and axis not in site.carried(i) and site.dims(i)[axis] != 1:
                site.refuse(f"axis {axis} of operand {i} meets ${site.name}, and is {site.dims(i)[axis]}")
    return {a: found[label] for a, label in enumerate(result) if label in found}


def trailing(rank: int) -> list[int]:
    """Labels of axes that broadcast: counted from the end."""
    return list(range(-rank, 0))
