"""The operators. Importing this package fills the registry; it does not import NumPy."""

from importlib import import_module

from knetc.ops.base import OpDef, registry

__all__ = ["OpDef", "registry"]

# The modules that register operators, in the order in which the registry lists them.
MODULES = ("sources", "linear", "broadcast", "activation", "conv", "pool", "blocks", "loss", "effects")

for _module in MODULES:
    import_module(f"{__name__}.{_module}")
