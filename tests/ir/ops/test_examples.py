"""Every example of every registered operator, against onnx.reference and ONNX Runtime (see harness)."""

from __future__ import annotations

import pytest
from op_harness import check_example, example_params, load_all

load_all()


@pytest.mark.parametrize("name, index", example_params())
def test_example(name: str, index: int) -> None:
    check_example(name, index)
