"""Expressions of C++ in the making, with their types: what the operators of kernel texts (kernels/cpu/values.py) become.

What is known when a text is translated is a number of Python; everything else is a `Term`. Integers wrap at 64 bits; `//` and `%`
round down, and give 0 for a divisor of 0, as scalar.cuh's `floordiv` and `mod` do.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..spec import Refusal
from .cpp import NONE, Cells

INTEGERS = frozenset({"i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool"})
FLOATS = frozenset({"f32", "f64"})
# The order of precedence of C++'s operators, the higher the sooner; 16 is a name, a literal or a call.
LEVEL = {"?": 2, "||": 3, "&&": 4, "|": 5, "^": 6, "&": 7, "==": 8, "!=": 8, "<": 9, "<=": 9, ">": 9, ">=": 9, "<<": 11, ">>": 11,
         "+": 12, "-": 12, "*": 13, "/": 13, "unary": 15}  # fmt: skip
OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^",
             ast.LShift: "<<", ast.RShift: ">>"}  # fmt: skip
COMPARED = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_KNOWN = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "&": operator.and_, "|": operator.or_,
    "^": operator.xor, "<<": operator.lshift, ">>": operator.rshift, "==": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_ROUNDING_DOWN = {ast.FloorDiv: ("floordiv", operator.floordiv), ast.Mod: ("mod", operator.mod)}


class NotPortable(Exception):
    """Why a text cannot become a scalar CUDA kernel."""

    def __init__(self, reason: str, **values: object):
        self.refusal = Refusal(reason, values)
        super().__init__(str(self.refusal))


@dataclass(frozen=True)
class Term:
    """An expression: its text, its type ("" where it is none), the level of its operator, the cells that it reads; for a literal
    how it looks beside a value whose type it takes (`bare`)."""

    text: str
    type: str
    level: int = 16
    reads: Cells = NONE
    bare: str = ""

    def at(self, level: int) -> str:
        """The text as an operand of an operator of this level."""
        return self.bare or (self.text if self.level >= level else f"({self.text})")


def number(x: Any, like: str = "") -> Term:
    """A value of what is known already: an i64, f64 or bool, or a float like another's."""
    if isinstance(x, bool):
        return Term("true" if x else "false", "bool")
    if isinstance(x, int) and like not in FLOATS:
        x = (x + 2**63) % 2**64 - 2**63
        shown = str(x) if x > -(2**63) else f"{x + 1} - 1"
        return Term(f"i64({shown})", "i64", bare=shown if abs(x) < 2**31 else "")
    if isinstance(x, (int, float)):
        t = like if like in FLOATS else "f64"
        return Term(f"{t}({_float(float(x))})", t)
    raise NotPortable("a value that is no number", value=repr(x))


def _float(x: float) -> str:
    return "nan" if math.isnan(x) else ("inf" if x > 0 else "-inf") if math.isinf(x) else repr(x)


def lift(x: Any, like: str = "") -> Term:
    """A value, of what is known already or not."""
    if not isinstance(x, Term):
        return number(x, like)
    if x.type not in INTEGERS | FLOATS:
        raise NotPortable("no number, where a value is expected", expression=x.text)
    return x


def cast(x: Term, t: str) -> Term:
    """A value as another type."""
    if x.type == t:
        return x
    if t == "bool":
        return Term(f"{x.at(9)} != 0", "bool", LEVEL["!="], x.reads)
    convert = f"to_{t}" if x.type in FLOATS and t in INTEGERS else t
    return Term(f"{convert}({x.bare or x.text})", t, reads=x.reads)


def truth(x: Any) -> Any:
    """A value as a truth value; True or False where that is known."""
    return cast(lift(x), "bool") if isinstance(x, Term) else bool(x)


def promoted(*xs: Any) -> list[Term]:
    """Values as one type: integers as i64 (u64 where one is that), floats as they are."""
    floats = [x.type for x in xs if isinstance(x, Term) and x.type in FLOATS]
    terms = [lift(x, floats[0] if floats else "") for x in xs]
    types = {x.type for x in terms}
    if len(types) == 1 and (floats or types <= {"i64", "u64"}):
        return terms
    if floats:
        raise NotPortable("an operator of different types", types=sorted(types))
    return [cast(x, "u64" if "u64" in types else "i64") for x in terms]


def called(name: str, t: str, *args: Term) -> Term:
    """A call, its literals with their types."""
    return Term(f"{name}({', '.join(a.text for a in args)})", t, reads=NONE.union(*(a.reads for a in args)))


