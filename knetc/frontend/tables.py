"""The LALR(1) tables of `knet.lark`: made by Lark, kept as text in `knet.tables`, run by `parser.py`.

Lark takes longer to start and to build the tables than a whole compilation takes, so the tables are stored beside the
grammar, as a parser generator does: `python -m knetc.frontend.tables` writes them anew after a change of the grammar,
and a test says when that was forgotten. Tables that do not belong to the grammar are never used: then Lark makes them
on the spot.
"""

from __future__ import annotations

import os
import sys
from binascii import crc32
from typing import NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))
GRAMMAR = os.path.join(HERE, "knet.lark")
STORED = os.path.join(HERE, "knet.tables")
STARTS = ("definition", "constant", "expression")
END = "$END"


class Rule(NamedTuple):
    """A rule of the grammar: `origin` is made of `length` parts by `action` (empty: hand the first part on)."""

    origin: str
    length: int
    action: str


class Tables:
    """What the parser runs on. States are decoded from their text when they are first entered."""

    def __init__(self, rules: list[Rule], starts: dict[str, int], ends: dict[str, int], states: list[str]) -> None:
        self.rules = rules
        self.starts = starts
        self.ends = ends
        self._text = states
        self._decoded: list[dict[str, int] | None] = [None] * len(states)
        self._gotos: dict[tuple[int, str, str], int] = {}

    def state(self, number: int) -> dict[str, int]:
        """The actions of a state by symbol: n >= 0 goes to state n, n < 0 reduces by rule -n - 1."""
        actions = self._decoded[number]
        if actions is None:
            actions = self._decoded[number] = _decode(self._text[number])
        return actions

    def goto(self, state: int, symbol: str, following: str) -> int:
        """The state after `symbol` was made in `state`, with the token `following` to come.

        Rules that only hand their single part on (one for each level of precedence) are gone through here, once.
        """
        key = (state, symbol, following)
        target = self._gotos.get(key)
        if target is None:
            actions = self.state(state)
            target = actions[symbol]
            while (action := self.state(target).get(following, 0)) < 0:
                rule = self.rules[-action - 1]
                if rule.action or rule.length != 1:
                    break
                target = actions[rule.origin]
            self._gotos[key] = target
        return target


def load() -> Tables:
    """The tables of the grammar as it stands: the stored ones where they fit it, else new ones."""
    grammar = _read(GRAMMAR)
    try:
        text = _read(STORED)
    except OSError:
        text = ""
    if not text.startswith(_key(grammar)):
        text = generate(grammar)
    return _parse(text)


def generate(grammar: str) -> str:
    """The tables of a grammar as text, by Lark. The same grammar gives the same text."""
    from lark import Lark
    from lark.lexer import Lexer

    class NoLexer(Lexer):
        """The tokens come from `lexer.py`."""

        def __init__(self, conf: object) -> None: ...

        def lex(self, lexer_state: object, parser_state: object) -> object: ...  # type: ignore[override]

    lark = Lark(grammar, parser="lalr", lexer=NoLexer, start=list(STARTS), maybe_placeholders=False)
    table = lark.parser.parser._parse_table
    rules = {rule: n for n, rule in enumerate(lark.rules)}
    lines = [_key(grammar)]
    lines += [f"rule {r.origin.name} {len(r.expansion)} {r.alias or ''}".rstrip() for r in lark.rules]
    order = _reachable(table.states, [table.start_states[s] for s in STARTS])
    number = {state: n for n, state in enumerate(order)}
    lines += [f"start {s} {number[table.start_states[s]]} {number[table.end_states[s]]}" for s in STARTS]
    for state in order:
        shifts: list[str] = []
        reduces: dict[int, list[str]] = {}
        for symbol, (_, target) in sorted(table.states[state].items()):
            if target in rules:
                reduces.setdefault(rules[target], []).append(symbol)
            else:
                shifts.append(f"{symbol}:{number[target]}")
        grouped = [f"{','.join(symbols)}:-{rule + 1}" for rule, symbols in sorted(reduces.items())]
        lines.append(" ".join(["state", *shifts, *grouped]))
    return "\n".join(lines) + "\n"


def _reachable(states: dict[int, dict[str, tuple[object, int]]], starts: list[int]) -> list[int]:
    """The states in the order in which a walk over sorted symbols meets them (Lark's own numbers change by run)."""
    order = list(starts)
    seen = set(order)
    for state in order:  # grows while it is walked
        for _, (_, target) in sorted(states[state].items(), key=lambda item: item[0]):
            if isinstance(target, int) and target not in seen:
                seen.add(target)
                order.append(target)
    return order


def _key(grammar: str) -> str:
    return f"tables of knet.lark, crc {crc32(grammar.encode()):08x}\n"[:-1]


def _parse(text: str) -> Tables:
    rules: list[Rule] = []
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    states: list[str] = []
    for line in text.splitlines()[1:]:
        kind, _, rest = line.partition(" ")
        if kind == "rule":
            origin, length, *action = rest.split(" ")
            rules.append(Rule(origin, int(length), action[0] if action else ""))
        elif kind == "start":
            name, start, end = rest.split(" ")
            starts[name], ends[name] = int(start), int(end)
        else:
            states.append(rest)
    return Tables(rules, starts, ends, states)


def _decode(text: str) -> dict[str, int]:
    actions: dict[str, int] = {}
    for group in text.split():
        symbols, _, target = group.rpartition(":")
        for symbol in symbols.split(","):
            actions[symbol] = int(target)
    return actions


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def main() -> None:
    """Writes the tables anew."""
    text = generate(_read(GRAMMAR))
    with open(STORED, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    print(f"{STORED}: {text.count(chr(10))} lines", file=sys.stderr)


if __name__ == "__main__":
    main()
