"""Rewrite rules of the user's own, added with `graphmill.rewrite`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core import Module
from ..infer import infer_module
from ..rewrite import Rule, rewrite
from .manager import Context, register

RULES: list[Rule] = []


@register
@dataclass(frozen=True)
class User:
    """Applies the rules that were added with `graphmill.rewrite`."""

    name: ClassVar[str] = "user"

    def run(self, module: Module, ctx: Context) -> bool:
        changed = rewrite(module, RULES, ctx.log) > 0
        if changed:
            infer_module(module)
        return changed
