"""SessionOptions and RunOptions."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.limits import Limits
from .devices import CPU_PROVIDER, OrtEpDevice
from .enums import ExecutionMode, ExecutionOrder, GraphOptimizationLevel, OrtExecutionProviderDevicePolicy
from .errors import NotOffered
from .values import OrtValue

LIMIT = "graphmill.limits."  # config entries of this prefix set fields of `Limits`; "none" lifts one


class Setting:
    """A field of options that takes values of one kind only, as onnxruntime's do. Raises TypeError for others."""

    def __init__(self, default: Any):
        self.default, self.kind = default, type(default)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, options: Any, owner: type | None = None) -> Any:
        return self if options is None else options._settings.get(self.name, self.default)

    def __set__(self, options: Any, value: Any) -> None:
        if self.kind is int:
            try:
                value = operator.index(value)
            except TypeError:
                raise TypeError(f"{self.name} = {value!r}; expected an int") from None
        if not isinstance(value, self.kind):
            raise TypeError(f"{self.name} = {value!r}; expected a value of {self.kind.__name__}")
        options._settings[self.name] = value


class _Entries:
    """Config entries: text by text."""

    __slots__ = ("_entries", "_settings")

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}
        self._entries: dict[str, str] = {}

    def _add_entry(self, key: str, value: str) -> None:
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"the config entry {key!r}: {value!r}; expected two texts (str)")
        self._entries[key] = value

    def _entry(self, key: str) -> str:
        if key not in self._entries:
            raise RuntimeError(f"{type(self).__name__} does not have configuration with key: {key}")
        return self._entries[key]


class RunOptions(_Entries):
    """Options of one run. `terminate`, set from any thread, ends the runs that were given these options within about 20 ms of
    native work, with `Fail`; the others are kept and change nothing."""

    __slots__ = ()
    log_severity_level = Setting(-1)
    log_verbosity_level = Setting(0)
    logid = Setting("")
    only_execute_path_to_fetches = Setting(False)
    terminate = Setting(False)

    def add_run_config_entry(self, key: str, value: str) -> None:
        self._add_entry(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """The entry; raises RuntimeError where there is none."""
        return self._entry(key)

    def add_active_adapter(self, adapter: Any) -> None:
        raise NotOffered("LoRA adapters are not offered; merge the adapter into the model's weights before it is exported")


class SessionOptions(_Entries):
    """Options of a session. What acts: intra_op_num_threads, enable_profiling, profile_file_prefix, optimized_model_filepath,
    overrides of free dimensions, initializers, and config entries `graphmill.limits.<field of Limits>`; the others are kept and
    change nothing."""

    __slots__ = ("_denotations", "_dims", "_initializers", "_providers")
    enable_cpu_mem_arena = Setting(True)
    enable_mem_pattern = Setting(True)
    enable_mem_reuse = Setting(True)
    enable_profiling = Setting(False)
    execution_mode = Setting(ExecutionMode.ORT_SEQUENTIAL)
    execution_order = Setting(ExecutionOrder.DEFAULT)
    graph_optimization_level = Setting(GraphOptimizationLevel.ORT_ENABLE_ALL)
    inter_op_num_threads = Setting(0)
    intra_op_num_threads = Setting(0)
    log_severity_level = Setting(-1)
    log_verbosity_level = Setting(0)
    logid = Setting("")
    optimized_model_filepath = Setting("")
    profile_file_prefix = Setting("onnxruntime_profile_")
    use_deterministic_compute = Setting(False)
    use_per_session_threads = Setting(True)

    def __init__(self) -> None:
        super().__init__()
        self._dims: dict[str, int] = {}
        self._denotations: dict[str, int] = {}
        self._initializers: dict[str, OrtValue] = {}
        self._providers: dict[str, dict[str, str]] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Keeps an entry. Those that start with `graphmill.limits.` set limits; raises ValueError where such a one is wrong."""
        self._add_entry(key, value)
        self.limits()

    def get_session_config_entry(self, key: str) -> str:
        """The entry; raises RuntimeError where there is none."""
        return self._entry(key)

    def limits(self) -> Limits:
        """The limits that config entries ask for."""
        known = {"tensor_bytes": int, "total_bytes": int, "growth": int, "loop_iterations": int, "seconds": float,
                 "seconds_per_mb": float,                 "fold_bytes": int, "nodes": int, "depth": int}  # fmt: skip
        given: dict[str, Any] = {}
        for key, value in self._entries.items():
            name = key.removeprefix(LIMIT)
            if name == key:
                continue
            if name not in known:
                raise ValueError(f"there is no limit {name!r}; expected one of {', '.join(known)}")
            given[name] = None if value == "none" else known[name](value)
        return Limits(**given)

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Fixes the symbolic dim of this name; one that the model has not is ignored."""
        self._dims[name] = operator.index(size)

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int) -> None:
        """Fixes the dims of this denotation."""
        self._denotations[denotation] = operator.index(size)

    def add_initializer(self, name: str, value: OrtValue) -> None:
        """Puts `value` in the place of the initializer of that name."""
        self._initializers[name] = value

    def add_external_initializers(self, names: Sequence[str], values: Sequence[OrtValue]) -> None:
        """Puts each value in the place of the initializer of its name."""
        if len(names) != len(values):
            raise ValueError(f"{len(names)} names for {len(values)} values")
        self._initializers.update(zip(names, values))

    def add_external_initializers_from_files_in_memory(self, names: Any, buffers: Any, lengths: Any) -> None:
        raise NotOffered(
            "files of external data are not taken from memory; write them beside the model, or use add_external_initializers"
        )

    def add_provider(self, name: str, options: Mapping[str, str]) -> None:
        """Only the CPU's is there; raises NotImplemented for another."""
        if name != CPU_PROVIDER:
            raise NotOffered(f"there is no execution provider {name!r}; use {CPU_PROVIDER}")
        self._providers[name] = dict(options)

    def add_provider_for_devices(self, devices: Sequence[OrtEpDevice], options: Mapping[str, str]) -> None:
        for d in devices:
            self.add_provider(d.ep_name, options)

    def has_providers(self) -> bool:
        return bool(self._providers)

    def set_provider_selection_policy(self, policy: OrtExecutionProviderDevicePolicy) -> None:
        """Accepted: there is one device to choose from."""

    def set_provider_selection_policy_delegate(self, delegate: Any) -> None:
        raise NotOffered("there is one device, the CPU; leave the policy's delegate out")

    def set_load_cancellation_flag(self, flag: bool) -> None:
        if flag:
            raise NotOffered("loading cannot be cancelled from another thread; interrupt the loading thread instead")

    def set_ep_context_data_read_func(self, function: Any) -> None:
        raise NotOffered("models with EPContext nodes are made for one accelerator; load the model that they were made from")

    def clear_ep_context_data_read_func(self) -> None:
        """There is none to clear."""

    def register_custom_ops_library(self, path: str | os.PathLike) -> None:
        raise NotOffered(
            f"{os.fspath(path)!r} is machine code against onnxruntime's interface, which graphmill cannot call; write them "
            "as Python functions with graphmill.op (or graphmill.converter) before the session is made"
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The initializers that were given, as arrays."""
        return {name: v.numpy() for name, v in self._initializers.items()}
