"""Regular expressions as RE2 has them, matched in time linear in the text: no pattern of a model can hang a run.

Python's parser reads the pattern; the tree becomes a nondeterministic automaton (Thompson, "Regular expression search
algorithm", 1968), whose states are all advanced together, character by character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from re import _constants as k  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

MAX_REPEAT = 1000  # RE2's own bound on {n,m}
MAX_STATES = 100_000

# (character, the set of characters) tests of the classes that RE2 knows, which are those of ASCII.
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_DIGIT, _SPACE = frozenset("0123456789"), frozenset("\t\n\f\r ")
_CLASSES = {
    k.CATEGORY_WORD: (_WORD, True),
    k.CATEGORY_NOT_WORD: (_WORD, False),
    k.CATEGORY_DIGIT: (_DIGIT, True),
    k.CATEGORY_NOT_DIGIT: (_DIGIT, False),
    k.CATEGORY_SPACE: (_SPACE, True),
    k.CATEGORY_NOT_SPACE: (_SPACE, False),
}
_PYTHON_ONLY = {
    k.GROUPREF: "a backreference",
    k.GROUPREF_EXISTS: "a conditional group",
    k.ASSERT: "a look-around",
    k.ASSERT_NOT: "a look-around",
    getattr(k, "ATOMIC_GROUP", None): "an atomic group",
    getattr(k, "POSSESSIVE_REPEAT", None): "a possessive repeat",
}

_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}

Test = Callable[[str], bool]


def _as_python(pattern: str) -> str:
    """What RE2 spells otherwise than Python: \\z, [:classes:] within brackets, and {,n}, which stands for itself."""
    out, at, start = [], 0, -1  # `start`: where the open bracket began, -1 outside of brackets
    while at < len(pattern):
        piece = pattern[at]
        if piece == "\\":
            piece = pattern[at : at + 2]
        elif start >= 0 and piece == "[" and pattern.startswith("[:", at):
            end = pattern.find(":]", at + 2)
            if end < 0 or pattern[at + 2 : end] not in _POSIX:
                raise ValueError(
                    f"the pattern {pattern!r} has an unknown class at {pattern[at:]!r}; expected [:alpha:] and the like"
                )
            out.append(_POSIX[pattern[at + 2 : end]])
            at = end + 2
            continue
        elif start < 0 and piece == "[":
            start = at + (2 if pattern.startswith("[^", at) else 1)
        elif start >= 0 and piece == "]" and at > start:
            start = -1
        literal = (piece == "{" and start < 0 and pattern.startswith("{,", at)) or (piece == "[" and 0 <= start <= at)
        out.append(r"\Z" if piece == r"\z" and start < 0 else "\\" + piece if literal else piece)
        at += len(piece)
    return "".join(out)


class Regex:
    """A compiled pattern. Raises ValueError for one that is malformed, or asks for what RE2 does not have."""

    def __init__(self, pattern: str):
        try:
            tree = parser.parse(_as_python(pattern), re.ASCII)
        except (re.error, RecursionError, OverflowError) as e:
            raise ValueError(f"the pattern {pattern!r} is no regular expression that is understood: {e}") from None
        self.pattern = pattern
        # A state is a test with one successor, a check of the position with one, or a fork with several.
        self.tests: list[Test | None] = []
        self.checks: list[Callable[[str, int], bool] | None] = []
        self.next: list[list[int]] = []
        self.accept = self._state()
        self.start = self._sequence(tree, self.accept, tree.state.flags)

    def _state(self, *successors: int, test: Test | None = None, check: Callable[[str, int], bool] | None = None) -> int:
        if len(self.next) >= MAX_STATES:
            raise ValueError(f"the pattern {self.pattern!r} needs more than {MAX_STATES} states")
        self.tests.append(test)
        self.checks.append(check)
        self.next.append(list(successors))
        return len(self.next) - 1

    # Each builder returns the state that begins what it builds and goes on to the state `then`.

    def _sequence(self, items: Iterable[Any], then: int, flags: int) -> int:
        for code, arg in reversed(list(items)):
            then = self._item(code, arg, then, flags)
        return then

    def _item(self, code: Any, arg: Any, then: int, flags: int) -> int:
        if code is k.BRANCH:
            return self._state(*(self._sequence(b, then, flags) for b in arg[1]))
        if code is k.SUBPATTERN:
            _, added, removed, items = arg
            return self._sequence(items, then, (flags | added) & ~removed)
        if code in (k.MAX_REPEAT, k.MIN_REPEAT):
            least, most, items = arg
            return self._repeat(least, most, items, then, flags)
        if code is k.AT:
            return self._state(then, check=_position(arg, flags))
        if code in _PYTHON_ONLY:
            raise ValueError(f"the pattern {self.pattern!r} has {_PYTHON_ONLY[code]}, which RE2 does not have")
        return self._state(then, test=_test(code, arg, flags))

    def _repeat(self, least: int, most: Any, items: Any, then: int, flags: int) -> int:
        unbounded = most is k.MAXREPEAT
        if least > MAX_REPEAT or (not unbounded and most > MAX_REPEAT):
            raise ValueError(f"the pattern {self.pattern!r} repeats more than {MAX_REPEAT} times")
        if unbounded:
            again = self._state()
            self.next[again] = [self._sequence(items, again, flags), then]
            then = again
        else:
            end = then
            for _ in range(most - least):
                then = self._state(self._sequence(items, then, flags), end)
        for _ in range(least):
            then = self._sequence(items, then, flags)
        return then

    def matches(self, text: str) -> bool:
        """Whether the pattern matches the whole text."""
        states = self._closure({self.start: 0}, text, 0)
        for i, ch in enumerate(text):
            states = self._closure({self.next[s][0]: 0 for s in states if self._passes(s, ch)}, text, i + 1)
            if not states:
                return False
        return self.accept in states

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the pattern matches, from left to right without overlap: each time the leftmost, longest text that is not empty."""
        found: list[tuple[int, int]] = []
        while (span := self._search(text, found[-1][1] if found else 0)) is not None:
            found.append(span)
        return found

    def _search(self, text: str, at: int) -> tuple[int, int] | None:
        """The leftmost, longest match that is not empty, from `at` on; states know the earliest start that leads to them."""
        states: dict[int, int] = {}
        best: tuple[int, int] | None = None
        for i in range(at, len(text)):
            states = self._closure({**states, self.start: states.get(self.start, i)} if best is None else states, text, i)
            read = {self.next[s][0]: first for s, first in reversed(states.items()) if self._passes(s, text[i])}
            if best is not None:
                read = {s: first for s, first in read.items() if first <= best[0]}
                if not read:
                    break
            states = self._closure(read, text, i + 1)
            if self.accept in states and (best is None or states[self.accept] <= best[0]):
                best = states[self.accept], i + 1
        return best

    def _passes(self, state: int, ch: str) -> bool:
        test = self.tests[state]
        return test is not None and test(ch)

    def _closure(self, states: Mapping[int, int], text: str, at: int) -> dict[int, int]:
        """The states reached without reading a character, each with the smallest number that leads to it, in order of these."""
        seen: dict[int, int] = {}
        for first, state in sorted((first, state) for state, first in states.items()):
            open_ = [state]
            while open_:
                s = open_.pop()
                if s in seen:
                    continue
                seen[s] = first
                check = self.checks[s]
                if self.tests[s] is None and (check is None or check(text, at)):
                    open_.extend(self.next[s])
        return seen


