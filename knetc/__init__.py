"""knetc: a compiler from the Knet neural-network language to CUDA.

The names of the Python interface are here; each is imported when it is first asked for, so that the command, which
needs no NumPy, starts at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from knetc import data
    from knetc.errors import (
        KnetEnvironmentError,
        KnetError,
        KnetInternalError,
        KnetLimitation,
        KnetMemoryError,
        KnetNameError,
        KnetShapeError,
        KnetStateError,
        KnetSyntaxError,
        KnetTypeError,
    )
    from knetc.runtime.api import (
        back,
        backseq,
        clean,
        forw,
        forwseq,
        get,
        gnorm,
        grad,
        gradcheck,
        params,
        report,
        reset,
        sback,
        set,
        setp,
        setseed,
        sforw,
        state,
        summary,
        test,
        train,
        update,
        wnorm,
    )
    from knetc.runtime.batches import minibatch, seqbatch
    from knetc.runtime.distribute import distribute
    from knetc.runtime.exchange import export_parameters, import_parameters
    from knetc.runtime.losses import quadloss, softloss, zeroone
    from knetc.runtime.model import Model
    from knetc.runtime.onehot import onehot
    from knetc.runtime.saving import load, save
    from knetc.runtime.source import compile
    from knetc.runtime.train import stoppable
    from knetc.values import (
        CUDNN_CONVOLUTION,
        CUDNN_CROSS_CORRELATION,
        CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING,
        CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING,
        CUDNN_POOLING_MAX,
        Bernoulli,
        Constant,
        Gaussian,
        Glorot,
        GlorotNormal,
        GlorotUniform,
        Identity,
        Uniform,
        Xavier,
    )

_ERRORS = (
    "KnetEnvironmentError KnetError KnetInternalError KnetLimitation KnetMemoryError KnetNameError KnetShapeError "
    "KnetStateError KnetSyntaxError KnetTypeError"
)
_FUNCTIONS = (
    "back backseq clean forw forwseq get gnorm grad gradcheck params report reset sback set setp setseed sforw state "
    "summary test train update wnorm"
)
_VALUES = (
    "Bernoulli CUDNN_CONVOLUTION CUDNN_CROSS_CORRELATION CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING "
    "CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING CUDNN_POOLING_MAX Constant Gaussian Glorot GlorotNormal GlorotUniform "
    "Identity Uniform Xavier"
)
_MODULES = {
    "knetc.errors": _ERRORS,
    "knetc.runtime.api": _FUNCTIONS,
    "knetc.runtime.batches": "minibatch seqbatch",
    "knetc.runtime.distribute": "distribute",
    "knetc.runtime.exchange": "export_parameters import_parameters",
    "knetc.runtime.losses": "quadloss softloss zeroone",
    "knetc.runtime.model": "Model",
    "knetc.runtime.onehot": "onehot",
    "knetc.runtime.saving": "load save",
    "knetc.runtime.source": "compile",
    "knetc.runtime.train": "stoppable",
    "knetc.values": _VALUES,
}
_SUBMODULES = ("data",)
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "Bernoulli",
    "CUDNN_CONVOLUTION",
    "CUDNN_CROSS_CORRELATION",
    "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING",
    "CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING",
    "CUDNN_POOLING_MAX",
    "Constant",
    "Gaussian",
    "Glorot",
    "GlorotNormal",
    "GlorotUniform",
    "Identity",
    "KnetEnvironmentError",
    "KnetError",
    "KnetInternalError",
    "KnetLimitation",
    "KnetMemoryError",
    "KnetNameError",
    "KnetShapeError",
    "KnetStateError",
    "KnetSyntaxError",
    "KnetTypeError",
    "Model",
    "Uniform",
    "Xavier",
    "back",
    "backseq",
    "clean",
    "compile",
    "data",
    "distribute",
    "export_parameters",
    "forw",
    "forwseq",
    "get",
    "gnorm",
    "grad",
    "gradcheck",
    "import_parameters",
    "load",
    "minibatch",
    "onehot",
    "params",
    "quadloss",
    "report",
    "reset",
    "save",
    "sback",
    "seqbatch",
    "set",
    "setp",
    "setseed",
    "sforw",
    "softloss",
    "state",
    "stoppable",
    "summary",
    "test",
    "train",
    "update",
    "wnorm",
    "zeroone",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"knetc.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'knetc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
