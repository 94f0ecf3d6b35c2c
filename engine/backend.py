"""graphmill as an `onnx.backend`: `prepare`, `run_model`, `run_node`, `supports_device`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from ..ir.errors import InputError
from ..ir.limits import Limits
from .compiler import compile
from .executor import Executable

DEVICES = {"CPU": "cpu", "CUDA": "cuda"}
# Who calls this interface made the models: some of ONNX's suite make 500 MB of weights out of nothing.
LIMITS = Limits(total_bytes=4 << 30)


class GraphmillRep(BackendRep):
    """A prepared model."""

    def __init__(self, executable: Executable):
        self.executable = executable

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Runs on inputs given by position (a sequence, or one array) or by name (a mapping); the outputs in order."""
        names = list(self.executable.inputs)
        if not isinstance(inputs, Mapping):
            inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if len(inputs) > len(names):
                raise InputError(f"the model takes {len(names)} inputs ({', '.join(names)}), {len(inputs)} were given")
            inputs = dict(zip(names, inputs))
        out = self.executable.run(inputs)
        return namedtupledict("Outputs", list(out))(*out.values())


class GraphmillBackend(Backend):
    """The interface of onnx.backend.base.Backend."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the device is one of ours; what is wrong with a model `prepare` says."""
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> GraphmillRep:
        """Compiles a model for CPU, CUDA or CUDA:shim. Keyword arguments are those of `graphmill.compile`."""
        if not cls.supports_device(device):
            raise ValueError(f"there is no device {device!r}; expected one of {', '.join(DEVICES)}")
        kind, _, which = device.partition(":")
        more = {"device": which} if kind == "CUDA" and which in ("shim", "null") else {}
        return GraphmillRep(compile(model, DEVICES[kind], **{"limits": LIMITS} | more | kwargs))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compiles and runs once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Sequence[Any] | None = None,
                 **kwargs: Any) -> tuple[Any, ...]:  # fmt: skip
        """Runs one node, whose inputs are typed by the arrays given. `opset_version` chooses the opset of its domain."""
        import numpy as np
        from onnx import helper

        arrays = [np.asarray(x) for x in inputs]
        present = [n for n in node.input if n]
        infos = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in zip(present, arrays)
        ]
        results = [helper.make_empty_tensor_value_info(n) for n in node.output if n]
        graph = helper.make_graph([node], "node", infos, results)
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version() if node.domain in ("", "ai.onnx") else 1)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, version)])
        return cls.run_model(model, arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPU, CUDA, and CUDA:shim (see `Options.device`)."""
        return device.split(":")[0] in DEVICES


prepare, run_model, run_node = GraphmillBackend.prepare, GraphmillBackend.run_model, GraphmillBackend.run_node
supports_device, is_compatible = GraphmillBackend.supports_device, GraphmillBackend.is_compatible
