"""The passes. Importing this package registers them for pipeline texts."""

from . import canonicalize, cleanup, constants, fuse, layout, patterns, user

__all__ = ["canonicalize", "cleanup", "constants", "fuse", "layout", "patterns", "user"]
