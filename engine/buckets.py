"""Buckets for symbolic sizes: what is padded to what, and why that is right. `bucketed.py` runs so."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.core import Module
from ..ir.errors import InputError, UnsupportedError
from ..ir.infer import input_symbols
from ..ir.interp import output_names
from ..ir.limits import DEFAULT_LIMITS, Limits
from ..ir.padding import Verdict, analyse, speaks
from ..ir.rewrite import Decision
from ..ir.symbols import DimLike, symbols_of
from ..ir.types import STR, TensorType

Pad = int | float | bool


@dataclass(frozen=True)
class Buckets:
    """Sizes that symbols are padded to, ascending, by name. `proven` are those whose rows are independent of what is padded behind
    them (copies of the last row); along the others inputs are padded by the caller's values, and outputs are checked."""

    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pad: Mapping[str, Pad] = field(default_factory=dict)  # by input
    proven: frozenset[str] = frozenset()

    def padded(self, symbol: str, n: int) -> int:
        """What a size is padded to: the next bucket; itself where it is 0 or beyond the largest."""
        sizes = self.sizes.get(symbol, ())
        return sizes[bisect_left(sizes, n)] if sizes and 0 < n <= sizes[-1] else n

    def concerns(self, d: DimLike) -> list[str]:
        """The symbols of a size that have buckets."""
        return [s.name for s in symbols_of(d) if s.name in self.sizes]

    def checked(self, d: DimLike) -> bool:
        """Whether a size has a symbol along which padding is not proven to be harmless."""
        return any(name not in self.proven for name in self.concerns(d))

    def lines(self) -> list[str]:
        """What a person is told."""
        shown = {name: f"${name} to {', '.join(map(str, sizes))}" for name, sizes in self.sizes.items()}
        return [f"padded: {text}, " + ("rows are independent" if name in self.proven else "outputs are checked")
                for name, text in shown.items()]  # fmt: skip

    def out(self) -> dict[str, Any]:
        """As strict JSON holds it: values that are no numbers there are text."""
        pad = {name: x if math.isfinite(x) else str(float(x)) for name, x in self.pad.items()}
        return {"sizes": {n: list(s) for n, s in self.sizes.items()}, "pad": pad, "proven": sorted(self.proven)}

    @staticmethod
    def of(said: Mapping[str, Any]) -> Buckets:
        """What `out` gave. Raises InputError, KeyError, TypeError or ValueError for anything else."""
        pad = {str(name): float(x) if isinstance(x, str) else x for name, x in said["pad"].items()}
        if not all(isinstance(x, (int, float)) for x in pad.values()):
            raise TypeError("pad holds something else than numbers")
        sizes = {str(name): _ascending(name, sizes) for name, sizes in said["sizes"].items()}
        return Buckets(sizes, pad, frozenset(map(str, said["proven"])) & sizes.keys())


def decide(module: Module, sizes: Mapping[str, Sequence[int]], pad: Mapping[str, Pad],
           limits: Limits = DEFAULT_LIMITS) -> tuple[Buckets | None, list[Decision]]:  # fmt: skip
    """The buckets that a model is run with, None where none are asked for, and the decision on each symbol.

    Raises InputError for symbols, sizes, inputs and values that do not fit the model, UnsupportedError, which names the node, for a
    symbol whose rows are not known to be independent while `pad` says nothing of some input that has it.
    """
    if not sizes:
        if pad:
            raise InputError(f"pad is given for {', '.join(pad)}, and there are no buckets; give those as well")
        return None, []
    asked = Buckets({name.removeprefix("$"): _ascending(name, s) for name, s in sizes.items()}, dict(pad))
    fits(module, asked)
    asked = Buckets(asked.sizes, {name: np.asarray(x).item() for name, x in asked.pad.items()})
    verdicts = [analyse(module, name, s[-1], limits) for name, s in asked.sizes.items()]
    for v in verdicts:
        _has_values(module, asked, v)
    buckets = Buckets(asked.sizes, asked.pad, frozenset(v.symbol for v in verdicts if v.proven))
    return buckets, [_decision(module, buckets, v) for v in verdicts]


def _ascending(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Sequence) or not sizes:
        raise InputError(f"buckets of {name} are {sizes!r}, expected a list of sizes")
    if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise InputError(f"buckets of {name} are {list(sizes)}, expected numbers above 0")
    return tuple(sorted({int(n) for n in sizes}))


