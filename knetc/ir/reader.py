"""Reads the text form of a program (`ir.printer` describes it): for tests and for work on the passes.

`read_program(print_program(p)) == p` for a program of any stage. A source is known by its name alone, so a program
that was read has no source text to show in messages.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from knetc.errors import KnetSyntaxError, Source, Span
from knetc.ir.program import ALWAYS, LOSSES, STAGES, Attrs, Backward, Guard, Input, Instr, Phases, Program, Variant
from knetc.ir.types import Dim, N, PartialDims, Type
from knetc.values import FILLERS, Array, Range, Symbol, Value

_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'  # as in JSON
_NAME = re.compile(rf"%({_STRING}|[\w!/#:@]+)")
_WORD = re.compile(rf"({_STRING}|\w[\w!]*)")
_TEXT = re.compile(rf"({_STRING})")
_NUMBER = re.compile(r"(-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|inf|nan)\b)")
_SPAN = re.compile(rf"({_STRING}|[\w./+-]+):(\d+):(\d+)-(\d+):(\d+)")
_SPACE = re.compile(r"\s*")
_CONSTANTS: dict[str, Value] = {"None": None, "True": True, "False": False}


def read_program(text: str, name: str = "<ir>") -> Program:
    """The program that `text` describes. Raises KnetSyntaxError, at its place in `text`; `name` is shown there.

    Empty lines and lines that begin with `#` are passed over.
    """
    return _Reader(Source(name, text)).program()


class _Line:
    """A scanner over one line."""

    def __init__(self, source: Source, number: int, text: str) -> None:
        self.source = source
        self.number = number
        self.text = text
        self.pos = 0
        self.skip()

    def skip(self) -> None:
        """Passes over white space."""
        match = _SPACE.match(self.text, self.pos)
        self.pos = match.end() if match else self.pos

    def fail(self, message: str) -> NoReturn:
        """Raises at the place reached."""
        column = self.pos + 1
        raise KnetSyntaxError(message, Span(self.source, self.number, column, self.number, column + 1))

    def take(self, mark: str) -> bool:
        """Whether `mark` comes next; if so it is passed."""
        if self.text.startswith(mark, self.pos):
            self.pos += len(mark)
            self.skip()
            return True
        return False

    def want(self, mark: str) -> None:
        """Passes `mark`, which must come next."""
        if not self.take(mark):
            self.fail(f"expected '{mark}'")

    def match(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        """Passes what `pattern` matches."""
        match = pattern.match(self.text, self.pos)
        if match is None:
            self.fail(f"expected {what}")
        self.pos = match.end()
        self.skip()
        return match

    def peek(self, pattern: re.Pattern[str]) -> bool:
        """Whether `pattern` matches here."""
        return pattern.match(self.text, self.pos) is not None

    def name(self) -> str:
        """The name of a value."""
        return _unquote(self.match(_NAME, "a name with '%'")[1])

    def word(self) -> str:
        """A word, quoted or not."""
        return _unquote(self.match(_WORD, "a word")[1])

    def string(self) -> str:
        """A quoted text."""
        return _unquote(self.match(_TEXT, "a text in quotes")[1])

    def end(self) -> None:
        """The line must end here."""
        if self.pos < len(self.text):
            self.fail("expected the end of the line")


class _Reader:
    def __init__(self, source: Source) -> None:
        self.lines = [
            _Line(source, number, text)
            for number, text in enumerate(source.text.split("\n"), 1)
            if text.strip() and not text.startswith("#")
        ]
        self.index = 0
        self.source = source
        self.sources: dict[str, Source] = {}
        self.spans: dict[str, Span] = {}

    def program(self) -> Program:
        name = self.head("program").string()
        stage = self.one_of("stage", STAGES)
        dtype = self.one_of("dtype", ("f32", "f64"))
        line = self.header("conditions")
        conditions = self.words(line) if line else ()
        inputs = self.inputs()
        line = self.header("temps")
        temps = self.names(line) if line else ()
        functions = self.functions()
        variants = []
        while line := self.header("variant"):
            variants.append(self.variant(line))
        update: tuple[Instr, ...] = ()
        if line := self.header("update"):
            line.end()
            update = self.body()
        if self.index < len(self.lines):
            self.lines[self.index].fail("expected another part of a program, or its end")
        return Program(name, stage, inputs, conditions, tuple(variants), dtype, frozenset(temps), functions, update)

    def head(self, keyword: str) -> _Line:
        line = self.header(keyword)
        if line is None:
            here = self.lines[self.index] if self.index < len(self.lines) else _Line(self.source, 1, "")
            here.fail(f"expected '{keyword}'")
        return line

    def header(self, keyword: str) -> _Line | None:
        """The next line where it starts, at its left edge, with `keyword`."""
        if self.index < len(self.lines):
            line = self.lines[self.index]
            if re.match(rf"{keyword}(\s|$)", line.text):
                line.take(keyword)
                self.index += 1
                return line
        return None

    def one_of(self, keyword: str, choices: tuple[str, ...]) -> str:
        line = self.head(keyword)
        word = line.word()
        if word not in choices:
            line.pos = len(keyword) + 1
            line.fail(f"expected one of {', '.join(choices)}")
        line.end()
        return word

    def words(self, line: _Line) -> tuple[str, ...]:
        found = []
        while line.peek(_WORD):
            found.append(line.word())
        line.end()
        return tuple(found)

    def names(self, line: _Line) -> tuple[str, ...]:
        found = []
        while line.peek(_NAME):
            found.append(line.name())
        line.end()
        return tuple(found)

    def inputs(self) -> tuple[Input, ...]:
        found = []
        while line := self.header("input"):
            name = line.name()
            dims = _dims(line, "(", ")") if line.take(":") else None
            found.append(Input(name, dims, self.span(line)))
            line.end()
        return tuple(found)

    def functions(self) -> tuple[tuple[str, str], ...]:
        found = []
        while line := self.header("function"):
            temp = line.name()
            line.want("=")
            found.append((temp, line.string()))
            line.end()
        return tuple(found)

    def variant(self, line: _Line) -> Variant:
        settings = []
        while line.take("{"):
            found = []
            while not line.take("}"):
                found.append(line.word())
            settings.append(frozenset(found))
        line.end()
        forward = self.body()
        result = self.result()
        names = self.variables()
        phases = self.phases()
        backward = []
        while header := self.header("backward"):
            loss = header.word()
            if loss not in LOSSES:
                header.fail(f"expected one of {', '.join(LOSSES)}")
            backward.append(Backward(loss, self.body(), self.phases()))
        return Variant(tuple(settings), forward, result, names, tuple(backward), phases)

    def phases(self) -> Phases | None:
        """The lists over a whole sequence, where they follow."""
        lists: list[tuple[Instr, ...]] = []
        for keyword in ("before", "loop", "after"):
            line = self.header(keyword) if not lists else self.head(keyword)
            if line is None:
                return None
            line.end()
            lists.append(self.body())
        return Phases(*lists)

    def body(self) -> tuple[Instr, ...]:
        found = []
        inside = kernels = 0
        while self.index < len(self.lines):
            line = self.lines[self.index]
            if not line.text.startswith(" ") or re.match(r"\s+(result|name)\s+%", line.text):
                break
            self.index += 1
            if inside and line.take("}"):
                inside = 0
                line.end()
            elif not inside and line.take("kernel {"):
                inside = kernels = kernels + 1
                line.end()
            else:
                found.append(self.instr(line, inside))
        if inside:
            self.lines[self.index - 1].fail("the kernel is not closed after this line")
        return tuple(found)

    def result(self) -> str | None:
        if self.index < len(self.lines) and re.match(r"\s+result\s", self.lines[self.index].text):
            line = self.lines[self.index]
            self.index += 1
            line.want("result")
            return self.names(line)[0]
        return None

    def variables(self) -> tuple[tuple[str, str], ...]:
        found = []
        while self.index < len(self.lines) and re.match(r"\s+name\s", self.lines[self.index].text):
            line = self.lines[self.index]
            self.index += 1
            line.want("name")
            variable = line.name()
            line.want("=")
            found.append((variable, line.name()))
            line.end()
        return tuple(found)

    def instr(self, line: _Line, kernel: int) -> Instr:
        out = ""
        if line.peek(_NAME):
            out = line.name()
            line.want("=")
        op = line.word()
        args, attrs = self.inside(line)
        guard = _guard(line) if line.take("if ") else ALWAYS
        of_type = _type(line) if line.take(":") else None
        instr = Instr(out, op, args, attrs, of_type, guard, self.span(line), kernel)
        line.end()
        return instr

    def inside(self, line: _Line) -> tuple[tuple[str, ...], Attrs]:
        """What stands in an instruction's parentheses."""
        args: list[str] = []
        attrs: list[tuple[str, Value]] = []
        line.want("(")
        while not line.take(")"):
            if line.peek(_NAME):
                args.append(line.name())
            elif not line.take(";"):
                key = line.word()
                line.want("=")
                attrs.append((key, _value(line)))
            if not line.take(",") and not line.text.startswith((")", ";"), line.pos) and not line.peek(_WORD):
                line.fail("expected ',' or ')'")
        return tuple(args), tuple(attrs)

    def span(self, line: _Line) -> Span | None:
        if not line.take("@"):
            return None
        start = line.pos
        text = line.text[start:]
        if text not in self.spans:
            places = [line.match(_SPAN, "file:line:column-line:column")]
            while line.take("<"):
                places.append(line.match(_SPAN, "file:line:column-line:column"))
            span: Span | None = None
            for place in reversed(places):
                name = _unquote(place[1])
                source = self.sources.setdefault(name, Source(name))
                span = Span(source, int(place[2]), int(place[3]), int(place[4]), int(place[5]), span)
            line.end()
            assert span is not None
            self.spans[text] = span
        line.pos = len(line.text)
        return self.spans[text]


