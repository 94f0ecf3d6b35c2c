"""Public names of onnxruntime that graphmill does not offer: each exists, and says what to do once it is used."""

from __future__ import annotations

from typing import Any, NoReturn

from .errors import NotOffered

REASONS = {
    "SparseTensor": "sparse tensors are not offered as inputs; make them dense (sparse initializers of a model are read)",
    "AdapterFormat": "LoRA adapters are not offered; merge the adapter into the model's weights before it is exported",
    "LoraAdapter": "LoRA adapters are not offered; merge the adapter into the model's weights before it is exported",
    "ModelCompiler": "there is no accelerator to compile for; use graphmill.compile, or SessionOptions.optimized_model_filepath",
    "OrtEpContextData": "models with EPContext nodes are made for one accelerator; load the model that they were made from",
    "OrtEpContextDataBuffer": "models with EPContext nodes are made for one accelerator; load the model that they were made from",
    "OrtEpAssignedNode": "use graphmill.compile(model).report.served, which tells how each node runs",
    "OrtEpAssignedSubgraph": "use graphmill.compile(model).report.served, which tells how each node runs",
    "ModelPackage": "packages of models are not offered; load the ONNX file inside",
    "ModelPackageContext": "packages of models are not offered; load the ONNX file inside",
    "ModelPackageComponentContext": "packages of models are not offered; load the ONNX file inside",
    "ModelPackageOptions": "packages of models are not offered; load the ONNX file inside",
    "OrtExternalInitializerInfo": "where one initializer goes cannot be chosen; use graphmill.write_onnx(..., external_data=True)",
    "OrtSyncStream": "the CPU has no streams; leave the stream out",
}


class _Refused(type):
    """Makes every public method of a class raise."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def refuse(*args: Any, **kwargs: Any) -> NoReturn:
            raise NotOffered(f"{cls.__name__}.{name}: {REASONS[cls.__name__]}")

        return refuse


def _init(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    raise NotOffered(f"{type(self).__name__}: {REASONS[type(self).__name__]}")


REFUSED: dict[str, type] = {name: _Refused(name, (), {"__init__": _init, "__doc__": why}) for name, why in REASONS.items()}
