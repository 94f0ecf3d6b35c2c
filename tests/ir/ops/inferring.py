"""Short ways to call one operator's inference, contents and reference in tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from graphmill.ir.op import OPS, InferContext
from graphmill.ir.symbols import symbol
from graphmill.ir.types import DTYPES, TensorType, Type, type_of
from op_harness import load_all

load_all()

N, M = symbol("N"), symbol("M", 1)


def t(*shape: Any, dtype: str = "f32") -> TensorType:
    """A tensor type; `t(None)` has an unknown rank."""
    return TensorType(DTYPES[dtype], None if shape == (None,) else shape)


def context(name: str, *operands: Any, results: int = 1, regions: Any = (), **attrs: Any) -> InferContext:
    """Operands are types (of unknown contents), arrays (of known ones), lists of int | Dim | None (shape arithmetic) or None."""
    types: list[Type | None] = []
    contents: list[np.ndarray | None] = []
    for x in operands:
        if isinstance(x, list):
            known = np.empty(len(x), object)
            known[:] = x
            types.append(t(len(x), dtype="i64"))
            contents.append(known)
        else:
            types.append(type_of(x) if isinstance(x, np.ndarray) else x)
            contents.append(x if isinstance(x, np.ndarray) else None)
    op = OPS[name]
    return InferContext(op, types, {k: a.default for k, a in op.attrs.items()} | attrs, results, contents, region_types=regions)


def infer(name: str, *operands: Any, **kw: Any) -> Any:
    """The inferred type of an operator with one result, else the list of types."""
    out = OPS[name].infer(context(name, *operands, **kw))
    return out[0] if isinstance(out, list) and OPS[name].results == 1 else out


def shape(name: str, *operands: Any, **kw: Any) -> Any:
    """The inferred shape of the first result."""
    out = infer(name, *operands, **kw)
    return (out[0] if isinstance(out, (list, tuple)) else out).shape


def dims(name: str, *operands: Any, **kw: Any) -> Any:
    """The known contents of the result, as nested lists."""
    found = OPS[name].dims(context(name, *operands, **kw))
    return None if found is None else found.tolist()


def run(name: str, *operands: Any, **attrs: Any) -> Any:
    """What the reference returns."""
    op = OPS[name]
    return op.reference(*operands, **{k: a.default for k, a in op.attrs.items()} | attrs)
