"""Recorded sizes: the recorded function gives what the computation would, or None where it would have decided otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphmill.ir.recording import Size, Tape, greatest, is_size, least, opaque, value_of
from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.integers(0, 40)
OPS = ["+", "-", "*", "//", "%", "max", "min", "neg", "divmod", "shift"]
PROGRAMS = st.lists(
    st.tuples(st.sampled_from(OPS), st.integers(0, 30), st.integers(-3, 30), st.booleans(), st.integers(0, 3)), max_size=12
)


def run(program: list[tuple[str, int, int, bool, int]], a: Any, b: Any) -> list[Any]:
    """A computation on two sizes, of which some steps are taken only if what they compare says so."""
    made: list[Any] = [a, b, a * b]
    for op, i, j, constant, test in program:
        x, y = made[i % len(made)], j if constant else made[j % len(made)]
        if (test == 1 and x < y) or (test == 2 and x == y) or (test == 3 and x):
            continue
        if op in ("//", "%", "divmod") and y <= 0:
            y = 3
        match op:
            case "+":
                made.append(x + y)
            case "-":
                made.append(y - x)
            case "*":
                made.append(x * y)
            case "//":
                made.append(x // y)
            case "%":
                made.append(x % y)
            case "max":
                made.append(greatest(x, y, 7))
            case "min":
                made.append(least(y, x))
            case "neg":
                made.append(-(-x // 4))
            case "divmod":
                made += divmod(x, y)
            case "shift":
                made.append(x >> 2)
    return made  # fmt: skip


def record(program: Any, a: int, b: int) -> tuple[list[Any], Any]:
    tape = Tape()
    made = run(program, tape.size("a", a), tape.size("b", b))
    return made, tape.function("a, b", made)


@given(PROGRAMS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_the_record_is_the_computation(program: Any, a: int, b: int, c: int, d: int) -> None:
    made, again = record(program, a, b)
    assert [value_of(x) for x in made] == run(program, a, b) == list(again(a, b))
    found = again(c, d)
    assert found is None or list(found) == run(program, c, d)


def test_other_sizes_are_computed_where_decisions_stay() -> None:
    program = [("*", 0, 12, True, 0), ("+", 3, 1, False, 1), ("//", 4, 5, True, 0), ("max", 5, 0, False, 0)]
    _, again = record(program, 8, 3)
    assert all(list(again(n, 3)) == run(program, n, 3) for n in range(8, 100))


@pytest.mark.parametrize("use", [
    lambda n: list(range(n)), lambda n: [1, 2, 3, 4, 5, 6][n], int, float, hash, lambda n: n / 2, lambda n: 7 / n, lambda n: n * 0.5,
    lambda n: n > 0.5, lambda n: np.zeros(n), lambda n: np.array([n], np.int64), lambda n: {5: 1}.get(n), lambda n: "ab" * n,
])  # fmt: skip
def test_what_needs_an_int_pins_the_size(use: Any) -> None:
    tape = Tape()
    use(tape.size("a", 5))
    again = tape.function("a", ())
    assert again(5) == ()
    assert again(6) is None


def test_an_answer_is_a_guard() -> None:
    for use, fits, misfits in [(lambda n: n < 8, 7, 8), (lambda n: n >= 8, 0, 8), (lambda n: n == 5, 5, 4), (lambda n: n != 3, 4, 3),
                               (lambda n: n > 4, 5, 4), (lambda n: 4 < n <= 6, 6, 7), (bool, 1, 0), (max, 6, 3)]:  # fmt: skip
        tape = Tape()
        n = tape.size("a", 5)
        use(n) if use is not max else max(n, 3)
        again = tape.function("a", (n,))
        assert again(5) == (5,) and again(fits) == (fits,)
        assert again(misfits) is None or use is max


def halved(n: int, least: int, kind: str) -> tuple[int, int]:
    """Which decides by its operand in each turn."""
    if n > 1 << 20:
        raise ValueError(kind)
    turns = 0
    while n > least:
        n, turns = n // 2, turns + 1
    return n, turns


def test_what_is_opaque_is_called_again() -> None:
    tape = Tape()
    a = tape.size("a", 100)
    n, turns = opaque(halved, a * 3, 5, "text")
    assert (value_of(n), value_of(turns)) == halved(300, 5, "text") == opaque(halved, 300, 5, "text")
    assert opaque(halved, 3 * a, 5, "text")[0] is n and opaque(halved, 3 * a, 5, "other")[0] is not n
    size = opaque(max, a, 7)
    again = tape.function("a", (n + 1, turns, size))
    for other in (1, 7, 100, 1000):
        found, took = halved(3 * other, 5, "text")
        assert again(other) == (found + 1, took, max(other, 7))
    with pytest.raises(ValueError, match="text"):
        again(1 << 20)


def test_equal_expressions_are_one() -> None:
    tape = Tape()
    a, b = tape.size("a", 4), tape.size("b", 6)
    assert (a * 64 + b) is (b + 64 * a)
    assert 0 - (-a) is a and a + 0 is a and 1 * a is a and a // 1 is a
    assert a * 0 == 0 and not is_size(a * 0) and not is_size(a - a)
    assert greatest(a, 3, b, 1) is greatest(b, a, 3)


def test_the_least_and_greatest_of_ints_are_ints() -> None:
    assert greatest(1, 5, 3) == 5 and least(4, 2) == 2 and type(least(4, 2)) is int


def test_a_size_passes_for_an_int() -> None:
    n: Any = Tape().size("a", 5)
    assert isinstance(n, int) and type(n) is Size and f"{n} {n!r}" == "5 5"
    assert (np.array([n, 2], object) * 3).tolist()[1] == 6
    assert is_size((np.array([n, 2], object) * 3).tolist()[0])
    assert is_size(np.int64(3) * n) and is_size(n + np.int64(3)) and value_of(n * True) == 5


@pytest.mark.parametrize(
    "use", [lambda n: n**2, lambda n: 1 << n, lambda n: n & 7, lambda n: n + "a", lambda n: n < "a", lambda n: n < None]
)
def test_what_a_size_cannot_do_raises(use: Any) -> None:
    with pytest.raises(TypeError):
        use(Tape().size("a", 5))


def test_it_equals_no_other_kind_of_thing() -> None:
    tape = Tape()
    n: Any = tape.size("a", 5)
    assert (n == "5") is False and (n is None) is False and (n != "5") is True
    assert tape.function("a", ())(7) == ()


def test_division_by_zero() -> None:
    tape = Tape()
    n = tape.size("a", 5)
    again = tape.function("a", (100 // n,))
    assert again(7) == (14,)
    with pytest.raises(ZeroDivisionError):
        again(0)
    with pytest.raises(ZeroDivisionError):
        _ = Tape().size("a", 0) % Tape().size("b", 0)


def test_numbers_beyond_64_bits_stay_exact() -> None:
    tape = Tape()
    n = tape.size("a", 3)
    again = tape.function("a", {"n": n * n * n})
    assert again(1 << 40) == {"n": 1 << 120}