def fits(module: Module, buckets: Buckets) -> None:
    """Raises InputError for buckets of a symbol that no input has or beyond its range, and for values that an input cannot hold."""
    known, inputs = input_symbols(module), {v.name: v for v in module.main.inputs}
    for name, sizes in buckets.sizes.items():
        if name not in known:
            listed = ", ".join(f"${s}" for s in sorted(known)) or "none, since all sizes are fixed"
            raise InputError(f"buckets: no input has an axis of size ${name}; expected one of {listed}")
        s = module.symbols[name]
        if not s.lo <= sizes[0] <= sizes[-1] <= s.hi:
            raise InputError(f"buckets of ${name} are {list(sizes)}, expected sizes in [{s.lo}, {s.hi}]")
    for name, value in buckets.pad.items():
        if name not in inputs:
            raise InputError(f"pad: no input is named {name}; the model takes {', '.join(inputs)}")
        t = inputs[name].type
        if not isinstance(t, TensorType) or not any(buckets.concerns(d) for d in t.shape or ()):
            raise InputError(f"pad: the input {name} is {t}, which has no symbol with buckets")
        if t.dtype is STR or not isinstance(value, (int, float, np.number, np.bool_)) or not _holds(t, value):
            raise InputError(f"pad: {value!r} is no value of the input {name} ({t})")


def _holds(t: TensorType, value: Any) -> bool:
    """Whether an element type can hold a value: integers exactly, floats in their range."""
    try:
        with np.errstate(all="ignore"):
            there = np.asarray(value, np.float64 if t.dtype.is_float else None).astype(t.dtype.np)
        return bool(np.isfinite(there.astype(np.float64))) or not np.isfinite(value) if t.dtype.is_float else bool(there == value)
    except (TypeError, ValueError, OverflowError):
        return False


def _has_values(module: Module, buckets: Buckets, v: Verdict) -> None:
    """Raises UnsupportedError where rows are not proven to be independent and an input has no value to be padded by."""
    missing = [x.name for x in module.main.inputs if speaks(x.type, v.symbol) and x.name not in buckets.pad]
    if not v.proven and missing:
        raise UnsupportedError(
            f"buckets: padding ${v.symbol} may change what is computed: {v.why}. Where the model masks what is padded, give `pad` "
            f"a value for {', '.join(missing)}; outputs are compared then. Else leave ${v.symbol} out of the buckets"
        )


def trimmed(module: Module, buckets: Buckets) -> dict[str, list[tuple[int, DimLike]]]:
    """The axes of each output that are longer in a padded run, with their sizes; the true elements stand first.

    Raises UnsupportedError for outputs of which a symbol that is not proven makes that uncertain.
    """
    unproven = [name for name in buckets.sizes if name not in buckets.proven]
    known, out = input_symbols(module), {}
    for name, v in zip(output_names(module), module.main.outputs):
        t = v.type
        if not isinstance(t, TensorType) or t.shape is None:
            if unproven:
                raise UnsupportedError(f"buckets: the output {name} is {t}, and ${unproven[0]} is not known to leave it alone")
            continue
        out[name] = [(axis, d) for axis, d in enumerate(t.shape) if buckets.concerns(d)]
        for axis, d in enumerate(t.shape):
            names = {s.name for s in symbols_of(d)}
            unknown = names - known and (unproven or buckets.concerns(d))
            if unknown or (buckets.checked(d) and len(names) > 1):
                padded = [*unproven, *buckets.concerns(d)][0]
                raise UnsupportedError(
                    f"buckets: the output {name} has {d} along axis {axis}: when ${padded} is padded, the true elements need not "
                    f"stand first there. Leave ${padded} out of the buckets"
                )
    return out


def _decision(module: Module, buckets: Buckets, v: Verdict) -> Decision:
    first = next(x.name for x in module.main.inputs if speaks(x.type, v.symbol))
    how = "rows are independent, padded by copies of the last" if v.proven else f"padded by values, outputs are checked: {v.why}"
    sizes = ", ".join(map(str, buckets.sizes[v.symbol]))
    return Decision(f"buckets of ${v.symbol}", first, "applied", f"to {sizes}: {how}", v.node)
