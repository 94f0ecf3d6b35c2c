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
from .device import CPU, Device
from .foreign import as_numpy

Symbols = dict[str, int]


def read_inputs(module: Module, inputs: Mapping[str, Any], device: Device = CPU, ordered: bool = False) -> dict[str, Any]:
    """The inputs of the main graph as kernels can read them, by name; those that lie in the memory of the `device` stay there
    (`ordered`: what makes them comes before what is run there).

    Raises InputError for an input that is missing, unknown, in memory that cannot be read, or of another element type or rank.
    """
    declared = {v.name: v for v in module.main.inputs}
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"the inputs are a {type(inputs).__name__}, expected a mapping from names to values: {', '.join(declared)}"
        )
    unknown, missing = set(inputs) - set(declared), set(declared) - set(inputs)
    if unknown or missing:
        problem = f"no input is named {sorted(unknown, key=str)}" if unknown else f"the inputs {sorted(missing)} are missing"
        raise InputError(f"{problem}; the model takes {', '.join(f'{n}: {v.type}' for n, v in declared.items()) or 'no inputs'}")
    return {name: check_value(v, inputs[name], device, ordered) for name, v in declared.items()}


def bind_dims(module: Module, values: Mapping[str, Any]) -> tuple[dict[Value, Any], Symbols]:
    """What `read_inputs` gave by the main graph's values, and the symbols that the shapes determine.

    Raises InputError for dims that contradict the declared ones or each other.
    """
    env: dict[Value, Any] = {v: values[v.name] for v in module.main.inputs}
    symbols: Symbols = {}
    ranked = [v for v in env if isinstance(v.type, TensorType) and v.type.shape is not None]
    for v in ranked:
        bind_symbols(v.type, env[v], symbols)
    for v in ranked:
        check_dims(v, env[v].shape, symbols)
    return env, symbols


def check_value(v: Value, value: Any, device: Device = CPU, ordered: bool = False) -> Any:
    """`value` as the run-time form of the input `v`: a C-contiguous aligned array in the machine's byte order, or a list, dict or
    None. It is copied only where it lies otherwise."""
    if not isinstance(v.type, TensorType):
        if isinstance(v.type, SequenceType) and isinstance(value, (list, tuple)):
            return [np.asarray(x) if (a := as_numpy(x, f"input {v.name}")) is None else a for x in value]
        return value
    want = v.type.dtype
    if type(value) is not np.ndarray and (there := device.adopt(value, f"input {v.name}", ordered)) is not None:
        return _on_device(v, there)
    a = np.asarray(value, dtype=object) if want is STR else as_numpy(value, f"input {v.name}")
    if value is None:  # which numpy would make NaN
        raise InputError(f"input {v.name} is None, expected {v.type}")
    if a is None:
        try:
            a = np.asarray(value, dtype=want.np)
        except (TypeError, ValueError, OverflowError) as e:
            raise InputError(f"input {v.name} is a {type(value).__name__}, expected {v.type}: {e}") from e
    if a.dtype is not want.np:
        a = _of_type(a, want.np, v)
    if v.type.shape is not None and a.ndim != len(v.type.shape):
        raise InputError(f"input {v.name} has shape {list(a.shape)}, expected rank {len(v.type.shape)} ({v.type})")
    return np.require(a, requirements=["C", "A"])


def _on_device(v: Value, x: Any) -> Any:
    """An array in the device's memory, which must be of the input's type: there it is not converted."""
    assert isinstance(v.type, TensorType)
    if x.dtype != v.type.dtype.np:
        raise InputError(f"input {v.name} has element type {x.dtype}, expected {v.type.dtype.np} ({v.type})")
    if v.type.shape is not None and x.ndim != len(v.type.shape):
        raise InputError(f"input {v.name} has shape {list(x.shape)}, expected rank {len(v.type.shape)} ({v.type})")
    return x


def _of_type(a: np.ndarray, want: np.dtype, v: Value) -> np.ndarray:
    """The array with this very dtype, if it has it in another byte order or under another object."""
    if a.dtype == want:
        return a.view(want)
    if a.dtype.newbyteorder("=") == want:
        return a.astype(want)
    bits = f", or, if it holds the bits of such numbers, with .view({want})" if want.kind == "V" and a.dtype.kind in "iu" else ""
    raise InputError(f"input {v.name} has element type {a.dtype}, expected {want} ({v.type}); convert it with .astype{bits}")


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
