"""Wrong calls of the C interface: each is refused with its code and reason, and leaves the model as it was."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

from knetc.runtime.cfunctions import ARGUMENT, AVERAGES, KINDS, ORDER, SIGNATURES, TRAINING
from knetc.runtime.library import Library

from .driver import Net, backward, build, forward, net_of, read, run, same

NULL, NAN = None, float("nan")


def wrong_calls(net: Net) -> Iterator[tuple[str, tuple, int, str]]:
    """Calls that must be refused after a forward and a backward pass over 3 columns, each with its code and reason."""
    a = np.zeros(100, np.float32)
    at, count, dims = a.ctypes.data, ctypes.byref(ctypes.c_int()), (ctypes.c_int * 8)()
    inputs, nothing = (ctypes.c_void_p * 1)(at), (ctypes.c_void_p * 1)(None)
    real = ctypes.c_double
    for name in ("forward", "sforward"):
        yield name, (2, inputs, 3, at), ARGUMENT, "there is no such condition"
        yield name, (1 << 31, inputs, 3, at), ARGUMENT, "there is no such condition"
        yield name, (0, inputs, 0, at), ARGUMENT, "a batch of 0 columns"
        yield name, (0, inputs, -3, at), ARGUMENT, "a batch of -3 columns"
        yield name, (0, NULL, 3, at), ARGUMENT, "input x is NULL"
        yield name, (0, nothing, 3, at), ARGUMENT, "input x is NULL"
        yield name, (0, inputs, 4, at), ORDER, "the state has 3 columns and the batch 4"
    yield "backward", (-1, at, NULL, 0, NULL), ARGUMENT, "there is no loss -1"
    yield "backward", (4, at, NULL, 0, NULL), ARGUMENT, "there is no loss 4"
    yield "backward", (3, NULL, NULL, 0, NULL), ARGUMENT, "gold is NULL"
    yield "backward", (2, at, NULL, 0, NULL), ARGUMENT, "there is no backward pass from that loss"
    yield "backward", (3, at, NULL, 2, NULL), ARGUMENT, "there is no input 1"
    yield "backward", (3, at, NULL, 1 << 63, NULL), ARGUMENT, "there is no input 63"
    yield "sbackward", (3, at, NULL, 0, NULL), ORDER, "the stack is empty"
    for value in (-1.0, NAN, float("inf")):
        yield "update", (real(value), real(1)), ARGUMENT, "gclip cannot be"
    yield "update", (real(0), real(NAN)), ARGUMENT, "gscale cannot be"
    step = (3, inputs, at, 3, 3, real(0), real(1), NULL)  # from softloss, three columns as one minibatch
    yield "train", (2, *step), ARGUMENT, "there is no such condition"
    for k, instead, code, reason in (
        (0, 1, ARGUMENT, "there is no training from loss 1"),
        (0, 2, ARGUMENT, "there is no backward pass from that loss"),
        (0, 4, ARGUMENT, "there is no loss 4"),
        (1, NULL, ARGUMENT, "input x is NULL"),
        (2, NULL, ARGUMENT, "gold is NULL"),
        (3, 0, ARGUMENT, "0 columns"),
        (3, 5, ORDER, "the state has 3 columns and the last minibatch 2"),
        (4, 0, ARGUMENT, "a batch of 0 columns"),
        (4, 2, ORDER, "the state has 3 columns and the batch 2"),
        (5, real(-1), ARGUMENT, "gclip cannot be"),
        (6, real(NAN), ARGUMENT, "gscale cannot be"),
    ):
        yield "train", (0, *step[:k], instead, *step[k + 1 :]), code, reason
    for option, value in (("l2reg", -1.0), ("momentum", NAN), ("lr", float("inf"))):
        yield "set_option", (NULL, option.encode(), real(value)), ARGUMENT, f"option {option} cannot be"
    yield "set_option", (NULL, NULL, real(1)), ARGUMENT, "the option is NULL"
    yield "set_option", (NULL, b"rate", real(1)), ARGUMENT, "there is no training option rate"
    yield "set_option", (b"x", b"lr", real(1)), ARGUMENT, "there is no parameter x"
    for setting, value in (("graphs", 3), ("graphs", -1), ("search", 2), ("deterministic", 2)):
        yield "configure", (setting.encode(), value), ARGUMENT, f"setting {setting} cannot be {value}"
    yield "configure", (NULL, 1), ARGUMENT, "the setting is NULL"
    yield "configure", (b"speed", 1), ARGUMENT, "there is no setting speed"
    yield "graphs", (count, NULL), ARGUMENT, "the place for the numbers is NULL"
    for name, last in (("dims", (count, dims)), ("get", (at,))):
        for kind in (-1, 11):
            yield name, (kind, b"wbf/w", *last), ARGUMENT, f"there is no kind {kind} of arrays"
        for kind, known in enumerate(("h/tmp1", "x", "nothing", "wbf/w", "w")):
            yield name, (kind, known.encode(), *last), ARGUMENT, f"there is no array of that kind called {known}"
        yield name, (0, NULL, *last), ARGUMENT, "the name is NULL"
        yield name, (KINDS["dinput"], b"x", *last), ORDER, "did not compute the gradient of input x"
        for kind in AVERAGES.values():
            yield name, (kind, b"wbf/w", *last), ORDER, "has no such average: its option has not been used"
            yield name, (kind, b"h", *last), ARGUMENT, "there is no array of that kind called h"
    yield "dims", (0, b"wbf/w", NULL, dims), ARGUMENT, "the place for the dimensions is NULL"
    yield "dims", (0, b"wbf/w", count, NULL), ARGUMENT, "the place for the dimensions is NULL"
    yield "get", (0, b"wbf/w", NULL), ARGUMENT, "the place for the array is NULL"
    yield "set", (b"wbf/w", NULL), ARGUMENT, "the array is NULL"
    yield "set", (NULL, at), ARGUMENT, "the name is NULL"
    yield "set", (b"h", at), ARGUMENT, "there is no array of that kind called h"
    for kind in (4, 11):
        yield "set_average", (kind, b"wbf/w", at), ARGUMENT, f"there is no kind {kind} of averages"
    yield "set_average", (9, b"wbf/w", NULL), ARGUMENT, "the array is NULL"
    number = ctypes.byref(ctypes.c_int())
    for name, before, last in (("set_average", (9,), at), ("adam_steps", (), number), ("set_adam_steps", (), 1)):
        yield name, (*before, b"h", last), ARGUMENT, "there is no parameter h"
        yield name, (*before, NULL, last), ARGUMENT, "the parameter's name is NULL"
    yield "adam_steps", (b"wbf/w", NULL), ARGUMENT, "the place for the steps is NULL"
    yield "set_adam_steps", (b"wbf/w", -1), ARGUMENT, "-1 steps of Adam"
    yield "calls", (NULL,), ARGUMENT, "the place for the number of calls is NULL"
    yield "set_state", (NULL, at, 3), ARGUMENT, "the name is NULL"
    yield "set_state", (b"wbf/w", at, 3), ARGUMENT, "there is no state called wbf/w"
    yield "set_state", (b"h", NULL, 3), ARGUMENT, "the array is NULL"
    yield "set_state", (b"h", at, 0), ARGUMENT, "a batch of 0 columns"
    yield "set_state", (b"h", at, 4), ORDER, "the state has 3 columns and the batch 4"
    for name in ("save", "load"):
        yield name, (NULL,), ARGUMENT, "the path is NULL"
        yield name, (str(net.folder / "no" / "file").encode(),), ARGUMENT, "No such file or directory"
    yield "save", (b"x" * 5000,), ARGUMENT, "the path is too long"


@pytest.fixture(scope="module")
def rnn(tmp_path_factory) -> Library:
    """The recurrent model with a backward pass from softloss alone."""
    return build("rnn", tmp_path_factory.mktemp("arguments"), losses=("zero", "softloss"))


def test_wrong_calls_say_what_is_wrong_and_change_nothing(rnn):
    refused, whole = net_of(rnn), net_of(rnn)
    for net in (refused, whole):
        run(net, ["create", "options", "write", "forward"])
        assert backward("backward", 2, 3, wanted=0)(net) == 0
    for name, arguments, code, reason in wrong_calls(refused):
        assert refused.call(name, *arguments) == code, (name, arguments, refused.reason())
        assert reason in refused.reason(), (name, arguments, refused.reason())
        assert refused.reason().isascii() and len(refused.reason()) < 512
    for net in (refused, whole):
        assert forward("sforward", 5, 3)(net) == 0  # in the state that the first call left
        run(net, ["update"])
        assert backward("sbackward", 6, 3)(net) == 0 and read(net) == 0
        run(net, ["destroy"])
    assert same(refused.out, whole.out)


def test_every_function_refuses_no_model(rnn):
    none = net_of(rnn)
    for name, types in (SIGNATURES | TRAINING).items():
        if name in ("create", "destroy"):
            continue
        assert none.call(name, *(t() for t in types[1:])) == ARGUMENT and none.reason() == "the model is NULL", name
    assert none.call("destroy") == 0  # as free(NULL)
    assert rnn._function("create")(None, ctypes.c_ulonglong(1), None) == ARGUMENT
    assert none.reason() == "the place for the model is NULL"


def test_no_second_way_back_once_the_parameters_have_changed(tmp_path, monkeypatch):
    """It would need values that the first has overwritten, and the parameters that they were computed with."""
    library = build("mlp", tmp_path)
    gold, places = np.ones(100, np.float32), (ctypes.c_void_p * 1)
    parameter = next(iter(library.program.params()))
    zeros, real = np.zeros(library.program.params()[parameter].type.concrete(1), np.float32), ctypes.c_double
    x = np.ones(100, np.float32)
    back = ("backward", 3, gold.ctypes.data, None, 0, None)
    changes = {
        "update": (real(0), real(1)),
        "set": (parameter.encode(), zeros.ctypes.data),
        "train": (0, 3, places(x.ctypes.data), gold.ctypes.data, 3, 3, real(0), real(1), None),
    }
    for name, arguments in changes.items():
        net = net_of(library)
        run(net, ["create"])
        assert net.call("forward", 0, places(x.ctypes.data), 3, None) == 0
        for _ in range(2):
            assert net.call(*back) == 0
        assert net.call(name, *arguments) == 0, net.reason()
        assert net.call(*back) == ORDER and "the parameters have changed since forward" in net.reason(), name
        assert net.call("forward", 0, places(x.ctypes.data), 3, None) == 0 and net.call(*back) == 0
        run(net, ["destroy"])


def test_what_comes_before_what(rnn):
    net, a = net_of(rnn), np.zeros(100, np.float32)
    run(net, ["create"])
    at, back = a.ctypes.data, (3, a.ctypes.data, None, 0, None)
    for name, arguments, reason in (
        ("backward", back, "backward comes after forward"),
        ("sbackward", back, "each sbackward goes back through one sforward"),
        ("update", (ctypes.c_double(0), ctypes.c_double(1)), "update comes after backward"),
        ("get", (KINDS["grad"], b"wbf/w", at), "no gradient has been computed"),
        ("get", (KINDS["value"], b"h", at), "no value"),
        ("get", (KINDS["state"], b"h", at), "there is no state"),
        ("get", (KINDS["dinput"], b"x", at), "did not compute the gradient"),
    ):
        assert net.call(name, *arguments) == ORDER and reason in net.reason(), (name, net.reason())
    run(net, ["sforward", "destroy"])
