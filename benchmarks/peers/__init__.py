"""The peers by name, each a module of this package with the functions that `base.Peer` lists."""

from __future__ import annotations

import importlib
from typing import cast

from peers.base import Peer

PEERS = ("torch", "jax", "numpy")  # beside these knetc itself, as knetc-BACKEND
KNETC = "knetc-"


def load(name: str) -> Peer:
    """The peer `torch`, `jax`, `numpy` or `knetc-BACKEND`. Importing it does not import its package yet."""
    if name.startswith(KNETC):
        from peers.knetc import Knetc

        return Knetc(name.removeprefix(KNETC))
    return cast(Peer, importlib.import_module(f"peers.{name}"))
