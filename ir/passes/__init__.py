"""The passes. Importing this package registers them for pipeline texts."""

from . import (
    branches,
    canonicalize,
    cleanup,
    constants,
    decompose,
    decompose_ml,
    fuse,
    layout,
    patterns,
    precision,
    projections,
    quantized,
    signature,
    transposes,
    user,
)

__all__ = [
    "branches",
    "canonicalize",
    "cleanup",
    "constants",
    "decompose",
    "decompose_ml",
    "fuse",
    "layout",
    "patterns",
    "precision",
    "projections",
    "quantized",
    "signature",
    "transposes",
    "user",
]
