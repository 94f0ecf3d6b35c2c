"""graphmill's intermediate representation: types, operators, graphs, passes. Imports numpy and ml_dtypes only."""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from .core import Graph, Module, Node, Value
    from .types import TensorType

__all__ = ["Graph", "Module", "Node", "TensorType", "Value"]


def _load(name: str) -> object:
    """The central types, imported when first asked for (`graphmill.errors` shall not wait for numpy)."""
    if name not in __all__:
        raise AttributeError(f"module 'graphmill.ir' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(".types" if name == "TensorType" else ".core", __name__), name)


if not TYPE_CHECKING:
    __getattr__ = _load  # type checkers see the imports above
