"""How sizes are found while running: shapes and types of results, from symbols and from operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.core import Node, Value
from ..ir.errors import GraphmillError, RunError
from ..ir.infer import MAX_CONTENTS, where
from ..ir.limits import nbytes_of
from ..ir.op import InferContext
from ..ir.symbols import DimLike, Unbound, evaluate
from ..ir.types import STR, DType, TensorType, dtype_of, type_of
from .device import fetch

if TYPE_CHECKING:
    from .steps import Frame


@dataclass(frozen=True, slots=True)
class Shaped:
    """Stands for an array that is not computed yet, where only sizes matter. Of integers that follow from recorded sizes
    (`recording.Size`, which arrays of numbers cannot hold) the `contents` are known, as an array of objects."""

    shape: tuple[int, ...]
    dtype: np.dtype
    contents: np.ndarray | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def transpose(self, perm: Sequence[int]) -> Shaped:
        """The same with its axes in another order; of contents there are none where a layout is."""
        return Shaped(tuple([self.shape[a] for a in perm]), self.dtype)


def result_shapes(node: Node, frame: Frame) -> list[tuple[int, ...]]:
    """The logical shapes of the node's results: from the symbols known so far, else by inferring with the actual operands."""
    try:
        return [_evaluated(r.tensor.shape or (), frame) for r in node.results if _ranked(r)]
    except (Unbound, _UnknownRank):
        types = concrete_types(node, [seen(frame.logical(v)) for v in node.operands])
        for r, t in zip(node.results, types):
            if not isinstance(t, TensorType) or not t.is_static:
                raise RunError(f"{where(node)}: the size of %{r.name} ({t}) cannot be known before it runs") from None
        return [t.shape for t in types[: len(node.results)]]
    except ValueError as e:
        raise RunError(f"{where(node)}: {e}") from e


def _evaluated(shape: Sequence[DimLike], frame: Frame) -> tuple[int, ...]:
    return tuple([d if type(d) is int else frame.evaluate(d) for d in shape])


def seen(x: Any) -> Any:
    """A value as inference sees it: of what lies in a device's memory the contents only where they may say something of sizes."""
    if isinstance(x, (np.ndarray, Shaped)) or not hasattr(x, "numpy"):
        return x
    few = x.size <= (MAX_CONTENTS if x.dtype.kind in "iub" else 1)  # `range` and `one_hot` take one float as a size, too
    return fetch(x) if few else Shaped(x.shape, x.dtype)


class _UnknownRank(Exception):
    pass


def _ranked(r: Value) -> bool:
    if r.tensor.shape is None:
        raise _UnknownRank
    return True


def _contents(x: Any) -> np.ndarray | None:
    """The contents of a value, where inference may look at them."""
    known = x.contents if isinstance(x, Shaped) else x
    return known if isinstance(known, np.ndarray) and known.size <= MAX_CONTENTS else None


def _type(x: Any) -> Any:
    return TensorType(dtype_of(x.dtype), x.shape) if isinstance(x, Shaped) else type_of(x)


def concrete_types(node: Node, operands: Sequence[Any]) -> list[Any]:
    """The types of the results for actual operands. A symbol that is left stands for a size that only running can tell."""
    if node.op.has("isolated"):
        return _concrete_region(node, operands)
    c = InferContext(
        node.op,
        [None if x is None else _type(x) for x in operands],
        node.all_attrs(),
        len(node.results),
        [_contents(x) for x in operands],
    )
    try:
        out = node.op.infer(c)
    except GraphmillError as e:
        raise RunError(f"{where(node)}: {e}") from e
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as e:
        raise RunError(f"{where(node)}: {node.op.name} cannot take these operands: {e}") from e
    return list(out) if isinstance(out, (tuple, list)) else [out]


def _concrete_region(node: Node, operands: Sequence[Any]) -> list[Any]:
    region = node.regions[0]
    types = {v: _type(x) for v, x in zip(region.inputs, operands) if x is not None}
    arrays = {v: _contents(x) for v, x in zip(region.inputs, operands)}
    for inner in region:
        c = InferContext(inner.op, [None if v is None else types.get(v, v.type) for v in inner.operands], inner.all_attrs(),
                         len(inner.results), [None if v is None else arrays.get(v, v.array) for v in inner.operands])  # fmt: skip
        try:
            out = inner.op.infer(c)
        except GraphmillError as e:
            raise RunError(f"{where(inner)}: {e}") from e
        types.update(zip(inner.results, out if isinstance(out, (tuple, list)) else [out]))  # type: ignore[list-item]
    return [types[v] for v in region.outputs]


def nbytes_of_shape(shape: tuple[int, ...], dtype: DType) -> int:
    """The bytes of a tensor. For an empty one of sizes that numpy cannot even multiply, so many that no limit allows it."""
    n = math.prod(shape)
    return (n or (1 << 63 if math.prod(d or 1 for d in shape) >= 1 << 56 else 0)) * dtype.itemsize


def check_size(node: Node, operands: Sequence[Any], frame: Frame) -> int:
    """Before a reference allocates: its results must fit into the limits, as far as their sizes can be known; those bytes."""
    try:
        types = [TensorType(r.tensor.dtype, tuple(evaluate(d, frame.symbols) for d in r.tensor.shape or ())) for r in node.results
                 if isinstance(r.type, TensorType) and _ranked(r)]  # fmt: skip
    except (Unbound, _UnknownRank, ValueError):
        if node.op.has("opaque"):
            return 0
        types = concrete_types(node, operands)
    strings = sum(nbytes_of(x) // x.size for x in operands if isinstance(x, np.ndarray) and x.dtype == object and x.size)
    total = 0
    for t in types:
        if isinstance(t, TensorType) and t.is_static:
            n = nbytes_of_shape(t.shape, t.dtype)  # type: ignore[arg-type]
            total += n if t.dtype is not STR else n // t.dtype.itemsize * strings
    frame.budget.check_bytes(where(node), total)
    return total
