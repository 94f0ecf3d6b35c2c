"""From what a caller hands in to arrays that kernels can read: checks of names, element types and shapes, symbols bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ir.core import Module, Value
from ..ir.errors import InputError
from ..ir.interp import bind_symbols
from ..ir.symbols import Unbound, as_symbol, evaluate
from ..ir.types import STR, SequenceType, TensorType

Symbols = dict[str, int]


def bind_inputs(module: Module, inputs: Mapping[str, Any]) -> tuple[dict[Value, Any], Symbols]:
    """The values of the main graph's inputs, and the symbols that their shapes determine.

    Raises InputError for an input that is missing, unknown, of another element type or rank, or whose dims contradict the
    declared ones or each other.
    """
    declared = {v.name: v for v in module.main.inputs}
    unknown, missing = set(inputs) - set(declared), set(declared) - set(inputs)
    if unknown or missing:
        problem = f"no input is named {sorted(unknown)}" if unknown else f"the inputs {sorted(missing)} are missing"
        raise InputError(f"{problem}; the model takes {', '.join(f'{n}: {v.type}' for n, v in declared.items()) or 'no inputs'}")
    env: dict[Value, Any] = {}
    symbols: Symbols = {}
    for name, v in declared.items():
        env[v] = check_value(v, inputs[name])
    for v in declared.values():
        if isinstance(v.type, TensorType) and v.type.shape is not None:
            bind_symbols(v.type, env[v], symbols)
    for v in declared.values():
        if isinstance(v.type, TensorType) and v.type.shape is not None:
            check_dims(v, env[v].shape, symbols)
    return env, symbols


def check_value(v: Value, value: Any) -> Any:
    """`value` as the run-time form of the input `v`: a C-contiguous aligned array, or a list, dict or None."""
    if not isinstance(v.type, TensorType):
        if isinstance(v.type, SequenceType) and isinstance(value, (list, tuple)):
            return [np.asarray(x) for x in value]
        return value
    want = v.type.dtype
    if want is STR:
        a = np.asarray(value, dtype=object)
    else:
        a = np.asarray(value) if isinstance(value, np.ndarray) or hasattr(value, "__array__") else np.asarray(value, dtype=want.np)
        if a.dtype != want.np:
            raise InputError(f"input {v.name} has element type {a.dtype}, expected {want.np} ({v.type}); convert it with .astype")
    if v.type.shape is not None and a.ndim != len(v.type.shape):
        raise InputError(f"input {v.name} has shape {list(a.shape)}, expected rank {len(v.type.shape)} ({v.type})")
    return np.require(a, requirements=["C", "A"])


def check_dims(v: Value, shape: tuple[int, ...], symbols: Symbols) -> None:
    assert isinstance(v.type, TensorType) and v.type.shape is not None
    for axis, (d, n) in enumerate(zip(v.type.shape, shape)):
        try:
            want = evaluate(d, symbols)
        except Unbound:
            continue
        s = as_symbol(d)
        if want != n:
            known = f" (${s.name} is {want} in another input)" if s is not None else ""
            raise InputError(f"input {v.name} has {n} at axis {axis}, expected {want}{known}: {v.type}")
        if s is not None and not s.lo <= n <= s.hi:
            raise InputError(f"input {v.name} has {n} at axis {axis}, expected {s} in [{s.lo}, {s.hi}]")
