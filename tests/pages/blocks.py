"""Runs the code blocks of a page and compares what they print with what the page shows.

- ```` ```python ````: with prompts (`>>>`) a session whose outputs are compared; without, code that is run.
- ```` ```knet ````: Knet text, which must parse; or with a first line `# NAME.knet` a file for the blocks after it.
- ```` ```console ````: commands after `$ `, run by bash; what they print, errors too, is compared.

Other blocks are only shown. `...` stands for any text, and numbers are compared to the digits that the page shows. All
blocks of a page run in one folder of their own, with `examples/` and `benchmarks/` of the project in it.

`python -m pages.blocks PAGE...`, in the folder `tests`, writes into pages what their blocks print now.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

from sybil import Example, Sybil
from sybil.document import Document
from sybil.evaluators.doctest import NUMBER, OutputChecker
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from knetc.errors import Source
from knetc.frontend import parser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FLAGS = doctest.ELLIPSIS | NUMBER
CHECKER = OutputChecker()
COMMAND_TIME = 120


def pages() -> list[Path]:
    """Every page whose blocks run."""
    built = DOCS / "_build"
    return [ROOT / "README.md", *(p for p in sorted(DOCS.rglob("*.md")) if built not in p.parents)]


class Page:
    """A page's blocks; `outputs` collects (shown, printed), for `update`."""

    def __init__(self, path: Path, update: bool = False) -> None:
        self.update = update
        self.outputs: list[tuple[str, str]] = []
        languages = {"python": self._python, "knet": self._knet, "console": self._console}
        blocks = (CodeBlockParser(name, run) for name, run in languages.items())
        self.document: Document = Sybil(parsers=[SkipParser(), *blocks], path=str(path.parent)).parse(path)

    def run(self) -> None:
        """Runs the blocks in the working folder. Raises AssertionError where one differs."""
        for example in self.document.examples():
            with contextlib.suppress(SkipTest):  # a `<!--- skip: next "REASON" -->` before the block
                example.evaluate()

    def _compare(self, place: str, command: str, want: str, got: str, shown: str) -> None:
        same = CHECKER.check_output(want, got, FLAGS)
        if not same and not self.update:
            raise AssertionError(f"{place}: {command}\n--- shown:\n{want}--- printed:\n{got}")
        self.outputs.append((shown, shown if same else shown[: len(shown) - len(want)] + got))

    def _python(self, example: Example) -> None:
        place, text = f"{example.path}:{example.line}", str(example.parsed)
        if ">>>" not in text:
            exec(compile("\n" * example.line + text, example.path, "exec"), example.namespace)
            return
        for lines, want in re.findall(r"^(>>> .*(?:\n\.\.\..*)*)\n((?:(?!>>> ).*\n?)*)", text, re.MULTILINE):
            source = "".join(line[4:] + "\n" for line in lines.splitlines())
            wanted = want.rstrip() + "\n" if want.strip() else ""
            got = _run_step(source, place, example.namespace, raises=self.update or want.startswith("Traceback"))
            self._compare(place, source.rstrip(), wanted, got, f"{lines}\n{wanted}")

    def _knet(self, example: Example) -> None:
        text = str(example.parsed)
        named = re.match(r"# (\S+\.knet)\n", text)
        if named:
            Path(named[1]).write_text(text, encoding="utf-8")
        else:
            parser.parse(Source("page.knet", text))

    def _console(self, example: Example) -> None:
        text = str(example.parsed)
        for command, want in re.findall(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n?)*)", text, re.MULTILINE):
            done = subprocess.run(
                ["bash", "-c", command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=COMMAND_TIME,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "80"},
            )
            got = "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())
            self._compare(f"{example.path}:{example.line}", command, want, got, f"$ {command}\n{want}")


def _run_step(source: str, place: str, namespace: dict[str, Any], raises: bool) -> str:
    """What a step of a session prints; where it `raises`, the error as Python shows it, without its calls."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(source, place, "single"), namespace)
    except Exception as error:
        if not raises:
            raise
        return f"Traceback (most recent call last):\n  ...\n{_name(error)}: {error}\n"
    return out.getvalue()


def _name(error: Exception) -> str:
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


@contextlib.contextmanager
def folder(path: Path) -> Iterator[None]:
    """Works in `path`, with the project's examples in it.

    What a page adds to the way of imports, and what it imports from there, goes with it: both know the folder.
    """
    for name in ("examples", "benchmarks"):
        (path / name).symlink_to(ROOT / name)
    places, modules = list(sys.path), set(sys.modules)
    try:
        with contextlib.chdir(path):
            yield
    finally:
        sys.path[:] = places
        sys.path_importer_cache.clear()
        for module in set(sys.modules) - modules:
            if Path(getattr(sys.modules[module], "__file__", None) or "/").is_relative_to(path.resolve()):
                del sys.modules[module]


def main(names: list[str]) -> None:
    """Writes into the pages what their blocks print."""
    for name in names:
        path = Path(name).resolve()
        page = Page(path, update=True)
        with tempfile.TemporaryDirectory() as work, folder(Path(work)):
            page.run()
        text = path.read_text(encoding="utf-8")
        done = 0
        for shown, printed in page.outputs:
            at = text.index(shown, done)
            text = text[:at] + printed + text[at + len(shown) :]
            done = at + len(printed)
        path.write_text(text, encoding="utf-8")
        print(f"{name}: {sum(shown != printed for shown, printed in page.outputs)} outputs changed")


if __name__ == "__main__":
    main(sys.argv[1:])
