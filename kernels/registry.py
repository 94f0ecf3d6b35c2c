"""Which kernel of a target serves a node. A kernel family announces itself with `@serves("op", ...)` of its target's registry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ..ir.core import Node
from ..ir.types import TensorType
from .spec import KernelSource, Refusal

Builder = Callable[..., KernelSource | Refusal]  # of a node


def key_of(node: Node) -> str:
    """The name under which builders of kernels for a node are announced."""
    return f"fused.{node.attr('kernel')}" if node.op.name == "fused" else node.op.name


@dataclass
class Registry:
    """The kernel families of one target: all files of `package` (a folder's name and path) but those in `apart`, which are imported
    for the first node asked for. `title` is how messages call the target."""

    title: str
    package: str
    folder: str
    apart: Collection[str] = ()
    builders: dict[str, Builder] = field(default_factory=dict)
    _loaded: bool = False

    def serves(self, *ops: str) -> Callable[[Builder], Builder]:
        """Announces the function that makes the kernel of these operators (`fused.<kernel>` for fused regions)."""

        def register(build: Builder) -> Builder:
            for name in ops:
                assert name not in self.builders, f"{name} is announced by {self.builders[name].__module__} too"
                self.builders[name] = build
            return build

        return register

    def builder(self, node: Node) -> Builder | Refusal:
        """The function that makes the kernel of `node`, or why there is none."""
        self._load()
        for v in [*node.operands, *node.results]:
            if v is not None and (not isinstance(v.type, TensorType) or v.type.shape is None):
                return Refusal(f"%{v.name} has type {v.type}, expected a tensor of known rank")
        name = key_of(node)
        build = self.builders.get(name) or (self.builders["fused.loops"] if node.op.is_elementwise else None)
        return build or Refusal(f"there is no {self.title} kernel for {name}")

    def select(self, node: Node, *more: Any) -> KernelSource | Refusal:
        """The kernel that serves `node`, or why there is none; `more` is handed on to the function that makes it."""
        build = self.builder(node)
        return build if isinstance(build, Refusal) else build(node, *more)

    def _load(self) -> None:
        if not self._loaded:
            for module in pkgutil.iter_modules([self.folder]):
                if module.name not in self.apart:
                    importlib.import_module(f".{module.name}", self.package)
            self._loaded = True
