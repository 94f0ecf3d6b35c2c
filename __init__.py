"""graphmill: compile ONNX models and run them, and see why they run as they do.

Everything here is loaded when first asked for, so that `import graphmill` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's, whose import alone would be most of what `import graphmill` costs

if TYPE_CHECKING:
    from . import cli, engine, frontends, ir, kernels
    from .engine import ort
    from .engine.artifact import load
    from .engine.compiler import compile
    from .engine.executor import Executable
    from .engine.extend import converter, op, register_pass, rewrite
    from .engine.foreign import as_dlpack
    from .engine.narrowing import precision_report
    from .engine.profile import profile
    from .frontends.onnx.reader import read as read_onnx
    from .frontends.onnx.writer import export as export_onnx
    from .frontends.onnx.writer import write as write_onnx
    from .frontends.text import read_text, write_text
    from .ir import errors
    from .ir.limits import Limits

__version__ = "0.1.0"
__all__ = [
    "Executable", "Limits", "__version__", "as_dlpack", "cli", "compile", "converter", "engine", "errors", "export_onnx",
    "frontends", "ir", "kernels", "load", "op", "ort", "precision_report", "profile", "read_onnx", "read_text",
    "register_pass", "rewrite", "write_onnx", "write_text",
]  # fmt: skip

# The public names: the module where each lives, and its name there (none: the module itself).
_FACE = {
    "compile": "engine.compiler:compile",
    "load": "engine.artifact:load",
    "Executable": "engine.executor:Executable",
    "Limits": "ir.limits:Limits",
    "read_onnx": "frontends.onnx.reader:read",
    "export_onnx": "frontends.onnx.writer:export",
    "write_onnx": "frontends.onnx.writer:write",
    "read_text": "frontends.text:read_text",
    "write_text": "frontends.text:write_text",
    "as_dlpack": "engine.foreign:as_dlpack",
    "profile": "engine.profile:profile",
    "precision_report": "engine.narrowing:precision_report",
    "op": "engine.extend:op",
    "converter": "engine.extend:converter",
    "rewrite": "engine.extend:rewrite",
    "register_pass": "engine.extend:register_pass",
    "ort": "engine.ort:",
    "errors": "ir.errors:",
    "ir": "ir:",
    "engine": "engine:",
    "frontends": "frontends:",
    "kernels": "kernels:",
    "cli": "cli:",
}


def _load(name: str) -> object:
    if name not in _FACE:
        raise AttributeError(f"module 'graphmill' has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = _FACE[name].partition(":")
    value = import_module(f".{module}", __name__)
    globals()[name] = getattr(value, attribute) if attribute else value
    return globals()[name]


if not TYPE_CHECKING:
    __getattr__ = _load  # type checkers see the imports above, and complain of names that are not there


def __dir__() -> list[str]:
    return sorted(__all__)