def _unquote(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text


def _dims(line: _Line, left: str, right: str) -> PartialDims:
    found: list[Dim | None] = []
    line.want(left)
    while not line.take(right):
        if line.take("N"):
            found.append(N)
        elif line.take("?"):
            found.append(None)
        else:
            found.append(int(line.match(re.compile(r"(\d+)"), "a dimension")[1]))
        if not line.take(",") and not line.text.startswith(right, line.pos):
            line.fail(f"expected ',' or '{right}'")
    return tuple(found)


def _type(line: _Line) -> Type:
    dtype = line.word()
    if dtype not in ("f32", "f64"):
        line.fail("expected a type such as f32[10,N] before this")
    dims = tuple(d for d in _dims(line, "[", "]") if d is not None)
    return Type(dtype, dims)


def _guard(line: _Line) -> Guard:
    if line.take("!"):
        return Guard("not", (_guard(line),))
    if not line.take("("):
        quoted = line.peek(_TEXT)
        word = line.word()
        return ALWAYS if word == "true" and not quoted else Guard("cond", (word,))
    args = [_guard(line)]
    marks = {"&&": "and", "||": "or"}
    mark = line.text[line.pos : line.pos + 2]
    if mark not in marks:
        line.fail("expected '&&' or '||'")
    while line.take(mark):
        args.append(_guard(line))
    line.want(")")
    return Guard(marks[mark], tuple(args))


def _value(line: _Line) -> Value:
    if line.peek(_NUMBER):
        text = line.match(_NUMBER, "a number")[1]
        return int(text) if text.lstrip("-").isdigit() else float(text)
    if line.take(":"):
        return Symbol(line.word())
    if line.peek(_TEXT):
        return line.string()
    if line.take("("):
        items = []
        while not line.take(")"):
            items.append(_value(line))
            if not line.take(",") and not line.text.startswith(")", line.pos):
                line.fail("expected ',' or ')'")
        return tuple(items)
    word = line.word()
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    return _call(line, word)


def _call(line: _Line, word: str) -> Value:
    """`Array(dims, [elements])`, `Range(start, stop)`, or a filler."""
    line.want("(")
    if word == "Array":
        dims = _value(line)
        line.want(",")
        array = _array(line, dims)
        line.want(")")
        return array
    arguments = []
    while not line.take(")"):
        arguments.append(_value(line))
        if not line.take(",") and not line.text.startswith(")", line.pos):
            line.fail("expected ',' or ')'")
    maker = Range if word == "Range" else FILLERS.get(word)
    if maker is None:
        line.fail(f"there is no value {word}(…)")
    try:
        return maker(*arguments)  # type: ignore[arg-type]
    except TypeError:
        line.fail(f"wrong number of values before this for {word}(…)")


def _array(line: _Line, dims: Value) -> Array:
    if not isinstance(dims, tuple):
        line.fail("expected an array's dims before this")
    sizes = tuple(d for d in dims if isinstance(d, int))
    if line.peek(_TEXT):
        try:
            return Array(sizes, bytes.fromhex(line.string()))
        except ValueError:
            line.fail("expected hexadecimal digits before this")
    elements = []
    line.want("[")
    while not line.take("]"):
        elements.append(float(line.match(_NUMBER, "a number")[1]))
        if not line.take(",") and not line.text.startswith("]", line.pos):
            line.fail("expected ',' or ']'")
    return Array.of(sizes, elements)
