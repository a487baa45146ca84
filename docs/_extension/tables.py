"""The tables of the manual that are made from knetc itself, as Markdown."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from knetc import ops, values
from knetc.ir.pipeline import PIPELINE
from knetc.values import show

PRELUDE = Path(__file__).parents[2] / "knetc" / "frontend" / "prelude.knet"


def operators(kind: str) -> str:
    """The table of the primitive or of the compound operators, as Markdown."""
    rows = ["| operator | keywords | what it is |", "|---|---|---|"]
    return "\n".join(rows + (primitives() if kind == "primitive" else compounds()))


def primitives() -> list[str]:
    """A row for each primitive operator that a program may call."""
    rows = []
    for op in ops.registry().values():
        if not op.user:
            continue
        keywords = [f"`{k}={show(v.default)}`" for k, v in op.keywords.items() if not v.internal]
        rows.append(
            row(f"`{op.name}({', '.join(op.args)})`", ", ".join(keywords), re.sub(r" No argument, so .*", "", op.doc))
        )
    return rows


def compounds() -> list[str]:
    """A row for each definition of the prelude: its signature and the comment above it."""
    pattern = r"((?:^#.*\n)+)@knet function (\w+)\(([^;]*?)(?:;((?:.|\n)*?))?\)\n"
    rows = []
    for comment, name, args, keywords in re.findall(pattern, PRELUDE.read_text(encoding="utf-8"), re.MULTILINE):
        text = " ".join(line.removeprefix("#").strip() for line in comment.splitlines())
        given = [f"`{k}`" for k in split(keywords)]
        rows.append(row(f"`{name}({args.strip()})`", ", ".join(given), text))
    return rows


def split(keywords: str) -> list[str]:
    """The keyword parameters of a signature, without their lines; commas within brackets do not count."""
    parts = re.findall(r"(?:\([^()]*\)|[^,()])+", keywords)
    return [re.sub(r"\s+", "", p) for p in parts if p.strip()]


def fillers() -> str:
    """The table of the array fillers."""
    rows = ["| filler | what it fills with |", "|---|---|"]
    for name, kind in vars(values).items():
        if inspect.isclass(kind) and issubclass(kind, values.Filler) and kind is not values.Filler:
            if name != kind.__name__:
                continue
            fields = ", ".join(f"{field}={getattr(kind(), field):g}" for field in kind.field_names)
            rows.append(row(f"`{name}({fields})`", kind.__doc__ or ""))
    return "\n".join(rows)


def passes() -> str:
    """The table of the passes."""
    rows = ["| pass | takes | gives | what it does |", "|---|---|---|---|"]
    rows += [row(f"`{p.name}`", p.takes, p.gives, p.doc) for p in PIPELINE]
    return "\n".join(rows)


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(re.sub(r"\s+", " ", c).replace("|", "\\|") for c in cells) + " |"