def joined(op: str, a: Term, b: Term, t: str) -> Term:
    """a op b; with parentheses, for the reader's sake, where shifts, bitwise operators and comparisons meet others."""
    level = LEVEL[op]
    inside = level + 1 if op in "+-*/" else LEVEL["<<"] if level in (8, 9) else LEVEL["unary"]
    left = a.text if a.bare and op in ("<<", ">>") else a.at(level if a.level == level and op in "+-*/&|^" else inside)
    return Term(f"{left} {op} {b.at(inside)}", t, level, a.reads | b.reads)


def binary(op: type, x: Any, y: Any) -> Any:
    """What an operator of a text makes of two values."""
    known = not isinstance(x, Term) and not isinstance(y, Term)
    if op in _ROUNDING_DOWN:
        name, compute = _ROUNDING_DOWN[op]
        if known:
            return compute(x, y)
        a, b = promoted(x, y)
        if a.type in FLOATS:
            raise NotPortable(f"{op.__name__} of floats")
        return called(name, a.type, a, b)
    symbol = OPERATORS.get(op)
    if symbol is None:
        raise NotPortable("an operator that kernel texts do not have", operator=op.__name__)
    if known:
        return _KNOWN[symbol](x, y)
    if symbol in "&|^" and isinstance(x, Term) and isinstance(y, Term) and x.type == y.type == "bool":
        return joined(symbol, x, y, "bool")
    a, b = promoted(x, y)
    if (a.type in FLOATS and symbol not in "+-*/") or (a.type in INTEGERS and symbol == "/"):
        raise NotPortable("an operator that does not go with its operands", operator=symbol, type=a.type)
    if symbol == "+" and a.type in INTEGERS and not isinstance(y, Term) and y == 0:
        return a  # it made an i64 of a
    return joined(symbol, a, b, a.type)


def compare(symbol: str, x: Any, y: Any) -> Any:
    if not isinstance(x, Term) and not isinstance(y, Term):
        return _KNOWN[symbol](x, y)
    equal = isinstance(x, Term) and isinstance(y, Term) and x.type == y.type
    a, b = (lift(x), lift(y)) if equal else promoted(x, y)
    return joined(symbol, a, b, "bool")


def negated(x: Any) -> Any:
    if not isinstance(x, Term):
        return -x
    x = x if x.type in FLOATS or x.type == "u64" else cast(lift(x), "i64")
    return Term(f"-{x.at(LEVEL['unary'])}", x.type, LEVEL["unary"], x.reads)


def inverted(x: Any) -> Any:
    """~x."""
    return called("not_", x.type, lift(x)) if isinstance(x, Term) else ~x


def opposite(x: Any) -> Any:
    """not x."""
    test = truth(x)
    return Term(f"!{test.at(LEVEL['unary'])}", "bool", LEVEL["unary"], test.reads) if isinstance(test, Term) else not test


def decided(symbol: str, tests: Sequence[Any]) -> Term:
    """Tests joined by && or ||; those that are known and decide nothing are left out."""
    stop, kept = symbol == "||", []
    for test in tests:
        if isinstance(test, Term):
            kept.append(test)
        elif test == stop:
            kept.append(number(stop))
            break
    if not kept:
        return number(not stop)
    if len(kept) == 1:
        return kept[0]
    text = f" {symbol} ".join(k.at(LEVEL[symbol] if k.level == LEVEL[symbol] else LEVEL["|"]) for k in kept)
    return Term(text, "bool", LEVEL[symbol], NONE.union(*(k.reads for k in kept)))


def chosen(test: Term, x: Any, y: Any) -> Term:
    """x if test else y."""
    t = _common(x, y)
    a, b = (cast(lift(v, t), t) for v in (x, y))
    text = f"{test.at(LEVEL['||'])} ? {a.text if b.bare else a.at(LEVEL['||'])} : {b.at(LEVEL['?'])}"
    return Term(text, t, LEVEL["?"], test.reads | a.reads | b.reads)


def _common(x: Any, y: Any) -> str:
    """The type of a value that is x or y."""
    types = [lift(v).type for v in (x, y) if isinstance(v, Term)]
    known = [v for v in (x, y) if not isinstance(v, Term)]
    if len(types) == 2 and types[0] != types[1]:
        if any(t in FLOATS for t in types):
            raise NotPortable("the sides of a choice differ in type", types=types)
        return "i64"
    if not types:
        return number(sum(known) if not all(isinstance(v, bool) for v in known) else True).type
    if known and types[0] in INTEGERS:
        return "bool" if types[0] == "bool" and isinstance(known[0], bool) else "u64" if types[0] == "u64" else "i64"
    return types[0]
