"""Every kernel's `bind` runs on recorded sizes as on ints, and what was recorded gives the same launch for other sizes."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401  (fills OPS)
import pytest
from graphmill.ir.op import OPS
from graphmill.kernels.cpu.target import select

from ..recorded import asked_and_answered

# Whose tables are made of the sizes themselves, by numpy: the sizes are pinned.
PINNED = {"resize", "pad", "center_crop_pad"}


@pytest.mark.parametrize("name", [n for n in OPS if OPS[n].examples and OPS[n].reference])
def test_bind(name: str) -> None:
    asked, answered = asked_and_answered(OPS[name], select)
    assert answered >= asked / 20 or name in PINNED, f"{answered} of {asked} other signatures follow what was recorded"
