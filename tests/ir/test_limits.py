"""What runs may use: budgets, and what references ask of them."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import LimitError
from graphmill.ir.interp import constant_bytes
from graphmill.ir.limits import Budget, Limits, claim, nbytes_of, tick
from graphmill.ir.parser import parse_module


def test_bytes_grow_with_what_is_given() -> None:
    b = Budget(Limits(total_bytes=100, growth=2), given=50)
    b.check_bytes("x", 200)
    with pytest.raises(LimitError, match="x: 201 bytes beside the 0 that the run holds, more than the limit of 200"):
        b.check_bytes("x", 201)
    b.held = 150
    assert b.fits(50) and not b.fits(51)
    assert Budget(Limits(total_bytes=None, tensor_bytes=None)).fits(1 << 62)


def test_time_grows_with_what_is_given() -> None:
    limits = Limits(seconds=1, seconds_per_mb=2)
    Budget(limits, given=3 << 20, started=Budget(limits).started - 6, started_cpu=-1000).check_time("x")
    with pytest.raises(LimitError, match=r"x: more than 7 s have passed; raise Limits\.seconds"):
        Budget(limits, given=3 << 20, started=Budget(limits).started - 8, started_cpu=-1000).check_time("x")
    Budget(limits, given=3 << 20, nodes=2000, started=Budget(limits).started - 8, started_cpu=-1000).check_time("x")
    Budget(limits, given=3 << 20, started=Budget(limits).started - 8).check_time("x")  # the process itself did not work so long
    Budget(Limits(seconds=None), started=0).check_time("x")


def test_references_ask_the_run_that_they_are_part_of() -> None:
    claim(1 << 62)  # outside of a run nothing is checked
    tick()
    outer, inner = Budget(Limits(total_bytes=100)), Budget(Limits(total_bytes=10, seconds=0), started=0)
    with outer.watching("outer"):
        claim(100)
        with inner.watching("inner"):
            with pytest.raises(LimitError, match="inner: 11 bytes"):
                claim(11)
            with pytest.raises(LimitError, match="inner: more than 0 s"):
                tick()
        tick()
        with pytest.raises(LimitError, match="outer: 101 bytes"):
            claim(101)


def test_bytes_of_lists_and_strings() -> None:
    assert nbytes_of(np.zeros(4, np.float32)) == 16
    assert nbytes_of(["abcd"] * 1000) == 8000 + 60 * 16 * 63
    assert nbytes_of(np.array(["ab", "c"], object)) == 16 + 58 + 57
    assert nbytes_of(None) == 0


def test_tables_in_attributes_count_as_constants() -> None:
    """A published ensemble of trees holds 190 MB in attributes; without them it would be given the time of an empty model."""
    text = "module @m {opset = 21} {\n  graph @main(%x: f32[1,2]) -> %y {\n    %y = scaler(%x) {scale = [1.0, 2.0]} : f32[1,2]\n  }\n}\n"
    assert constant_bytes(parse_module(text)) == 2
