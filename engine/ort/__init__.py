"""graphmill behind the interface of onnxruntime.

    from graphmill import ort
    session = ort.InferenceSession("model.onnx")

or, for code that imports onnxruntime itself, `ort.install()` before it does. Every public name of onnxruntime is here; what cannot
be offered raises `NotImplemented`, which says what to do. docs/ort.md lists what differs.
"""

from __future__ import annotations

from typing import Any

from . import modules as _modules
from .binding import IOBinding
from .devices import OrtArenaCfg, OrtDevice, OrtEpDevice, OrtHardwareDevice, OrtMemoryInfo, get_ep_devices
from .enums import (
    ExecutionMode,
    ExecutionOrder,
    GraphOptimizationLevel,
    ModelPackageWriteMode,
    OrtAllocatorType,
    OrtCompileApiFlags,
    OrtDeviceMemoryType,
    OrtDeviceVendorId,
    OrtExecutionProviderDevicePolicy,
    OrtHardwareDeviceType,
    OrtMemoryInfoDeviceType,
    OrtMemType,
    OrtSparseFormat,
)
from .errors import EXCEPTIONS
from .model import ModelMetadata, NodeArg
from .options import RunOptions, SessionOptions
from .process import (
    VERSION,
    create_and_register_allocator,
    create_and_register_allocator_v2,
    disable_telemetry_events,
    enable_telemetry_events,
    get_all_providers,
    get_available_providers,
    get_build_info,
    get_default_session_options,
    get_device,
    get_version_string,
    has_collective_ops,
    preload_dlls,
    print_debug_info,
    register_execution_provider_library,
    set_default_logger_callback,
    set_default_logger_severity,
    set_default_logger_verbosity,
    set_global_thread_pool_sizes,
    set_seed,
    unregister_execution_provider_library,
)
from .refused import REFUSED
from .session import InferenceSession
from .values import OrtValue, OrtValueVector, copy_tensors

__version__ = version = VERSION
__author__ = "graphmill"
package_name, cuda_version, import_capi_exception = "onnxruntime", "", None
SessionIOBinding = IOBinding

_COLLECTION: dict[str, Any] = {c.__name__: c for c in (InferenceSession, IOBinding, OrtDevice, OrtDeviceVendorId, OrtValue)}
_COLLECTION |= {"Session": InferenceSession, "copy_tensors": copy_tensors}
_COLLECTION |= {n: REFUSED[n] for n in ("SparseTensor", "AdapterFormat", "ModelCompiler")}
_NAMES: dict[str, Any] = {
    **_COLLECTION,
    **REFUSED,
    **{x.__name__: x for x in (
        ExecutionMode, ExecutionOrder, GraphOptimizationLevel, ModelPackageWriteMode, OrtAllocatorType, OrtCompileApiFlags,
        OrtDeviceMemoryType, OrtExecutionProviderDevicePolicy, OrtHardwareDeviceType, OrtMemoryInfoDeviceType, OrtMemType,
        OrtSparseFormat, ModelMetadata, NodeArg, RunOptions, SessionOptions, OrtArenaCfg, OrtEpDevice, OrtHardwareDevice,
        OrtMemoryInfo, get_ep_devices, create_and_register_allocator, create_and_register_allocator_v2,
        disable_telemetry_events, enable_telemetry_events, get_all_providers, get_available_providers, get_build_info,
        get_device, get_version_string, has_collective_ops, register_execution_provider_library, set_default_logger_callback,
        set_default_logger_severity, set_default_logger_verbosity, set_global_thread_pool_sizes, set_seed,
        unregister_execution_provider_library,
    )},
    "SessionIOBinding": SessionIOBinding,
}  # fmt: skip
_FACE = {k: v for k, v in _NAMES.items() if k != "Session"} | {
    "preload_dlls": preload_dlls, "print_debug_info": print_debug_info, "__version__": VERSION, "version": VERSION,
    "__author__": __author__, "package_name": package_name, "cuda_version": cuda_version,
    "import_capi_exception": import_capi_exception,
}  # fmt: skip
_STATE = _NAMES | {e.__name__: e for e in EXCEPTIONS}
_STATE |= {"OrtValueVector": OrtValueVector, "get_default_session_options": get_default_session_options}

_made = _modules.make(_FACE, _STATE, _COLLECTION, VERSION)
capi = _made["onnxruntime.capi"]
onnxruntime_validation = _made["onnxruntime.capi.onnxruntime_validation"]
globals().update(REFUSED)


def install() -> None:
    """From here on `import onnxruntime`, in any code of this process, finds graphmill. Call it before that code is imported;
    modules that graphmill has not (`onnxruntime.quantization`, ...) cannot be imported then."""
    _modules.install(_made)


def uninstall() -> None:
    """Undoes `install`: `import onnxruntime` finds what it found before."""
    _modules.uninstall(_made)


__all__ = [*sorted(n for n in _FACE if not n.startswith("__")), "capi", "install", "onnxruntime_validation", "uninstall"]
