"""The modules of onnxruntime, as objects; `install` makes them what `import onnxruntime` finds."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from typing import Any

STATE = "onnxruntime.capi.onnxruntime_pybind11_state"


class _Loader:
    """Says where the modules come from; they are made already."""

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is left to do."""


def make(
    face: Mapping[str, Any], state: Mapping[str, Any], collection: Mapping[str, Any], version: str
) -> dict[str, types.ModuleType]:
    """The modules by name: the package with the names `face`, and those of `capi` that callers reach into."""
    validation = {"get_package_name_and_version_info": lambda: ("onnxruntime", version, ""), "check_distro_info": lambda: None}
    contents: dict[str, Mapping[str, Any]] = {
        "onnxruntime": face,
        "onnxruntime.capi": {},
        STATE: state,
        "onnxruntime.capi._pybind_state": state,
        "onnxruntime.capi.onnxruntime_inference_collection": collection,
        "onnxruntime.capi.onnxruntime_validation": validation,
    }
    modules = {name: _module(name, names) for name, names in contents.items()}
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    modules["onnxruntime"].__dict__["onnxruntime_validation"] = modules["onnxruntime.capi.onnxruntime_validation"]
    return modules


def _module(name: str, contents: Mapping[str, Any]) -> types.ModuleType:
    module = types.ModuleType(name, "graphmill in the place of onnxruntime (see graphmill.ort.install).")
    is_package = name in ("onnxruntime", "onnxruntime.capi")
    module.__spec__ = ModuleSpec(name, _Loader(), origin="graphmill", is_package=is_package)  # type: ignore[arg-type]
    module.__loader__ = module.__spec__.loader
    module.__package__ = name if is_package else name.rpartition(".")[0]
    if is_package:
        module.__path__ = []
    module.__dict__.update(contents)
    return module


_displaced: dict[str, types.ModuleType] | None = None


def install(modules: Mapping[str, types.ModuleType]) -> None:
    """Puts the modules in the place of onnxruntime's; twice is once."""
    global _displaced
    if _displaced is not None:
        return
    _displaced = {n: m for n, m in sys.modules.items() if n == "onnxruntime" or n.startswith("onnxruntime.")}
    if _displaced:
        warnings.warn(
            "onnxruntime is imported already: what took names from it keeps them; call graphmill's ort.install() first",
            stacklevel=3,
        )
    for name in _displaced:
        del sys.modules[name]
    sys.modules.update(modules)


def uninstall(modules: Mapping[str, types.ModuleType]) -> None:
    """Puts back what was there before `install`."""
    global _displaced
    if _displaced is None:
        return
    for name in modules:
        sys.modules.pop(name, None)
    sys.modules.update(_displaced)
    _displaced = None
