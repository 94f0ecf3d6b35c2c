"""Every hostile model ends in a typed error or the right answer, in bounded time and memory."""

from __future__ import annotations

import pytest
from cases_control import CASES as CONTROL
from cases_files import CASES as FILES
from cases_numbers import CASES as NUMBERS
from cases_shapes import CASES as SHAPES
from harness import Case, try_case


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in (*FILES, *SHAPES, *CONTROL, *NUMBERS)])
def test_hostile(worker, case: Case):
    assert not try_case(worker, case)
