"""What onnxruntime's module-level functions say and set for the whole process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .devices import CPU_PROVIDER, OrtMemoryInfo
from .errors import NotOffered
from .options import SessionOptions

VERSION = "1.32.0"  # the onnxruntime whose interface this is
_ALL = ("Tensorrt", "CUDA", "MIGraphX", "OpenVINO", "Dnnl", "VitisAI", "QNN", "Nnapi", "VSINPU", "Js", "CoreML", "Dml", "Rknpu",
        "WebNN", "WebGpu", "Xnnpack", "CANN", "Azure", "CPU")  # fmt: skip
_shared_threads: int | None = None


def get_all_providers() -> list[str]:
    """The providers that onnxruntime knows by name, whether or not they are here."""
    return [f"{name}ExecutionProvider" for name in _ALL]


def get_available_providers() -> list[str]:
    return [CPU_PROVIDER]


def get_device() -> str:
    return "CPU"


def get_version_string() -> str:
    """The version of onnxruntime whose interface is offered."""
    return VERSION


def get_build_info() -> str:
    face = sys.modules[__name__.partition(".")[0]]  # loaded already; this layer does not import it
    return f"graphmill {face.__version__}, with the interface of onnxruntime {VERSION}"


def has_collective_ops() -> bool:
    return False


def set_global_thread_pool_sizes(intra_op_num_threads: int, inter_op_num_threads: int = 0) -> None:
    """The threads of sessions made from now on with `use_per_session_threads` off and no number of their own."""
    global _shared_threads
    _shared_threads = intra_op_num_threads if intra_op_num_threads > 0 else None


def default_threads(options: SessionOptions) -> int | None:
    """The threads of a session whose options give no number; None: as many as the machine grants."""
    return None if options.use_per_session_threads else _shared_threads


def set_default_logger_severity(severity: int) -> None:
    """Checked, and of no effect: graphmill logs nothing. Raises RuntimeError for what is no severity."""
    if not 0 <= severity <= 4:
        raise RuntimeError(f"Invalid logging severity {severity}. 0:Verbose, 1:Info, 2:Warning, 3:Error, 4:Fatal")


def set_default_logger_verbosity(verbosity: int) -> None:
    """Of no effect: graphmill logs nothing."""


def set_default_logger_callback(callback: Callable[..., None] | None) -> None:
    """Never called: graphmill logs nothing."""


def enable_telemetry_events() -> None:
    """There are none."""


def disable_telemetry_events() -> None:
    """There are none."""


def set_seed(seed: int) -> None:
    raise NotOffered("random operators take their seed from the model; give each of its nodes the attribute `seed`")


def create_and_register_allocator(memory_info: OrtMemoryInfo, arena_cfg: Any = None) -> None:
    """Of no effect: graphmill plans its memory when it binds shapes."""


def create_and_register_allocator_v2(provider_type: str, memory_info: OrtMemoryInfo, options: Any, arena_cfg: Any = None) -> None:
    """Of no effect: graphmill plans its memory when it binds shapes."""


def register_execution_provider_library(registration_name: str, path: Any) -> None:
    raise NotOffered("plugins of onnxruntime cannot be loaded; use CPUExecutionProvider")


def unregister_execution_provider_library(registration_name: str) -> None:
    raise NotOffered("no plugin of onnxruntime is ever loaded here; leave the call out")


def preload_dlls(cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: str | None = None) -> None:
    """There is nothing to load."""


def print_debug_info() -> None:
    """Prints what this is."""
    print(get_build_info())


def get_default_session_options() -> SessionOptions:
    return SessionOptions()
