"""The list of operator families is the list of files."""

from __future__ import annotations

from pathlib import Path

import graphmill.ir.ops as ops


def test_every_file_is_imported():
    files = {p.stem for p in Path(ops.__file__).parent.glob("*.py")} - {"__init__", "examples"}
    assert set(ops.FAMILIES) == files and list(ops.FAMILIES) == sorted(ops.FAMILIES)
