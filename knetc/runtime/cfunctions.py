"""The C functions of an emitted library as ctypes needs them: their arguments, and the codes that they know things by.

Used by `cmodel.py` and `cpu.py`. The names are those after the model's: `forward` for `lenet_forward`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

KINDS = {"par": 0, "grad": 1, "value": 2, "dinput": 3, "state": 4}
AVERAGES = {"adagrad": 5, "rmsprop": 6, "adam_m": 7, "adam_v": 8, "momentum": 9, "nesterov": 10}
ADAM_STEPS = "adam_t"
ARGUMENT, ORDER, MEMORY = 1, 2, 3
SEED = 2**64 - 1
CALLS = 2**32 - 1
# What says how an emitted library runs, not what it computes: settings of `configure`, by environment variable.
SETTINGS = {
    "KNETC_GRAPHS": "graphs",
    "KNETC_SEARCH": "search",
    "KNETC_DETERMINISTIC": "deterministic",
    "KNETC_GRAPH_SUMS": "graph_sums",
}

Address = ctypes.c_void_p
Text = ctypes.c_char_p
SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "create": (ctypes.POINTER(Address), ctypes.c_ulonglong, Address),
    "destroy": (Address,),
    "forward": (Address, ctypes.c_uint, ctypes.POINTER(Address), ctypes.c_int, Address),
    "backward": (Address, ctypes.c_int, Address, Address, ctypes.c_ulonglong, Address),
    "sforward": (Address, ctypes.c_uint, ctypes.POINTER(Address), ctypes.c_int, Address),
    "sbackward": (Address, ctypes.c_int, Address, Address, ctypes.c_ulonglong, Address),
    "update": (Address, ctypes.c_double, ctypes.c_double),
    "set_option": (Address, Text, Text, ctypes.c_double),
    "configure": (Address, Text, ctypes.c_int),
    "graphs": (Address, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)),
    "wait_for": (Address, Address),
    "make_wait": (Address, Address),
    "reset": (Address, ctypes.c_int),
    "clean": (Address,),
    "set_seed": (Address, ctypes.c_ulonglong),
    "dims": (Address, ctypes.c_int, Text, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)),
    "get": (Address, ctypes.c_int, Text, Address),
    "set": (Address, Text, Address),
    "set_state": (Address, Text, Address, ctypes.c_int),
    "set_average": (Address, ctypes.c_int, Text, Address),
    "adam_steps": (Address, Text, ctypes.POINTER(ctypes.c_int)),
    "set_adam_steps": (Address, Text, ctypes.c_int),
    "calls": (Address, ctypes.POINTER(ctypes.c_uint)),
    "set_calls": (Address, ctypes.c_uint),
    "set_columns": (Address, ctypes.c_int),
    "save": (Address, Text),
    "load": (Address, Text),
    "synchronize": (Address,),
}
# That of a library that sums gradients over the processes of a communicator.
SUMS: Mapping[str, tuple[Any, ...]] = {"set_communicator": (Address, Address)}
# Those of a library that runs whole sequences.
SEQUENCES: Mapping[str, tuple[Any, ...]] = {
    "forwseq": (Address, ctypes.c_uint, ctypes.POINTER(Address), ctypes.c_int, ctypes.c_int, Address),
    "backseq": (Address, ctypes.c_int, Address, Address, ctypes.c_int, Address),
}
Places, Clip = ctypes.POINTER(Address), ctypes.c_double
# That of a library that trains on many minibatches in one call.
TRAINING: Mapping[str, tuple[Any, ...]] = {
    "train": (
        Address,
        ctypes.c_uint,
        ctypes.c_int,
        Places,
        Address,
        ctypes.c_int,
        ctypes.c_int,
        Clip,
        Clip,
        Address,
    )
}
# That of a library that trains over whole sequences in one call.
OVER_TIME: Mapping[str, tuple[Any, ...]] = {
    "trainseq": (
        Address,
        ctypes.c_uint,
        ctypes.c_int,
        Places,
        Address,
        *(ctypes.c_int,) * 3,
        Clip,
        Clip,
        Address,
    )
}
