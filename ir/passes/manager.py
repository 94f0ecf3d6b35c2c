"""Passes, pipelines as text, and the report of what they did.

A pass is a frozen dataclass whose fields are its options; `fold,layout{target=cpu},fuse` is a pipeline's text, which parses
and prints. After every pass that changed it the module is verified.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from ..core import Module
from ..errors import IRError
from ..interp import constant_bytes
from ..limits import DEFAULT_LIMITS, Budget, Limits
from ..rewrite import DecisionLog
from ..target import Target
from ..verify import verify


@dataclass
class Context:
    """What passes share: the log of decisions, limits and what is left of them (`budget`), the target."""

    log: DecisionLog = field(default_factory=DecisionLog)
    limits: Limits = DEFAULT_LIMITS
    target: Target | None = None
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.limits)


class Pass(Protocol):
    """A transformation of a module. Implementations are frozen dataclasses registered with `@register`."""

    name: ClassVar[str]

    def run(self, module: Module, ctx: Context) -> bool | None:
        """Changes the module in place. False: nothing was changed, and need not be verified."""


PASSES: dict[str, type] = {}


def register(cls: type) -> type:
    """Makes a pass known to pipeline texts under its `name`."""
    name = getattr(cls, "name", "")
    if not dataclasses.is_dataclass(cls) or not name:
        raise TypeError(f"{cls.__name__} must be a dataclass with a class variable `name`")
    if name in PASSES and PASSES[name] is not cls:
        raise IRError(f"a pass named {name!r} is registered already")
    PASSES[name] = cls
    return cls


def print_pass(p: Any) -> str:
    """The text of a pass: its name, and the options that differ from their defaults."""
    shown = [f"{f.name}={_option(getattr(p, f.name))}" for f in dataclasses.fields(p) if getattr(p, f.name) != f.default]
    return f"{p.name}{{{','.join(shown)}}}" if shown else p.name


def _option(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def print_pipeline(passes: Sequence[Any]) -> str:
    return ",".join(print_pass(p) for p in passes)


_ITEM = re.compile(r"\s*([A-Za-z_][\w-]*)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")


def parse_pipeline(text: str) -> list[Any]:
    """The passes of a pipeline text. Raises IRError naming the word that is no pass or option."""
    out, at = [], 0
    while at < len(text):
        m = _ITEM.match(text, at)
        if m is None:
            raise IRError(f"the pipeline {text!r} cannot be read at {text[at:]!r}; expected name{{option=value,...}},...")
        out.append(make_pass(m.group(1), m.group(2) or ""))
        at = m.end()
    return out


def make_pass(name: str, options: str = "") -> Any:
    """A pass by name with options `a=1,b=true`."""
    if name not in PASSES:
        raise IRError(f"there is no pass named {name!r}; known: {', '.join(sorted(PASSES))}")
    cls, kw = PASSES[name], {}
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for item in filter(None, (o.strip() for o in options.split(","))):
        key, eq, raw = (part.strip() for part in item.partition("="))
        if not eq or key not in fields:
            raise IRError(f"the pass {name} has no option {key!r}; known: {', '.join(fields) or 'none'}")
        kw[key] = _read_option(fields[key].default, raw, f"{name}{{{item}}}")
    try:
        return cls(**kw)
    except TypeError as e:
        raise IRError(f"the pass {name} needs its options: {e}") from None


def _read_option(default: Any, raw: str, what: str) -> Any:
    if isinstance(default, bool):
        if raw not in ("true", "false"):
            raise IRError(f"{what}: expected true or false")
        return raw == "true"
    try:
        return raw if default is None or default is dataclasses.MISSING else type(default)(raw)
    except ValueError:
        raise IRError(f"{what}: expected a value like {default!r}") from None


@dataclass(frozen=True)
class PassRecord:
    """What one pass did."""

    text: str
    seconds: float
    nodes_before: int
    nodes_after: int


Observer = Callable[[Any, Module], None]


def run_pipeline(module: Module, passes: Sequence[Any], ctx: Context, observe: Observer | None = None) -> list[PassRecord]:
    """Runs the passes in order, verifying after each that changed anything; `observe(pass, module)` sees the module after each.
    Raises LimitError where they take more than `Limits.seconds`, looked at before each pass and by folding before each node."""
    records, before = [], module.count()
    ctx.budget = Budget(ctx.limits, constant_bytes(module), nodes=before)
    for p in passes:
        ctx.budget.check_time(f"the pass {p.name}")
        started = time.perf_counter()
        changed = p.run(module, ctx)
        seconds = time.perf_counter() - started
        try:
            if changed is not False:
                verify(module)
        except IRError as e:
            raise IRError(f"after the pass {print_pass(p)}: {e}") from None
        after = before if changed is False else module.count()
        records.append(PassRecord(print_pass(p), seconds, before, after))
        if observe is not None:
            observe(p, module)
        before = after
    return records
