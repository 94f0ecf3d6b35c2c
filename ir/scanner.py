"""Reading the text IR, the lower half: tokens, names, dims, types, attribute values and the contents of constants.

Time is linear in the text, nesting is bounded by MAX_EXPR, and every error is an IRError with line, column, a caret under the
place and what was expected there.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from .core import Constant
from .errors import IRError
from .layout import Layout
from .printer import DIM_FUNCTIONS, INLINE, PLAIN
from .symbols import Dim, DimLike, Symbol, broadcast, ceildiv, dim_max, dim_min, floordiv, mod, total
from .types import DTYPES, DType, MapType, OptionalType, SequenceType, TensorType, Type

MAX_EXPR = 128  # nesting of dims, tuples and types

_SPACE = re.compile(r"(?:\s+|//[^\n]*)*+")
_STRING = r'"(?:[^"\\\n]|\\.)*+"'


def token(pattern: str) -> re.Pattern[str]:
    return re.compile(f"{pattern}{_SPACE.pattern}")


VALUE = token(f"%(?:({PLAIN})|({_STRING}))")
SYMBOL = token(rf"\$(?:([A-Za-z_][A-Za-z0-9_.]*)|({_STRING}))")
AT = token(f"@(?:({PLAIN})|({_STRING}))")
NAME = token(f"(?:({PLAIN})|({_STRING}))")
_WORD = token(r"([A-Za-z_][A-Za-z0-9_]*)")
_TEXT = token(f"({_STRING})")
_INT = token(r"(-?[0-9]+)(?![0-9.eE])")
_NUMBER = token(r"(-?(?:inf|nan|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?))")
_FLOAT = token(r"(-?(?:inf\b|nan\b|[0-9]+(?:\.[0-9]*(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)))")
_LAYOUT = re.compile(r"\{([a-z]+|[0-9, ]+)\}")
_TYPE = re.compile(r"[a-z0-9]+\[[^\]\n]*\](?:\{[^}\n]*\})?(?!\{)")  # what may stand in the cache of types
_ESCAPE = re.compile(r"\\(?:([\"\\])|u\{([0-9a-fA-F]{1,6})\})?")

_FUNCTIONS: dict[str, Callable[[DimLike, DimLike], DimLike]] = dict(
    zip(DIM_FUNCTIONS, (floordiv, ceildiv, mod, dim_min, dim_max, broadcast))
)
_CONSTANTS = {"true": True, "false": False, "none": None}


class Scanner:
    """A place in a text and what can be read there: tokens, dims, types, attribute values."""

    def __init__(self, text: str, symbols: Mapping[str, Symbol]):
        self.text, self.symbols = text, symbols
        self.pos = 0
        self._depth = 0
        self._types: dict[str, Type] = {}
        self.skip(0)

    # ---- tokens

    def skip(self, pos: int) -> None:
        m = _SPACE.match(self.text, pos)
        assert m is not None
        self.pos = m.end()

    def at(self, literal: str) -> bool:
        return self.text.startswith(literal, self.pos)

    def take(self, literal: str) -> bool:
        """Whether the punctuation stood here; it is passed."""
        if self.text.startswith(literal, self.pos):
            self.skip(self.pos + len(literal))
            return True
        return False

    def need(self, literal: str) -> None:
        if not self.take(literal):
            self.fail(f"expected `{literal}`")

    def word(self, word: str) -> bool:
        """Whether this keyword stood here; it is passed."""
        m = NAME.match(self.text, self.pos)
        if m is None or m[1] != word:
            return False
        self.pos = m.end()
        return True

    def match(self, pattern: re.Pattern[str], expected: str) -> str:
        m = pattern.match(self.text, self.pos)
        if m is None:
            self.fail(f"expected {expected}")
        self.pos = m.end()
        return m[1]

    def name(self, pattern: re.Pattern[str], expected: str) -> str:
        """A plain or quoted name behind the sigil of `pattern`."""
        m = pattern.match(self.text, self.pos)
        if m is None:
            self.fail(f"expected {expected}")
        start, self.pos = self.pos, m.end()
        return m[1] if m[1] is not None else self.unquote(m[2], start)

    def string(self) -> str:
        start = self.pos
        return self.unquote(self.match(_TEXT, "a quoted string"), start)

    def unquote(self, literal: str, start: int) -> str:
        def char(m: re.Match[str]) -> str:
            if m[1]:
                return m[1]
            if not m[2] or int(m[2], 16) > 0x10FFFF:
                self.fail(r"expected one of the escapes \" \\ \u{hex} in this string", start)
            return chr(int(m[2], 16))

        return _ESCAPE.sub(char, literal[1:-1])

    def integer(self, expected: str = "an integer") -> int:
        start = self.pos
        return self.guard(start, int, self.match(_INT, expected))

    def guard(self, start: int, compute: Callable[..., Any], *args: Any) -> Any:
        """What arithmetic on the text's own numbers raises becomes an error at `start`."""
        try:
            return compute(*args)
        except (ValueError, ArithmeticError) as e:
            self.fail(str(e), start)

    def end(self, expected: str) -> None:
        if self.pos != len(self.text):
            self.fail(f"expected {expected}")

    def fail(self, message: str, pos: int | None = None) -> NoReturn:
        pos = self.pos if pos is None else pos
        line = self.text.count("\n", 0, pos) + 1
        start = self.text.rfind("\n", 0, pos) + 1
        stop = self.text.find("\n", pos)
        stop = len(self.text) if stop < 0 else stop
        first, last = max(start, pos - 100), min(stop, pos + 60)  # a window of very long lines
        shown = re.sub(r"\s", " ", self.text[first:last])
        raise IRError(f"line {line}, column {pos - start + 1}: {message}\n  {shown}\n  {' ' * (pos - first)}^")

    def deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_EXPR:
            self.fail(f"expected at most {MAX_EXPR} levels of nesting")

    # ---- dims

    def dim(self) -> DimLike:
        """sum := ["-"] term {("+" | "-") term}"""
        self.deeper()
        terms, sign = [], -1 if self.take("-") else 1
        while True:
            terms.append(sign * self._term())
            if self.take("+"):
                sign = 1
            elif self.at("-") and not self.at("->"):
                self.take("-")
                sign = -1
            else:
                break
        self._depth -= 1
        return total(terms) if len(terms) > 1 else terms[0]

    def _term(self) -> DimLike:
        start, value = self.pos, self._factor()
        while self.take("*"):
            value = self.guard(start, operator.mul, value, self._factor())
        return value

    def _factor(self) -> DimLike:
        start = self.pos
        if self.at("$"):
            name = self.name(SYMBOL, "a symbol")
            if name not in self.symbols:
                self.fail(f"expected a declared symbol; there is no `sym ${name}`", start)
            return Dim.of(self.symbols[name])
        if self.take("("):
            d = self.dim()
            self.need(")")
            return d
        m = _WORD.match(self.text, self.pos)
        if m is not None and m[1] in _FUNCTIONS:
            self.pos = m.end()
            self.need("(")
            a = self.dim()
            self.need(",")
            b = self.dim()
            self.need(")")
            return self.guard(start, _FUNCTIONS[m[1]], a, b)
        if self.at("-"):
            self.fail("expected a symbol, an integer or a function of dims")
        return self.integer("a symbol, an integer or a function of dims")

    # ---- types

    def type(self) -> Type | None:
        """type := "?" | dtype "[" dims "]" [layout] | seq<..> | opt<..> | map<dtype, ..>"""
        if self.take("?"):
            return None
        return self.known_type()

    def known_type(self) -> Type:
        m = _TYPE.match(self.text, self.pos)
        if m is not None and m[0] in self._types:
            self.skip(m.end())
            return self._types[m[0]]
        start = self.pos
        word = self.match(_WORD, "a type")
        if word in ("seq", "opt", "map") and self.take("<"):
            return self._compound(word)
        if word not in DTYPES:
            self.fail(f"expected a type, {', '.join(DTYPES)}, seq, opt or map", start)
        if not self.take("["):
            self.fail("expected `[` and the dims of a tensor")
        shape = self._shape()
        stop = self.pos
        layout = self._layout(len(shape)) if shape is not None and self.at("{") else None
        t = TensorType(DTYPES[word], shape, layout)
        self._types[self.text[start : stop if layout is None else self.pos]] = t
        self.skip(self.pos)
        return t

    def _compound(self, word: str) -> Type:
        self.deeper()
        t: Type
        if word == "map":
            key = self.dtype()
            self.need(",")
            t = MapType(key, self.known_type())
        else:
            t = (SequenceType if word == "seq" else OptionalType)(self.known_type())
        self.need(">")
        self._depth -= 1
        return t

    def dtype(self) -> DType:
        start = self.pos
        word = self.match(_WORD, "an element type")
        if word not in DTYPES:
            self.fail(f"expected an element type, one of {', '.join(DTYPES)}", start)
        return DTYPES[word]

    def _shape(self) -> tuple[DimLike, ...] | None:
        """The dims up to the closing bracket; the space behind it is not passed, for a layout must follow at once."""
        shape: list[DimLike] | None = []
        if self.take("*"):
            shape = None
        elif not self.at("]"):
            shape = self.list_of(self.dim)
        if not self.at("]"):
            self.fail("expected `,` or `]`")
        self.pos += 1
        return None if shape is None else tuple(shape)

    def _layout(self, rank: int) -> Layout | None:
        m = _LAYOUT.match(self.text, self.pos)
        if m is None:
            self.fail("expected a layout such as {nhwc} or {0,2,1}")
        layout = self.guard(self.pos, Layout.parse, m[1])
        if layout is not None and len(layout.perm) != rank:
            self.fail(f"expected a layout of {rank} axes")
        self.pos = m.end()
        return layout

    # ---- attribute values

    def list_of(self, item: Callable[[], Any]) -> list:
        out = [item()]
        while self.take(","):
            out.append(item())
        return out

    def attr(self) -> Any:
        """One attribute's value. Numbers with a point or an exponent are floats, other arithmetic is a Dim or an int."""
        if self.at('"'):
            return self.string()
        if self.take("["):
            self.deeper()
            items = () if self.at("]") else tuple(self.list_of(self.attr))
            self.need("]")
            self._depth -= 1
            return items
        m = _FLOAT.match(self.text, self.pos)
        if m is not None:
            self.pos = m.end()
            return float(m[1])
        m = _WORD.match(self.text, self.pos)
        if m is None:
            return self.dim()
        return self._attr_word(m)

    def _attr_word(self, m: re.Match[str]) -> Any:
        word, after = m[1], self.text[m.end() : m.end() + 1]
        if word in _FUNCTIONS and after == "(":
            return self.dim()
        if (word in DTYPES and after == "[") or (word in ("seq", "opt", "map") and after == "<"):
            return self.known_type()
        self.pos = m.end()
        if word == "array" and after == "(":
            return self._attr_array()
        return _CONSTANTS[word] if word in _CONSTANTS else DTYPES.get(word, word)

    def _attr_array(self) -> np.ndarray:
        self.need("(")
        start, t = self.pos, self.known_type()
        self.need(",")
        constant = self.contents(t, start)
        self.need(")")
        try:
            return constant.array
        except IRError as e:  # an attribute, unlike a constant, cannot wait for its blob
            self.fail(str(e), start)

    # ---- contents of constants

    def contents(self, t: Type, start: int) -> Constant:
        if not (isinstance(t, TensorType) and t.shape is not None and all(isinstance(d, int) and d >= 0 for d in t.shape)):
            self.fail("expected the type of a tensor with constant dims", start)
        if self.word("blob"):
            return self.blob(t)
        self.need("[")
        start = self.pos
        items = [] if self.at("]") else self.list_of(self._element(t.dtype))
        self.need("]")
        if len(items) != t.size:
            self.fail(f"expected {t.size} elements for {t}, found {len(items)}", start)
        return Constant(self._array(items, t.dtype, start).reshape(tuple(d for d in t.shape if isinstance(d, int))))

    def blob(self, t: TensorType) -> Constant:
        self.fail(f"expected the elements in place: a blob stands only in a module's text, for more than {INLINE} elements")

    def _element(self, d: DType) -> Callable[[], Any]:
        if d.kind == "string":
            return self.string
        if d.kind == "bool":
            return self._bool
        if d.kind == "complex":
            return self._complex
        return self._float if d.kind == "float" else self.integer

    def _bool(self) -> bool:
        if self.word("true"):
            return True
        if not self.word("false"):
            self.fail("expected true or false")
        return False

    def _float(self) -> float:
        return float(self.match(_NUMBER, "a number"))

    def _complex(self) -> complex:
        self.need("(")
        real = self._float()
        self.need(",")
        z = complex(real, self._float())
        self.need(")")
        return z

    def _array(self, items: list, d: DType, start: int) -> np.ndarray:
        if d.kind == "string":
            array = np.empty(len(items), object)
            array[:] = items
            return array
        if d.is_integer:
            info = ml_dtypes.iinfo(d.np)
            if not all(info.min <= x <= info.max for x in items):
                self.fail(f"expected integers in [{info.min}, {info.max}] for {d}", start)
            return np.array(items, object).astype(np.uint64 if d is DTYPES["u64"] else np.int64).astype(d.np)
        wide: np.ndarray = np.array(items, {"float": np.float64, "complex": np.complex128, "bool": np.bool_}[d.kind])
        with np.errstate(all="ignore"):
            array = wide.astype(d.np)
        saturated = d.kind == "float" and np.any(np.isfinite(wide) & (np.abs(wide) > 2 * float(ml_dtypes.finfo(d.np).max)))
        if saturated or not np.array_equal(_special(wide), _special(array)):
            self.fail(f"expected numbers that {d} can hold", start)
        return array


def _special(a: np.ndarray) -> np.ndarray:
    """1 for NaN, 2 for an infinity, 0 for a finite number, of each real part."""
    if a.dtype == np.bool_:
        return np.zeros(a.shape)
    parts = a.reshape(-1, 1).view(a.real.dtype).astype(np.float64) if a.dtype.kind == "c" else a.astype(np.float64)
    return np.isnan(parts) + 2 * np.isinf(parts)
