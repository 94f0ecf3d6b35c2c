"""Every hostile model ends in a typed error or the right answer, in bounded time and memory."""

from __future__ import annotations

import pytest
from cases_control import CASES as CONTROL
from cases_files import CASES as FILES
from cases_more import CASES as MORE
from cases_numbers import CASES as NUMBERS
from cases_shapes import CASES as SHAPES
from hostile_harness import Case, try_case

# What is known to fail yet, by its name, and why.
OPEN: dict[str, str] = {}


def param(case: Case):
    reason = OPEN.get(case.name)
    return pytest.param(case, id=case.name, marks=[pytest.mark.xfail(reason=reason, strict=True)] if reason else [])


@pytest.mark.parametrize("case", [param(c) for c in (*FILES, *SHAPES, *CONTROL, *NUMBERS, *MORE)])
def test_hostile(worker, case: Case):
    wrong = try_case(worker, case)
    assert not wrong, wrong
