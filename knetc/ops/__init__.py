"""The operators. Importing this package fills the registry."""

from knetc.ops.base import OpDef, registry

__all__ = ["OpDef", "registry"]
