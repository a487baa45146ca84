"""The operators. Importing this package fills the registry; it does not import NumPy."""

from knetc.ops import activation, broadcast, conv, effects, linear, loss, pool, sources
from knetc.ops.base import OpDef, registry

__all__ = ["OpDef", "registry"]

# The modules register their operators when they are imported; naming them here says that the imports are meant.
MODULES = (sources, linear, broadcast, activation, conv, pool, loss, effects)