def _position(code: Any, flags: int) -> Callable[[str, int], bool]:
    """^ and $ (of each line with the flag m), \\A, \\z, \\b and \\B."""
    if code is k.AT_BEGINNING and flags & re.MULTILINE:
        return lambda text, at: at == 0 or text[at - 1] == "\n"
    if code in (k.AT_BEGINNING, k.AT_BEGINNING_STRING):
        return lambda text, at: at == 0
    if code is k.AT_END and flags & re.MULTILINE:
        return lambda text, at: at == len(text) or text[at] == "\n"
    if code in (k.AT_END, k.AT_END_STRING):
        return lambda text, at: at == len(text)
    inside = code is k.AT_BOUNDARY

    def boundary(text: str, at: int) -> bool:
        before, after = at > 0 and text[at - 1] in _WORD, at < len(text) and text[at] in _WORD
        return (before != after) == inside

    return boundary


def _test(code: Any, arg: Any, flags: int) -> Test:
    """The test of one character."""
    if code is k.ANY:
        return "\n".__ne__ if not flags & re.DOTALL else lambda ch: True
    if code is k.LITERAL:
        return _folding(chr(arg).__eq__, flags)
    if code is k.NOT_LITERAL:
        test = _folding(chr(arg).__eq__, flags)
        return lambda ch: not test(ch)
    if code is k.IN:
        return _class(arg, flags)
    raise ValueError(f"the regular expression holds {code}, which is not understood")


def _folding(test: Test, flags: int) -> Test:
    if not flags & re.IGNORECASE:
        return test
    return lambda ch: test(ch) or test(ch.lower()) or test(ch.upper())


def _between(lo: int, hi: int) -> Test:
    return lambda ch: lo <= ord(ch) <= hi


def _member(members: frozenset[str], wanted: bool) -> Test:
    return lambda ch: (ch in members) == wanted


def _class(items: Any, flags: int) -> Test:
    """[...]: characters, ranges and classes, perhaps all but those."""
    negated = False
    tests: list[Test] = []
    for code, arg in items:
        if code is k.NEGATE:
            negated = True
        elif code is k.LITERAL:
            tests.append(chr(arg).__eq__)
        elif code is k.RANGE:
            tests.append(_between(*arg))
        else:
            tests.append(_member(*_CLASSES[arg]))
    found = _folding(lambda ch: any(t(ch) for t in tests), flags)
    return (lambda ch: not found(ch)) if negated else found
