"""Sources mutated at random: whatever a file holds, the compiler answers with code or with an error of the user's.

A mutation is of characters, tokens or lines. `outcome` takes a text through the front end, the passes and the emitter.
"""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import manual

from knetc import driver
from knetc.errors import KnetError, KnetInternalError, Source
from knetc.ir.types import N
from knetc.options import Options

from .programs import random_model

ROOT = Path(__file__).resolve().parents[2]

LONGEST_MESSAGE = 5000
"""Characters that an error may have."""

LONGEST_TIME = 2.0
"""Seconds of processor time that a compilation may take: these models are small."""

TOKENS = re.compile(r"\w+|\s+|@knet|\.\.\.|[.=!<>&|]{1,2}|.", re.DOTALL)
_WORDS = """
@knet function if else elseif end return par arr rnd dot add mul conv pool axpb copy relu sigm tanh soft drop
wdot bias wb wf wbf wbf2 wconv cbfp lstm irnn gru repeat dims init out winit f window padding stride mode a p b
o x h true false nothing Xavier() Gaussian(0,1) Constant(0) Bernoulli(0.5,2) Identity(1) CUDNN_POOLING_MAX :relu
:conv :repeat frepeat nrepeat dropout ( ) [ ] , ; : = == != < <= && || ! + - * / ^ .+ .- .* ./ .^ ... # #= =# "
' $ @ % 0 1 2 3 7 -1 0.5 1e300 1e-300 10^9 10^99 9223372036854775808 NaN Inf (0,) (1,0) (0,0,0,0) () zeros(3)
ones(2,2) 1:3 [1.0,2.0] reshape([1.0:4.0...],(2,2)) é ∑
"""
WORDS = [*_WORDS.split(), "[1 2;3 4]", "\t", "\r\n", "\0"]


class TooSlow(Exception):
    """A compilation took longer than it may."""


class Text(NamedTuple):
    """A source, and dims for its inputs that it compiles with."""

    text: str
    dims: tuple[tuple[object, ...], ...]


def corpus() -> list[Text]:
    """The examples, the manual's definitions, the compound operators, and random models."""
    found = []
    for path in sorted((ROOT / "examples").glob("*.knet")):
        given = re.findall(r"--input (\S+)", path.read_text()) or ["13,N"]
        dims = [tuple(N if w == "N" else int(w) for w in g.split(",")) for g in given]
        found.append(Text(path.read_text(), tuple(dims)))
    for text in manual.LESSONS.values():
        found.append(Text(text, ((28, 28, 1, N),)))
    found.append(Text((ROOT / "knetc" / "frontend" / "prelude.knet").read_text(), ((7, N),)))
    for seed in range(30):
        made = random_model(random.Random(seed), 4)
        shapes = zip(made.inputs, made.whole, strict=True)
        found.append(Text(made.source, tuple(d if whole else (*d, N) for d, whole in shapes)))
    return found


def mutated(text: str, other: str, pick: random.Random) -> str:
    """The text with one to four mutations; `other` gives what is put in."""
    for _ in range(pick.choice([1, 1, 2, 3, 4])):
        text = pick.choice([_characters, _tokens, _tokens, _tokens, _lines, _number])(text, other, pick)
    return text


def _characters(text: str, other: str, pick: random.Random) -> str:
    at = pick.randint(0, len(text))
    end = min(len(text), at + pick.choice([0, 1, 1, 5]))
    new = "".join(chr(pick.choice([pick.randrange(32, 127), pick.randrange(0x250)])) for _ in range(pick.randint(0, 2)))
    return text[:at] + new + text[end:]


def _tokens(text: str, other: str, pick: random.Random) -> str:
    """Tokens left out, doubled, exchanged, or replaced by others."""
    tokens = TOKENS.findall(text) or [" "]
    at = pick.randrange(len(tokens))
    kind = pick.randrange(6)
    if kind == 0:
        del tokens[at]
    elif kind == 1:
        tokens.insert(at, tokens[at])
    elif kind == 2:
        to = pick.randrange(len(tokens))
        tokens[at], tokens[to] = tokens[to], tokens[at]
    elif kind == 3:
        tokens[at] = pick.choice(TOKENS.findall(other) or [" "])
    elif kind == 4:
        tokens[at] = pick.choice(WORDS)
    else:
        tokens.insert(at, f" {pick.choice(WORDS)} ")
    return "".join(tokens)


def _lines(text: str, other: str, pick: random.Random) -> str:
    lines = text.split("\n")
    at, kind = pick.randrange(len(lines)), pick.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, pick.choice(other.split("\n")))
    elif kind == 2:
        to = pick.randrange(len(lines))
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines = lines[:at]
    return "\n".join(lines)


def _number(text: str, other: str, pick: random.Random) -> str:
    """Another number in the place of one."""
    places = list(re.finditer(r"\d+", text))
    if not places:
        return text
    place = pick.choice(places)
    new = pick.choice(["0", "1", "2", "3", "17", "100", "-1", "1000000", "99999999999", "1e10", "0.5", "(2,2)", "(0,)"])
    return text[: place.start()] + new + text[place.end() :]


def inputs(count: int, known: Sequence[tuple[object, ...]], pick: random.Random) -> tuple[Any, ...]:
    """Dims for so many inputs: those known, mostly, else others, or none so that they are inferred."""
    others = [(28, 28, 1, N), (13, N), (784, N), (6, 5, 2, N), (3, 4), (2, 2, 2, 2, N), (N,), None]
    mostly = pick.random() < 0.75
    return tuple(known[k] if mostly and k < len(known) else pick.choice(others) for k in range(count))


def outcome(text: str, dims: Sequence[tuple[object, ...]], pick: random.Random) -> str:
    """What comes of a text: `code`, or the kind of its error. Raises whatever is no error of the user's.

    Raises AssertionError for a message that is too long.
    """
    try:
        with limited(LONGEST_TIME):
            program = driver.lower(Source("mutated.knet", text), None, {}, [])
            given = inputs(len(program.inputs), dims, pick)
            options = Options(inputs=given, level=pick.choice([0, 1, 2, 2]))
            driver.emit(driver.optimise(program, options), options)
    except KnetInternalError:
        raise
    except KnetError as error:
        message = str(error)
        assert len(message) <= LONGEST_MESSAGE, f"a message of {len(message)} characters: {message[:500]}"
        assert message.strip(), "an empty message"
        return type(error).__name__
    return "code"


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TooSlow in what takes more processor time."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"over {seconds} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
