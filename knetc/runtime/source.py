"""`knetc.compile`: from a file or a text, a model's name and keywords to a `Model`.

Before it: the user's call. After it: `model.py`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from knetc import driver
from knetc.errors import Diagnostic, KnetError, KnetTypeError, Source
from knetc.runtime import check, keywords
from knetc.runtime.engine import Engine
from knetc.runtime.model import Model


def compile(
    source: str | os.PathLike[str] | Source | None,
    model: str | None = None,
    *,
    backend: str = "auto",
    dtype: str = "f32",
    seed: int = 0,
    optimise: int = 2,
    **kwargs: Any,
) -> Model:
    """A model of definition `model` (None: the file's last) with compile-time keywords `kwargs`.

    `source`: the path of a .knet or .jl file, or the text itself (a string with a newline or `@knet` in it, or a
    `Source` with the name for messages), or None for a built-in operator. `backend`: numpy, cpu, emulated, cuda or
    auto; `dtype`: f32 or f64; `seed` keys every random number. `optimise`: 0 to 2, as `-O` of the command; at 0 every
    variable is computed as it was written and can be read. Strings among the keywords are symbols, lists and NumPy
    arrays array literals. Raises KnetError for a file that cannot be read, faults in the source, a keyword of a kind
    that Knet has no value for; KnetEnvironmentError for a back end that cannot run here.
    """
    if dtype not in check.DTYPES:
        raise KnetTypeError(f"dtype is 'f32' or 'f64', got {dtype!r}")
    if model is not None and not isinstance(model, str):
        raise KnetTypeError(f"the model is named by a string, got {type(model).__name__}")
    if source is None and model is None:
        raise KnetTypeError("with source None the model names a built-in operator, as in compile(None, 'wdot', out=10)")
    check.level(optimise)
    seed = check.seed(seed)
    warnings: list[Diagnostic] = []
    lowered = driver.lower(read(source), model, keywords.values(kwargs), warnings)
    for warning in warnings:
        print(warning.render(), file=sys.stderr)
    return Model(Engine(lowered, backend, dtype, seed, optimise))


def read(source: Any) -> Source | None:
    """The source text: of the file named, or the text given. Raises KnetError where the file cannot be read."""
    if source is None or isinstance(source, Source):
        return source
    if isinstance(source, str) and ("\n" in source or "@knet" in source):
        return Source("<text>", source)
    if not isinstance(source, str | os.PathLike):
        raise KnetTypeError(f"the source is a path, a text or None, got {type(source).__name__}")
    path = Path(source)
    try:
        return Source(str(path), path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise KnetError(f"{path}: the file is not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise KnetError(f"{str(path)!r} cannot be read: {reason}") from None
