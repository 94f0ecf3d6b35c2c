"""The exceptions that onnxruntime has in `capi.onnxruntime_pybind11_state`, each also one of graphmill's own.

Messages start as onnxruntime's do (`[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : `), since callers match on that; what follows is
graphmill's own message.
"""

from __future__ import annotations

from typing import ClassVar

from ...ir import errors as ours


class OrtError(ours.GraphmillError):
    """What all of these share: the status code and its name, put before the message."""

    status: ClassVar[tuple[int, str]] = (1, "FAIL")

    def __init__(self, message: str = ""):
        code, name = self.status
        super().__init__(f"[ONNXRuntimeError] : {code} : {name} : {message}")


class Fail(OrtError, ours.RunError):
    """The model could not be compiled, or a node failed."""


class InvalidArgument(OrtError, ours.InputError):
    """An input or output that the model does not have, or an input of another element type or shape; a model without a graph."""

    status = (2, "INVALID_ARGUMENT")


class NoSuchFile(OrtError, FileNotFoundError):
    """There is no such model file."""

    status = (3, "NO_SUCHFILE")


class NoModel(OrtError):
    status = (4, "NO_MODEL")


class EngineError(OrtError):
    status = (5, "ENGINE_ERROR")


class RuntimeException(OrtError, ours.RunError):
    status = (6, "RUNTIME_EXCEPTION")


class InvalidProtobuf(OrtError, ours.HostileModelError):
    """The file is no ONNX protobuf."""

    status = (7, "INVALID_PROTOBUF")


class ModelLoaded(OrtError):
    status = (8, "MODEL_LOADED")


class NotOffered(OrtError, ours.UnsupportedError, RuntimeError):
    """`NotImplemented` by onnxruntime's name: graphmill does not offer this, and the message says what to do. A RuntimeError
    too, which is what onnxruntime raises where its package lacks a device or a feature."""

    status = (9, "NOT_IMPLEMENTED")


NotOffered.__name__ = NotOffered.__qualname__ = (
    "NotImplemented"  # a name of Python's own, which is not to be hidden in this package
)


class InvalidGraph(OrtError, ours.ImportProblem):
    """The model holds operators that there are not."""

    status = (10, "INVALID_GRAPH")

    def __init__(self, message: str = "", problems: tuple = ()):
        super().__init__(message)
        self.problems = problems


class EPFail(OrtError):
    status = (11, "EP_FAIL")


class ModelLoadCanceled(OrtError):
    status = (12, "MODEL_LOAD_CANCELED")


class ModelRequiresCompilation(OrtError):
    status = (13, "MODEL_REQUIRES_COMPILATION")


class NotFound(OrtError):
    status = (14, "NOT_FOUND")


class DeviceReset(OrtError):
    status = (15, "DEVICE_RESET")


EXCEPTIONS = (Fail, InvalidArgument, NoSuchFile, NoModel, EngineError, RuntimeException, InvalidProtobuf, ModelLoaded, NotOffered,
              InvalidGraph, EPFail, ModelLoadCanceled, ModelRequiresCompilation, NotFound, DeviceReset)  # fmt: skip


def loading(error: Exception) -> OrtError:
    """What onnxruntime would raise where reading or compiling a model raised `error`."""
    if isinstance(error, OrtError):
        return error
    if isinstance(error, FileNotFoundError):
        return NoSuchFile(f"Load model failed. File doesn't exist: {error.filename}")
    if isinstance(error, ours.HostileModelError):
        no_graph = "it holds no graph" in str(error)
        return InvalidArgument(f"No graph was found in the protobuf. {error}") if no_graph else InvalidProtobuf(str(error))
    if isinstance(error, ours.ImportProblem):
        if any(p.message.startswith("there is no such operator") and p.domain in ("", "ai.onnx") for p in error.problems):
            return InvalidGraph(f"This is an invalid model. {error}", error.problems)
        if any(p.message.startswith("its input ") and p.message.endswith("is not defined") for p in error.problems):
            return InvalidArgument(f"Invalid model. {error}")
    if isinstance(error, ours.UnsupportedError):
        return NotOffered(str(error))
    return Fail(str(error))


def running(error: ours.GraphmillError) -> OrtError:
    """What onnxruntime would raise where a run raised `error`."""
    if isinstance(error, OrtError):
        return error
    if isinstance(error, ours.InputError):
        return InvalidArgument(str(error))
    if isinstance(error, ours.UnsupportedError):
        return NotOffered(str(error))
    return Fail(str(error))
