"""Symbolic dimensions: integer polynomials over named symbols, closed under floordiv, mod, min, max and broadcasting.

A `Dim` that turns out to be constant is a plain `int`; code that receives a dimension therefore handles `int | Dim`. Two
dims that are equal as polynomials compare equal and hash equal. `prove_*` answer True only when the ranges of the symbols
prove the claim; False means "not proven", never "proven false".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .recording import greatest, least

INF = 1 << 62  # an upper bound that stands for "unbounded"


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named unknown size with its inclusive range. Symbols of one name in one module are equal."""

    name: str
    lo: int = 0
    hi: int = INF

    def __str__(self) -> str:
        return "$" + (self.name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", self.name) else quote(self.name))


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation that is no polynomial: `floordiv`, `min`, `max` or `bcast` of two dims (`mod` is written with `floordiv`)."""

    fn: str
    args: tuple[Dim | int, Dim | int]

    def __str__(self) -> str:
        return f"{self.fn}({self.args[0]}, {self.args[1]})"


Atom = Symbol | Apply
Monomial = tuple[Atom, ...]  # sorted by text, repeated for powers; () is the constant term


def quote(text: str) -> str:
    """`text` as a double-quoted ASCII literal of the text IR."""
    out = []
    for ch in text:
        if ch in '"\\':
            out.append("\\" + ch)
        elif " " <= ch <= "~":
            out.append(ch)
        else:
            out.append(f"\\u{{{ord(ch):x}}}")
    return '"' + "".join(out) + '"'


class Dim:
    """A non-constant integer polynomial. Build one with `Dim.of(Symbol(...))` and arithmetic."""

    __slots__ = ("_hash", "size", "terms")
    terms: tuple[tuple[Monomial, int], ...]
    size: int  # how many symbols and operations the text of the dim holds

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]):
        self.terms = terms
        self._hash = hash(terms)
        self.size = sum(1 if isinstance(a, Symbol) else 1 + sum(size_of(x) for x in a.args) for mono, _ in terms for a in mono)

    @staticmethod
    def of(atom: Atom) -> Dim:
        return Dim((((atom,), 1),))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of the symbolic dimension {self} is not known")

    def __add__(self, other: DimLike) -> DimLike:
        return _sum(self, other, 1) if isinstance(other, (int, Dim)) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: DimLike) -> DimLike:
        return _sum(self, other, -1) if isinstance(other, (int, Dim)) else NotImplemented

    def __rsub__(self, other: DimLike) -> DimLike:
        return _sum(-self, other, 1) if isinstance(other, (int, Dim)) else NotImplemented

    def __neg__(self) -> DimLike:
        return _build({m: -c for m, c in self.terms})

    def __mul__(self, other: DimLike) -> DimLike:
        return _product(self, other) if isinstance(other, (int, Dim)) else NotImplemented

    __rmul__ = __mul__

    def __floordiv__(self, other: DimLike) -> DimLike:
        return floordiv(self, other) if isinstance(other, (int, Dim)) else NotImplemented

    def __rfloordiv__(self, other: DimLike) -> DimLike:
        return floordiv(other, self) if isinstance(other, (int, Dim)) else NotImplemented

    def __mod__(self, other: DimLike) -> DimLike:
        return mod(self, other) if isinstance(other, (int, Dim)) else NotImplemented

    def __rmod__(self, other: DimLike) -> DimLike:
        return mod(other, self) if isinstance(other, (int, Dim)) else NotImplemented

    def __str__(self) -> str:
        parts: list[str] = []
        for mono, coeff in self.terms:
            body = "*".join(str(a) for a in mono)
            text = str(abs(coeff)) if not mono else body if abs(coeff) == 1 else f"{abs(coeff)}*{body}"
            if parts:
                parts.append(("- " if coeff < 0 else "+ ") + text)
            else:
                parts.append(("-" if coeff < 0 else "") + text)
        return " ".join(parts)

    __repr__ = __str__


DimLike = int | Dim


def size_of(d: DimLike) -> int:
    """How many symbols and operations the text of a dim holds; 0 for a number."""
    return d.size if isinstance(d, Dim) else 0


def symbol(name: str, lo: int = 0, hi: int = INF) -> Dim:
    """The dim that is the symbol `name` with the inclusive range [lo, hi]."""
    return Dim.of(Symbol(name, lo, hi))


def _terms(d: DimLike) -> dict[Monomial, int]:
    return dict(d.terms) if isinstance(d, Dim) else ({(): d} if d else {})


def _build(terms: Mapping[Monomial, int]) -> DimLike:
    live = {m: c for m, c in terms.items() if c}
    if not live:
        return 0
    if set(live) == {()}:
        return live[()]
    # Higher-degree terms first, the constant last, then by text: one printed form for equal polynomials.
    order = sorted(live.items(), key=lambda mc: (-len(mc[0]), [str(a) for a in mc[0]]))
    return Dim(tuple(order))


def _sum(a: DimLike, b: DimLike, sign: int) -> DimLike:
    out = _terms(a)
    for m, c in _terms(b).items():
        out[m] = out.get(m, 0) + sign * c
    return _build(out)


def total(dims: Iterable[DimLike]) -> DimLike:
    """The sum of many dims, in time linear in their terms."""
    out: dict[Monomial, int] = {}
    for d in dims:
        for m, c in _terms(d).items():
            out[m] = out.get(m, 0) + c
    return _build(out)


MAX_TERMS = 64


def _product(a: DimLike, b: DimLike) -> DimLike:
    ta, tb = _terms(a), _terms(b)
    if len(ta) * len(tb) > MAX_TERMS:
        raise OverflowError(f"the product of the dimensions ({a}) * ({b}) has more than {MAX_TERMS} terms")
    out: dict[Monomial, int] = {}
    for ma, ca in ta.items():
        for mb, cb in tb.items():
            m = tuple(sorted(ma + mb, key=str))
            out[m] = out.get(m, 0) + ca * cb
    return _build(out)


def floordiv(a: DimLike, b: DimLike) -> DimLike:
    """floor(a / b), simplified when every coefficient of `a` is divisible by a constant `b`, or `a` is a multiple of `b`."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1:
        return a
    if a == 0:
        return 0
    quotient = exact_quotient(a, b)
    if quotient is not None:
        return quotient
    if isinstance(b, int) and b > 0:
        # floor((b*q + r) / b) = q + floor(r / b) holds for every integer q.
        whole = _build({m: c // b for m, c in _terms(a).items() if c % b == 0})
        rest = _build({m: c for m, c in _terms(a).items() if c % b})
        if whole != 0:
            return whole + floordiv(rest, b)
    out = Dim.of(Apply("floordiv", (a, b)))
    lo, hi = bounds(out)
    return lo if lo == hi and abs(lo) < INF else out


def exact_quotient(a: DimLike, b: DimLike) -> DimLike | None:
    """q with a == q * b as polynomials, or None where no such q is found (b must be one term)."""
    tb = _terms(b)
    if len(tb) != 1:
        return 1 if a == b else None
    ((mb, cb),) = tb.items()
    out: dict[Monomial, int] = {}
    for m, c in _terms(a).items():
        left = list(m)
        for atom in mb:
            if atom not in left:
                return None
            left.remove(atom)
        if c % cb:
            return None
        out[tuple(left)] = c // cb
    return _build(out)


def mod(a: DimLike, b: DimLike) -> DimLike:
    """a - b * floor(a / b), the sign of Python's `%`."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    return a - b * floordiv(a, b)


def ceildiv(a: DimLike, b: DimLike) -> DimLike:
    """ceil(a / b)."""
    return -floordiv(-a, b)


def dim_min(a: DimLike, b: DimLike) -> DimLike:
    if isinstance(a, int) and isinstance(b, int):
        return least(a, b)
    if prove_le(a, b):
        return a
    return b if prove_le(b, a) else _commutative("min", a, b)


def dim_max(a: DimLike, b: DimLike) -> DimLike:
    if isinstance(a, int) and isinstance(b, int):
        return greatest(a, b)
    if prove_le(a, b):
        return b
    return a if prove_le(b, a) else _commutative("max", a, b)


def broadcast(a: DimLike, b: DimLike) -> DimLike:
    """The size of two broadcast dims: the one that is not 1. Raises ValueError where both are constant and cannot match.

    Two unequal symbolic dims give `bcast(a, b)` (a where b is 1, else b); whether they match is checked at run time.
    """
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise ValueError(f"{a} and {b} do not broadcast")
    if isinstance(a, int) or prove_ge(a, 2):
        return a
    if isinstance(b, int) or prove_ge(b, 2):
        return b
    if a in _capped(b) or b in _capped(a):  # a and min(a, c) match where they are equal or, with c > 1, both 1
        return a if a in _capped(b) else b
    return _commutative("bcast", a, b)


def _capped(d: DimLike) -> tuple[DimLike, ...]:
    """What `d` is a minimum of, beside something that is not 1 or less."""
    if not isinstance(d, Dim) or len(d.terms) != 1 or len(d.terms[0][0]) != 1 or d.terms[0][1] != 1:
        return ()
    atom = d.terms[0][0][0]
    if not isinstance(atom, Apply) or atom.fn != "min":
        return ()
    return tuple(x for x, other in (atom.args, atom.args[::-1]) if prove_ge(other, 2))


def _commutative(fn: str, a: DimLike, b: DimLike) -> DimLike:
    return Dim.of(Apply(fn, (a, b) if str(a) <= str(b) else (b, a)))


def product(dims: Iterable[DimLike]) -> DimLike:
    out: DimLike = 1
    for d in dims:
        out = out * d
    return out


# ---- ranges and proofs ------------------------------------------------------------------------------------------


def _clamp(v: int) -> int:
    return max(-INF, min(INF, v))


def bounds(d: DimLike) -> tuple[int, int]:
    """An inclusive range that surely holds `d`; ±INF where unbounded."""
    if isinstance(d, int):
        return d, d
    lo = hi = 0
    for mono, coeff in d.terms:
        tlo, thi = coeff, coeff
        for atom in mono:
            alo, ahi = _atom_bounds(atom)
            ends = [_clamp(x * y) for x in (tlo, thi) for y in (alo, ahi)]
            tlo, thi = min(ends), max(ends)
        # Unbounded stays unbounded, whatever finite number is added to it.
        lo = -INF if min(lo, tlo) <= -INF else _clamp(lo + tlo)
        hi = INF if max(hi, thi) >= INF else _clamp(hi + thi)
    return lo, hi


def _atom_bounds(atom: Atom) -> tuple[int, int]:
    if isinstance(atom, Symbol):
        return _clamp(atom.lo), _clamp(atom.hi)
    (alo, ahi), (blo, bhi) = bounds(atom.args[0]), bounds(atom.args[1])
    if atom.fn == "min":
        return min(alo, blo), min(ahi, bhi)
    if atom.fn == "max":
        return max(alo, blo), max(ahi, bhi)
    if atom.fn == "bcast":
        return min(alo, blo), max(ahi, bhi)
    if blo <= 0:  # floordiv by something that may be zero or negative
        return -INF, INF
    lo = -INF if alo <= -INF else alo // blo if alo < 0 else 0 if bhi >= INF else alo // bhi
    hi = INF if ahi >= INF else ahi // blo if ahi >= 0 else -1 if bhi >= INF else ahi // bhi
    return lo, hi


def prove_le(a: DimLike, b: DimLike) -> bool:
    return bounds(b - a)[0] >= 0


def prove_ge(a: DimLike, b: DimLike) -> bool:
    return prove_le(b, a)


def prove_ne(a: DimLike, b: DimLike) -> bool:
    lo, hi = bounds(a - b)
    return lo > 0 or hi < 0


# ---- evaluation -------------------------------------------------------------------------------------------------


class Unbound(KeyError):
    """A symbol has no value in the given bindings."""


def evaluate(d: DimLike, values: Mapping[str, int]) -> int:
    """The value of `d` with each symbol replaced by `values[name]`. Raises Unbound for a missing symbol."""
    if isinstance(d, int):
        return d
    total = 0
    for mono, coeff in d.terms:
        for atom in mono:
            coeff *= _eval_atom(atom, values)
        total += coeff
    return total


def _eval_atom(atom: Atom, values: Mapping[str, int]) -> int:
    if isinstance(atom, Symbol):
        try:
            return values[atom.name]
        except KeyError:
            raise Unbound(atom.name) from None
    a, b = (evaluate(x, values) for x in atom.args)
    return apply_int(atom.fn, a, b)


def apply_int(fn: str, a: int, b: int) -> int:
    if fn == "floordiv":
        if b == 0:
            raise ValueError(f"division of the dimension {a} by zero")
        return a // b
    if fn == "bcast":
        if a != b and a != 1 and b != 1:
            raise ValueError(f"dimensions {a} and {b} do not broadcast")
        return a if b == 1 else b
    return least(a, b) if fn == "min" else greatest(a, b)


def substitute(d: DimLike, values: Mapping[str, DimLike]) -> DimLike:
    """`d` with the symbols named in `values` replaced by dims; others stay."""
    if isinstance(d, int):
        return d
    total: DimLike = 0
    for mono, coeff in d.terms:
        term: DimLike = coeff
        for atom in mono:
            term = term * _subst_atom(atom, values)
        total = total + term
    return total


REBUILD = {"floordiv": floordiv, "min": dim_min, "max": dim_max, "bcast": broadcast}


def _subst_atom(atom: Atom, values: Mapping[str, DimLike]) -> DimLike:
    if isinstance(atom, Symbol):
        return values.get(atom.name, Dim.of(atom))
    return REBUILD[atom.fn](*(substitute(x, values) for x in atom.args))


def symbols_of(d: DimLike) -> set[Symbol]:
    """The symbols that occur anywhere in `d`."""
    found: set[Symbol] = set()
    if isinstance(d, Dim):
        for mono, _ in d.terms:
            for atom in mono:
                if isinstance(atom, Symbol):
                    found.add(atom)
                else:
                    for x in atom.args:
                        found |= symbols_of(x)
    return found


def as_symbol(d: DimLike) -> Symbol | None:
    """The symbol that `d` is, where it is nothing but one symbol."""
    if isinstance(d, Dim) and len(d.terms) == 1:
        ((mono, coeff),) = d.terms
        if coeff == 1 and len(mono) == 1 and isinstance(mono[0], Symbol):
            return mono[0]
    return None


def gcd_of(d: DimLike) -> int:
    """The greatest constant that surely divides `d`."""
    return abs(d) if isinstance(d, int) else math.gcd(*(c for _, c in d.terms))
