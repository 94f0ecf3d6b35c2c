"""What is known of a value's type while a model is still being read: older opsets mean different things for different ranks."""

from __future__ import annotations

from contextlib import suppress

from ...ir.core import Node, Value
from ...ir.errors import InferenceError
from ...ir.infer import infer_node
from ...ir.types import DType, TensorType, Type


class Hints:
    """Infers types backwards from the values asked about, each node once. What a model declares of inner values is not trusted."""

    def __init__(self) -> None:
        self._tried: set[Node] = set()

    def type_of(self, v: Value) -> Type | None:
        """The type of a value, None where it cannot be inferred."""
        stack = [v]
        while stack:
            top = stack[-1]
            if self._settled(top):
                stack.pop()
                continue
            assert top.node is not None
            waiting = [x for x in top.node.operands if x is not None and not self._settled(x)]
            if waiting:
                stack += waiting
                continue
            self._tried.add(top.node)
            with suppress(InferenceError):  # reported when the whole program is inferred
                infer_node(top.node)
        return v.type

    def _settled(self, v: Value) -> bool:
        return v.type is not None or v.node is None or v.node in self._tried

    def rank(self, v: Value | None) -> int | None:
        t = None if v is None else self.type_of(v)
        return t.rank if isinstance(t, TensorType) else None

    def dtype(self, v: Value | None) -> DType | None:
        t = None if v is None else self.type_of(v)
        return t.dtype if isinstance(t, TensorType) else None
