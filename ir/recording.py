"""Integers that record what is done to them, so that a computation on sizes can be done again for other sizes in no time.

Binding a segment (`engine/binder.py`) is ordinary Python over sizes: every kernel's `bind` multiplies, divides and compares them. A
`Tape` hands out `Size`s for the sizes that may be others next time. A `Size` is used like the int that it is now, and the tape
writes down, in order,

- a *definition* for what is computed from sizes (`v7 = v2 * 64`). Equal expressions become one: the layers of a model repeat
  themselves, and a thousand steps have a few hundred different numbers;
- a *guard* for each answer that the computation got about sizes (`v7 < 32768`), since it may have gone another way otherwise.

What Python or numpy need a true int for (`range`, an index, a key of a dict, the float of a division) *pins* the size: the guard
says that it has just this value. So whatever the computation does, it is right to repeat its results for other sizes as long as all
guards hold: every decision in it would be the same. What a `Size` cannot do raises TypeError. `max` and `min` are decisions too;
`greatest` and `least` are definitions, and so is what `opaque` computes, a function that is called again for other sizes.

`Tape.function` makes a Python function of all that: straight down, each definition once, `None` where a guard fails.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

_COMPUTE: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}
_COMPARE: dict[str, Callable[[int, int], bool]] = {"<": operator.lt, "<=": operator.le, "==": operator.eq}
_OPPOSITE = {"<": "{1} <= {0}", "<=": "{1} < {0}", "==": "{0} != {1}"}


class Size:
    """An integer that has a value now and may have another one next time. Its arithmetic and comparisons go on its tape."""

    __slots__ = ("base", "name", "plus", "tape", "times", "value")

    def __init__(self, tape: Tape, name: str, value: int):
        self.tape, self.name, self.value = tape, name, value
        self.base, self.times, self.plus = self, 1, 0  # what it is in terms of another size: base * times + plus

    @property  # type: ignore[misc]  # of object, which lets it be set
    def __class__(self) -> type:  # what asks whether it has a number (isinstance) goes the way of numbers
        return int

    def __int__(self) -> int:
        """The value, pinned."""
        self.tape.compare("==", self, self.value)
        return self.value

    __index__ = __int__

    def __bool__(self) -> bool:
        return not self.tape.compare("==", self, 0)

    def __float__(self) -> float:
        return float(int(self))

    def __hash__(self) -> int:
        return hash(int(self))

    def __repr__(self) -> str:  # for messages: no text decides what is computed from sizes
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __neg__(self) -> Any:
        return 0 - self

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Any, Any]:
        return other // self, other % self

    def __truediv__(self, other: Any) -> Any:
        return int(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / int(self)

    def __add__(self, other: Any) -> Any:
        return self.tape.compute("+", self, other)

    def __radd__(self, other: Any) -> Any:
        return self.tape.compute("+", other, self)

    def __sub__(self, other: Any) -> Any:
        return self.tape.compute("-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.tape.compute("-", other, self)

    def __mul__(self, other: Any) -> Any:
        return self.tape.compute("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.tape.compute("*", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self.tape.compute("//", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self.tape.compute("//", other, self)

    def __rshift__(self, other: int) -> Any:
        return self // (1 << other)

    def __mod__(self, other: Any) -> Any:
        return self.tape.compute("%", self, other)

    def __rmod__(self, other: Any) -> Any:
        return self.tape.compute("%", other, self)

    def __lt__(self, other: Any) -> Any:
        return self.tape.compare("<", self, other)

    def __le__(self, other: Any) -> Any:
        return self.tape.compare("<=", self, other)

    def __gt__(self, other: Any) -> Any:
        return self.tape.compare("<", other, self)

    def __ge__(self, other: Any) -> Any:
        return self.tape.compare("<=", other, self)

    def __eq__(self, other: object) -> Any:
        return self.tape.compare("==", self, other)

    def __ne__(self, other: object) -> Any:
        equal = self.tape.compare("==", self, other)
        return equal if equal is NotImplemented else not equal


def greatest(*xs: int) -> int:
    """The largest of some numbers: of recorded sizes an expression, where `max` would record which of them it is."""
    return _extreme("max", xs)


def least(*xs: int) -> int:
    """The least of some numbers, as `greatest`."""
    return _extreme("min", xs)


def _extreme(fn: str, xs: Sequence[Any]) -> Any:
    for x in xs:
        if type(x) is Size:
            return x.tape.extreme(fn, xs)
    return max(xs) if fn == "max" else min(xs)


def opaque(fn: Callable[..., Any], *args: Any) -> Any:
    """fn(*args): of recorded sizes a definition, whatever `fn` decides by them, where calling it would record its decisions. What
    `fn` gives follows from its arguments alone: integers and hashable constants; it is an int or a tuple of ints."""
    for x in args:
        if type(x) is Size:
            return x.tape.call(fn, args)
    return fn(*args)


def is_size(x: Any) -> TypeGuard[Size]:
    """Whether x is a `Size`, which `isinstance` cannot tell."""
    return type(x) is Size


def value_of(x: int | Size) -> int:
    """The value that a size has now. What is done with it is not recorded and must not decide anything."""
    return x.value if type(x) is Size else int(x)


class Tape:
    """What was done to the sizes of one computation, in order. For one thread."""

    def __init__(self) -> None:
        self._lines: list[tuple[str | None, str, tuple[Size, ...]]] = []  # name (None: a guard), expression, what it needs
        self._sizes: dict[Any, Any] = {}  # by expression
        self._truths: dict[Any, bool] = {}  # by comparison
        self._known: dict[Any, str] = {}  # names of functions that are called, and of constants that they take

    def size(self, expression: str, value: int) -> Size:
        """A size that is given: an expression of the function's parameters (see `function`)."""
        return self._define(("given", expression), expression, (), int, value)

    def guard(self, expression: str, *needs: Size) -> None:
        """Demands that an expression over the names of sizes and the function's parameters be true."""
        self._lines.append((None, expression, needs))

    def guard_equal(self, expression: str, sizes: tuple[int | Size, ...]) -> None:
        """Demands that an expression over the function's parameters be the tuple of these sizes."""
        needed: set[str] = set()
        text = _render(sizes, needed)
        self.guard(f"{expression} == {text}", *_sizes_in(*sizes))

    def extreme(self, fn: str, xs: Sequence[int | Size]) -> Any:
        """The `max` or `min` of some numbers, as one expression."""
        pick, better = (max, ">") if fn == "max" else (min, "<")
        sizes = {x.name: x for x in xs if type(x) is Size}
        first, *others = [sizes[name] for name in sorted(sizes)]
        numbers = [x for x in xs if type(x) is not Size]
        for x in [*others, *([pick(numbers)] if numbers else [])]:
            a, b = first.name, _text(x)  # a conditional expression takes a third of the time of a call
            first = self._define((fn, a, b), f"{a} if {a} {better} {b} else {b}", _sizes_in(first, x), pick, first, x)
        return first

    def call(self, fn: Callable[..., Any], args: Sequence[Any]) -> Any:
        """What `fn` gives, each number a definition."""
        texts = [_text(x) if type(x) in (int, Size) else self._name(x) for x in args]
        expression = f"{self._name(fn)}({', '.join(texts)})"
        if expression not in self._sizes:
            found = fn(*(x.value if type(x) is Size else x for x in args))
            whole = Size(self, f"v{len(self._lines)}", found if type(found) is int else 0)
            self._lines.append((whole.name, expression, _sizes_in(*args)))
            several = [] if type(found) is int else [self._entry(whole, i, n) for i, n in enumerate(found)]
            self._sizes[expression] = whole if type(found) is int else tuple(several)
        return self._sizes[expression]

    def _entry(self, whole: Size, i: int, value: int) -> Size:
        return self._define((whole.name, i), f"{whole.name}[{i}]", (whole,), int, value)

    def _name(self, x: Any) -> str:
        """The name under which the function finds `x`."""
        return self._known.setdefault(x, f"k{len(self._known)}")

    def compute(self, op: str, a: Any, b: Any) -> Any:
        """a op b: a Size, or an int where it does not depend on sizes."""
        x, y = _integer(a), _integer(b)
        if x is None or y is None:
            return _COMPUTE[op](_pinned(a), _pinned(b)) if _is_float(a) or _is_float(b) else NotImplemented
        known = self._linear(op, x, y)
        if known is not None:
            return known
        if op in "+*" and y.name < x.name:
            x, y = y, x
        return self._define((op, _text(x), _text(y)), f"{_text(x)} {op} {_text(y)}", _sizes_in(x, y), _COMPUTE[op], x, y)

    def _linear(self, op: str, x: Any, y: Any) -> Any:
        """What is a multiple of one size plus a number, which needs no chain of definitions; None for all else."""
        if type(y) is int:
            if op == "+":
                return self._multiple(x.base, x.times, x.plus + y)
            if op == "-":
                return self._multiple(x.base, x.times, x.plus - y)
            if op == "*":
                return self._multiple(x.base, x.times * y, x.plus * y)
            if y and x.times % y == 0:
                return x.plus % y if op == "%" else self._multiple(x.base, x.times // y, x.plus // y)
        elif type(x) is int:
            if op == "-":
                return self._multiple(y.base, -y.times, x - y.plus)
            return self._linear(op, y, x) if op in "+*" else None
        elif x.base is y.base and op in "+-":
            sign = 1 if op == "+" else -1
            return self._multiple(x.base, x.times + sign * y.times, x.plus + sign * y.plus)
        return None

    def _multiple(self, base: Size, times: int, plus: int) -> Any:
        if times == 0 or (times, plus) == (1, 0):
            return base if times else plus
        text = f"{base.name} * {times}" if times != 1 else base.name
        key = ("linear", base.name, times, plus)
        found = self._sizes.get(key)
        if found is None:
            found = self._define(key, f"{text} + {plus}" if plus else text, (base,), lambda n: n * times + plus, base)
            found.base, found.times, found.plus = base, times, plus
        return found

    def compare(self, op: str, a: Any, b: Any) -> Any:
        """Whether a op b holds, from now on a guard."""
        x, y = _integer(a), _integer(b)
        if x is None or y is None:
            return _COMPARE[op](_pinned(a), _pinned(b)) if _is_float(a) or _is_float(b) else NotImplemented
        if x is y:
            return op != "<"
        key = (op, _text(x), _text(y))
        truth = self._truths.get(key)
        if truth is None:
            truth = self._truths[key] = _COMPARE[op](value_of(x), value_of(y))
            self.guard(f"{key[1]} {op} {key[2]}" if truth else _OPPOSITE[op].format(key[1], key[2]), *_sizes_in(x, y))
        return truth

    def function(self, parameters: str, result: Any) -> Callable[..., Any]:
        """The recorded computation as a function of `parameters`: `result` (sizes and ints in tuples, lists and dicts with names
        for keys) for what is given, or None where a guard does not hold. It may raise what its parameters' expressions and opaque
        functions raise, and ZeroDivisionError."""
        needed: set[str] = set()
        text = _render(result, needed)
        lines: list[str] = []
        for name, expression, needs in reversed(self._lines):
            if name is None or name in needed:
                needed.update(s.name for s in needs)
                lines.append(f"if not ({expression}): return None" if name is None else f"{name} = {expression}")
        body = [*reversed(lines), f"return {text}"]
        scope: dict[str, Any] = {name: x for x, name in self._known.items()}
        exec("\n    ".join([f"def rebind({parameters}):", *body]), scope)
        return scope["rebind"]

    def _define(self, key: Any, expression: str, needs: tuple[Size, ...], fn: Callable[..., int], *args: int | Size) -> Size:
        """The size of an expression, whose value is fn(*args)."""
        found = self._sizes.get(key)
        if found is None:
            found = self._sizes[key] = Size(self, f"v{len(self._lines)}", fn(*map(value_of, args)))
            self._lines.append((found.name, expression, needs))
        return found


def _integer(x: Any) -> Any:
    """A Size, an int equal to x, or None where x is no integer."""
    if type(x) is int or type(x) is Size:
        return x
    try:
        return operator.index(x)
    except TypeError:
        return None


def _is_float(x: Any) -> bool:
    return isinstance(x, float)


def _pinned(x: Any) -> Any:
    return int(x) if type(x) is Size else x


def _text(x: int | Size) -> str:
    return x.name if type(x) is Size else str(x)


def _sizes_in(*xs: Any) -> tuple[Size, ...]:
    return tuple(x for x in xs if type(x) is Size)


def _render(x: Any, needed: set[str]) -> str:
    if type(x) is Size:
        needed.add(x.name)
        return x.name
    if type(x) is dict:
        return "{" + ", ".join(f"{k!r}: {_render(v, needed)}" for k, v in x.items()) + "}"
    if type(x) in (tuple, list):
        return "(" + "".join(f"{_render(v, needed)}, " for v in x) + ")"
    return str(int(x))
