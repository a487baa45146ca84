"""Knet in a notebook: `%load_ext knetc.notebook`, then cells that begin with `%%knet NAME KEY=VALUE …`.

Such a cell holds Knet text. It is compiled as `knetc.compile` does, and the model is called NAME in the notebook from
then on. Needs IPython, which brings Pygments; the extra `notebook` installs both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, cell_magic, magics_class
from IPython.display import display

from knetc.errors import KnetError, KnetTypeError, Source
from knetc.frontend.lower import parse_expression
from knetc.runtime.source import compile

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_USAGE = "%%knet NAME KEY=VALUE …: the name that the model gets, then keywords such as hidden=100 or backend=cpu"
_PLAIN = frozenset(("backend", "dtype", "model"))  # arguments of `compile` that are words
_PIECE = re.compile(r"\s+|\"(?:[^\"\\]|\\.)*\"|.")


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by `%load_ext knetc.notebook`."""
    shell.register_magics(KnetMagics)


@magics_class
class KnetMagics(Magics):  # type: ignore[misc]
    """The cell magic `%%knet`."""

    @cell_magic  # type: ignore[untyped-decorator]
    def knet(self, line: str, cell: str) -> None:
        """Compiles the cell's last definition: `%%knet NAME KEY=VALUE …`.

        The model is called NAME from then on. A keyword is one of the model's, in Knet's own spelling (`hidden=100`,
        `f=:tanh`, `winit=Gaussian(0, 0.1)`), or one of `knetc.compile`: backend, dtype, seed, and model, the name of
        another definition of the cell. The cell is shown in colours. An error is shown at the text that it is about,
        and leaves the variable as it was.
        """
        try:
            name, keywords = _arguments(line)
            source = Source(f"%%knet {name}", f"# %%knet {line}\n{cell}")  # its lines count as those of the cell
            net = compile(source, **keywords)
        except KnetError as error:
            raise Fault(error, self.shell.colors.lower() != "nocolor") from None
        self.shell.push({name: net})
        heading = f"{name} = {repr(net).splitlines()[0]}"
        display({"text/html": _html(cell, heading), "text/plain": heading}, raw=True)


class Fault(Exception):
    """A KnetError that IPython shows as the compiler does, without a traceback; it ends the cell as any error does."""

    def __init__(self, error: KnetError, color: bool) -> None:
        super().__init__(str(error))
        self._text = error.render(color)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return self._text.split("\n")


def _arguments(line: str) -> tuple[str, dict[str, Any]]:
    """The name and the keywords for `compile`. Raises KnetTypeError, and KnetError for a value that is no Knet."""
    name, *rest = [*_words(line)] or [""]
    if not name.isidentifier():
        raise KnetTypeError(_USAGE)
    keywords: dict[str, Any] = {}
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise KnetTypeError(f"'{word}' is no KEY=VALUE; {_USAGE}")
        keywords[key] = value if key in _PLAIN else parse_expression(value)
    return name, keywords


def _words(line: str) -> Iterator[str]:
    """The line parted at blanks, except those inside brackets and strings."""
    word, depth = "", 0
    for match in _PIECE.finditer(line):
        piece = match.group()
        depth += (piece in "([") - (piece in ")]")
        if piece.isspace() and depth <= 0:
            if word:
                yield word
            word = ""
        else:
            word += piece
    if word:
        yield word


def _html(text: str, heading: str) -> str:
    """The cell in colours, and the heading below it."""
    from html import escape

    from pygments import highlight
    from pygments.formatters import HtmlFormatter

    from knetc.highlight import KnetLexer

    shown: str = highlight(text, KnetLexer(), HtmlFormatter(noclasses=True, nobackground=True))
    return f"{shown}<pre>{escape(heading)}</pre>"
