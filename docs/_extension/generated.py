"""Directives whose contents are made from knetc itself when the manual is built.

- `{operators} primitive|compound`, `{fillers}`: tables from the registry, the prelude and the values.
- `{passes}`: the passes in their order.
- `{command} ARGUMENTS`: what `knetc ARGUMENTS` prints, run in the project's folder; `:language:` for its colours.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective
from tables import fillers, operators, passes

ROOT = Path(__file__).parents[2]


class Table(SphinxDirective):
    """A table that a function of `tables` makes."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The parsed table."""
        make: dict[str, Any] = {"operators": operators, "fillers": fillers, "passes": passes}
        return self.parse_text_to_nodes(make[self.name](*self.arguments))


class Command(SphinxDirective):
    """What a command of knetc prints."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"language": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """A block of code."""
        command = [sys.executable, "-m", "knetc.cli", *self.arguments[0].split()]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        block = nodes.literal_block(done.stdout, done.stdout)
        block["language"] = self.options.get("language", "text")
        return [block]


def setup(app: Any) -> dict[str, bool]:
    """Registers the directives."""
    for name in ("operators", "fillers", "passes"):
        app.add_directive(name, Table)
    app.add_directive("command", Command)
    return {"parallel_read_safe": True}
