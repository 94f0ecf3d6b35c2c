"""The language of kernel texts: what it computes is what Python computes, and what makes no sense is refused with a line number."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pytest
from graphmill.kernels.cpu import objects
from graphmill.kernels.cpu.launch import call
from hypothesis import given, settings
from hypothesis import strategies as st


def run(body: str, *given: int, results: int = 1, top: str = "") -> list[int]:
    """What a text stores: `body` reads the integers a, b, ... and calls out(i, value)."""
    out = np.zeros(results, np.int64)
    names = "abcdef"[: len(given)]
    reads = "".join(f"    {n} = param(p, {1 + i})\n" for i, n in enumerate(names))
    store = "@function\ndef out(p, i, value):\n    st_i64(param(p, 0), i, value)\n\n"
    body = textwrap.indent(textwrap.dedent(body).replace("out(", "out(p, "), "    ")
    text = f"{top}{store}def kernel(p, tile, ntiles):\n{reads}{body}\n"
    call(objects.kernel_address(text), np.array([out.ctypes.data, *given], np.int64), 1, 1)
    return out.tolist()


def wrapped(n: int) -> int:
    return (n + 2**63) % 2**64 - 2**63


numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9)


@settings(max_examples=150)
@given(a=numbers, b=numbers)
def test_integers_are_pythons_but_for_their_width(a: int, b: int) -> None:
    got = run("""
        out(0, a + b)
        out(1, a - b)
        out(2, a * b)
        out(3, a // b)
        out(4, a % b)
        out(5, (a & b) | (a ^ ~b))
        out(6, -a)
        out(7, abs(a))
        out(8, min(a, b, 3))
        out(9, max(a, b, -3))
        out(10, a // 7)
        out(11, a % 7)
        out(12, a // 8)
        out(13, a % 8)
        """, a, b, results=14)  # fmt: skip
    divided = (a // b, a % b) if b else (0, 0)
    want = [
        a + b,
        a - b,
        a * b,
        *divided,
        (a & b) | (a ^ ~b),
        -a,
        abs(a),
        min(a, b, 3),
        max(a, b, -3),
        a // 7,
        a % 7,
        a // 8,
        a % 8,
    ]
    assert got == [wrapped(n) for n in want]


@pytest.mark.parametrize("steps", ["n", "2, n", "0, n, 3", "n, -2, -1", "n, 0, -4", "5, 5", "7, 3"])
def test_loops_are_pythons(steps: str) -> None:
    body = f"""
        total = 0
        last = -1
        for i in range({steps}):
            if i == 4:
                continue
            if i == 11:
                break
            total = total * 3 + i
            last = i
        while total > 100:
            total -= 7
            if total % 13 == 0:
                break
        """
    for n in (0, 1, 5, 20):
        scope: dict[str, Any] = {"n": n}
        exec(textwrap.dedent(body), scope)
        assert run(f"n = a{body}\nout(0, total)\nout(1, last)".replace("\n        ", "\n"), n, results=2) == [
            scope["total"],
            scope["last"],
        ]


def test_what_decides_first_decides() -> None:
    """The address 0 is not read."""
    body = """
        x = 0
        if a != 0 and ld_i64(a, 0) == 7:
            x = 1
        if a == 0 or ld_i64(a, 0) == 7:
            x += 2
        if 0 < a < ld_i64(a, 0):
            x += 4
        out(0, x)
        """
    seven = np.array([7])
    assert run(body, 0) == [2] and run(body, seven.ctypes.data) == [3]


def test_a_choice_evaluates_one_side() -> None:
    assert run("out(0, ld_i64(a, 0) if a != 0 else -5)", 0) == [-5]
    assert run("out(0, 1 if not a > 3 else 2)", 4) == [2]


def test_what_is_known_is_not_compiled() -> None:
    assert run("if SIZE < 0:\n    nonsense(1)\nout(0, SIZE * 3 + LANES - LANES)", top="SIZE = 14\n") == [42]


def test_subroutines() -> None:
    top = """
@function
def first_above(limit, n):
    for i in range(n):
        if i * i > limit:
            return i
    return -1


"""
    assert run("out(0, first_above(a, 10) + first_above(a + 30, 10))", 20, top=top) == [5 + 8]
    assert run("out(0, first_above(a, 3))", 20, top=top) == [-1]


def test_a_name_may_hold_one_type_after_another() -> None:
    assert run("x = splat(f32(2))\ny = hsum(x)\nx = to_i64(y)\nout(0, x)") == [2 * 8 if _lanes() == 8 else 2 * _lanes()]


def _lanes() -> int:
    from graphmill.kernels.cpu.vector import LANES

    return LANES


@pytest.mark.parametrize(("body", "message"), [
    ("if a > 0:\n    x = 1\nelse:\n    x = f32(1)\nout(0, to_i64(x))", "line 11: the type of x hangs on the way that was taken"),
    ("x = 1\nfor i in range(a):\n    y = x\n    x = f32(1)", "x has another type in the next round"),
    ("out(0, missing)", "missing is not defined"),
    ("out(0, f32(1) + f64(2))", "operands of types"),
    ("out(0, splat(f32(1)) + 1)", "operators take no vectors"),
    ("add(f32(1), f64(1))", "expected one element type"),
    ("out(0, a / 2)", "integers are divided by //"),
    ("with a:\n    pass", "With is no statement of kernel texts"),
    ("out(0, [a])", "List is no expression of kernel texts"),
    ("for i in a:\n    pass", "for runs over range"),
    ("for i in range(0, 9, a):\n    pass", "the step of a range is a constant"),
    ("alloc(a)", "alloc takes a constant size"),
    ("x = st_i64(param(p, 0), 0, 1)", "x is given no value"),
    ("ld_i64(a)", "ld_i64"),
    ("a(1)", "a cannot be called"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(body: str, message: str) -> None:
    with pytest.raises(objects.KernelCompileError) as caught:
        run(body, 1)
    assert message in str(caught.value) and "line " in str(caught.value)
