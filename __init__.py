"""graphmill: compile ONNX models and run them, and see why they run as they do.

Everything here is loaded when first asked for, so that `import graphmill` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The public names and where they live.
_FACE = {
    "compile": "engine.compiler", "Executable": "engine.executor", "Limits": "ir.limits", "load_onnx": "frontends.onnx.reader",
    "op": "engine.extend", "converter": "engine.extend", "rewrite": "engine.extend", "register_pass": "engine.extend",
}  # fmt: skip
_MODULES = {"ir": "ir", "errors": "ir.errors", "engine": "engine", "frontends": "frontends", "kernels": "kernels", "cli": "cli"}
__all__ = ["__version__", *_FACE, *_MODULES]

if TYPE_CHECKING:
    from .engine.compiler import compile as compile
    from .engine.executor import Executable as Executable


def __getattr__(name: str) -> Any:
    import importlib

    if name in _FACE:
        value = getattr(importlib.import_module(f".{_FACE[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{_MODULES[name]}", __name__)
    else:
        raise AttributeError(f"module 'graphmill' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
