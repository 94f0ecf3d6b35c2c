"""Programs as files of text: `model.gir`, and beside it `model.gir.npz` with the contents of its large constants by hash."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.core import Module
from ..ir.errors import HostileModelError
from ..ir.parser import parse_module
from ..ir.printer import print_module


def read_text(path: str | os.PathLike) -> Module:
    """The module of a .gir file. Raises IRError for text that does not parse, HostileModelError for a broken archive.

    Constants whose contents are in no archive raise IRError when they are asked for.
    """
    from .onnx import opaque as _  # noqa: F401  (text may name operators that onnx.reference serves)

    text, archive = Path(path).read_text(encoding="utf-8"), Path(f"{os.fspath(path)}.npz")
    blobs: dict[str, np.ndarray] = {}
    if archive.exists():
        try:
            with np.load(archive, allow_pickle=False) as z:
                blobs = {k: z[k] for k in z.files}
        except (OSError, ValueError, EOFError) as e:
            raise HostileModelError(f"{archive.name} cannot be read: {e}") from e
    return parse_module(text, blobs)


def write_text(module: Module, path: str | os.PathLike) -> None:
    """Writes a module as text and its large constants beside it; neither file is ever half-written."""
    blobs: dict[str, np.ndarray] = {}
    text = print_module(module, blobs=blobs)
    if blobs:
        plain = {k: a for k, a in blobs.items() if a.dtype != object}
        _replace(Path(f"{os.fspath(path)}.npz"), lambda f: np.savez(f, **plain))  # type: ignore[arg-type]
    _replace(Path(path), lambda f: f.write(text.encode()))


def _replace(path: Path, write: Callable[[Any], Any]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as f:
        write(f)
    os.replace(f.name, path)
