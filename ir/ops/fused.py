"""The region operator that fusion makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..op import InferContext, op


def _infer(c: InferContext) -> list:
    return list(c.region_types[0])


@op("fused", infer=_infer, regions=("body",), traits=("isolated",), results=None)
def fused(*operands: Any, body: Callable[..., tuple], kernel: str = "loops") -> tuple:
    """Runs its region, whose inputs stand for the operands one for one, as one kernel of the given kind."""
    return body(*operands)
