"""The command `knetc`: arguments, files and exit codes. Everything else is `driver.py`'s.

Exit codes: 0 success, 1 the source has errors, 2 the command line is wrong, 3 the environment lacks something.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from knetc import __version__, driver, log
from knetc.errors import Diagnostic, KnetEnvironmentError, KnetError, KnetInternalError, Source
from knetc.ir.types import N, PartialDims
from knetc.options import Options
from knetc.record import replace

if TYPE_CHECKING:
    from knetc.ir.program import Program
    from knetc.values import Value

ENDINGS = {
    "cu": ".cu",
    "cpp": ".cpp",
    "header": ".h",
    "cpp-header": ".h",
    "ast": ".ast",
    "ir": ".ir",
    "ir-opt": ".opt.ir",
    "plan": ".plan",
}
ENDINGS |= {"dot": ".dot", "svg": ".svg"}
DIRECTIVE = "# knetc:"


class UsageError(Exception):
    """The command line is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    if argv is None:  # one compilation, then the process ends: collecting cycles would only cost time
        gc.disable()
    args = sys.argv[1:] if argv is None else list(argv)
    color = _wants_color(args)
    try:
        return _run(args)
    except UsageError as error:
        print(f"knetc: {error}\nTry 'knetc --help'.", file=sys.stderr)
        return 2
    except KnetEnvironmentError as error:
        print(error.render(color), file=sys.stderr)
        return 3
    except KnetError as error:
        print(error.render(color), file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if "KNETC_DEBUG" in os.environ:
            raise
        report = KnetInternalError(f"{type(error).__name__}: {error} (set KNETC_DEBUG=1 for the traceback)")
        print(report.render(color), file=sys.stderr)
        return 1


def _run(argv: list[str]) -> int:
    if argv == ["doctor"]:
        from knetc.doctor import run

        return run()
    args = _parser().parse_args(argv)
    if args.verbose:
        log.show()
    source = _read(args.source)
    args = _with_directives(source, argv, args)
    _check_output(args)
    if args.build and args.emit not in ("cu", "cpp"):
        raise UsageError(_BUILDS)
    keywords = dict(_keyword(text) for text in args.D)
    warnings: list[Diagnostic] = []
    if args.emit == "ast":
        return _write(args, _show_ast(source))
    program = driver.lower(source, args.model, keywords, warnings)
    for warning in warnings if not args.quiet else ():
        print(warning.render(_wants_color(argv)), file=sys.stderr)
    if args.emit == "ir":
        return _write(args, _show(program))
    observer = Observer(args.print_after, args.time_passes)
    options = Options(
        inputs=_inputs(program, args.input),
        dtype=args.dtype,
        level=args.level,
        math=args.math,
        arch=args.arch,
        prefix=args.prefix or "",
        observers=(observer,),
    )
    program = driver.optimise(program, options, stop_after="state")
    if args.emit in ("dot", "svg"):
        program = driver.optimise(program, options, stop_after="shapes")
        observer.finish()
        return _write(args, driver.draw(program, args.emit))
    # A step of a sequence may have no gradient of its output at all: then the backward pass starts from zero.
    zero = ("zero",) if program.states() else ()
    options = replace(options, losses=(*zero, args.loss or _default_loss(program)))
    program = driver.optimise(program, options)
    observer.finish()
    code = _write(args, _text(args.emit, program, options))
    if args.report:
        print(driver.report(program, options, "cpu" if args.emit.startswith("cpp") else "cuda"), file=sys.stderr)
    if args.build:
        _build(args, source)
    return code


def _text(kind: str, program: Program, options: Options) -> str:
    if kind == "cu":
        return driver.emit(program, options)
    if kind == "cpp":
        return driver.emit_cpp(program, options)
    if kind in ("header", "cpp-header"):
        return driver.emit_header(program, options, kind == "cpp-header")
    if kind == "plan":
        from knetc.codegen.report import show_plan

        return show_plan(program, options)
    return _show(program)


# --- arguments --------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


@cache
def _parser() -> _Parser:
    p = _Parser(
        prog="knetc",
        description="Compiles a Knet model to one readable file of CUDA C++, or of C++ (--emit cpp).",
        epilog="'knetc doctor' says what of the machine knetc found, and how to get what is missing. "
        "A line '# knetc: OPTIONS' in the source gives default options, such as '# knetc: --input 28,28,1,N'.",
        allow_abbrev=False,
    )
    p.add_argument("source", metavar="FILE", help="a .knet file, or a .jl file's @knet functions; - is standard input")
    p.add_argument("-o", metavar="FILE", dest="output", help="where to write; - is standard output")
    p.add_argument("--model", metavar="NAME", help="the definition to compile (default: the file's last)")
    p.add_argument("-D", metavar="KEY=VALUE", action="append", default=[], help="a compile-time keyword argument")
    p.add_argument("--input", metavar="DIMS", action="append", default=[], help="an input's shape: 28,28,1,N or x=13,N")
    p.add_argument("--loss", choices=["quadloss", "softloss", "none"], help="where the backward pass starts")
    p.add_argument("--dtype", choices=["f32", "f64"], default="f32", help="element type")
    p.add_argument("--math", choices=["fp32", "tf32"], default="fp32", help="matrix units: full precision or TF32")
    p.add_argument("--prefix", metavar="NAME", type=_prefix, help="what C names begin with (default: the model)")
    p.add_argument("--arch", metavar="sm_NN", type=_architecture, default="sm_90", help="GPU architecture for --build")
    p.add_argument("--emit", choices=list(ENDINGS), default="cu", help="what to write")
    for level in (0, 1, 2):
        text = ("no optimisation", "the safe ones", "everything (default)")[level]
        p.add_argument(f"-O{level}", dest="level", action="store_const", const=level, default=2, help=text)
    p.add_argument("--print-after", metavar="PASS", help="print the IR after a pass, or after all")
    p.add_argument("--time-passes", action="store_true", help="time per pass")
    p.add_argument("--report", action="store_true", help="a table of kernels, buffers and peak memory")
    p.add_argument("--build", action="store_true", help="also build the shared library, with nvcc or the C++ compiler")
    p.add_argument(
        "-v", "--verbose", action="store_true", help="show the commands that are run, and what was built before"
    )
    p.add_argument("-q", "--quiet", action="store_true", help="no warnings")
    p.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="colours in messages")
    p.add_argument("--version", action="version", version=f"knetc {__version__}")
    return p


def _wants_color(argv: Sequence[str]) -> bool:
    """Read before the arguments are parsed, since their own errors are shown too."""
    choice = "auto"
    for i, a in enumerate(argv):
        if a == "--color" and i + 1 < len(argv):
            choice = argv[i + 1]
        elif a.startswith("--color="):
            choice = a.split("=", 1)[1]
    return choice == "always" or (choice == "auto" and sys.stderr.isatty() and "NO_COLOR" not in os.environ)


def _with_directives(source: Source, argv: list[str], given: argparse.Namespace) -> argparse.Namespace:
    """The arguments again, after the defaults that the source's `# knetc:` lines give; the command line wins."""
    defaults: list[str] = []
    for number, line in enumerate(source.text.split("\n"), 1):
        if line.startswith(DIRECTIVE):
            try:
                words = shlex.split(line[len(DIRECTIVE) :])
                _directive_parser().parse_args(words)
            except (ValueError, UsageError) as error:
                raise UsageError(f"{source.name}:{number}: in the line '{DIRECTIVE}': {error}") from None
            defaults += words
    if given.input:  # shapes are a list: the command line's replaces the file's
        defaults = _without_inputs(defaults)
    return _parser().parse_args(defaults + argv) if defaults else given


def _directive_parser() -> _Parser:
    p = _Parser(allow_abbrev=False, add_help=False)
    p.add_argument("--input", action="append")
    p.add_argument("--loss", choices=["quadloss", "softloss", "none"])
    p.add_argument("--model")
    p.add_argument("-D", action="append")
    return p


def _without_inputs(words: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word.startswith("--input="):
            skip = False
        elif word == "--input":
            skip = True
        else:
            kept.append(word)
    return kept


def _keyword(text: str) -> tuple[str, Value]:
    from knetc.frontend.lower import parse_expression

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"-D wants KEY=VALUE, not '{text}'")
    try:
        return name.strip(), parse_expression(value)
    except KnetError as error:
        raise UsageError(f"-D {text}: {error.diagnostics[0].message}") from None


def _inputs(program: Program, texts: Sequence[str]) -> tuple[PartialDims | None, ...]:
    """The shapes of the program's inputs from `--input`, by position or by name."""
    names = [i.name for i in program.inputs]
    dims: dict[str, PartialDims] = {}
    position = 0
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals:
            if position >= len(names):
                raise UsageError(f"--input given {position + 1} times, but {program.name} has {len(names)} input(s)")
            name = names[position]
            position += 1
        elif name not in names:
            raise UsageError(f"--input {text}: {program.name} has no input '{name}'; its inputs are {', '.join(names)}")
        if name in dims:
            raise UsageError(f"--input {text}: the shape of input {name} is given twice")
        dims[name] = _dims(value)
    if dims and len(dims) == len(names) and not any(N in shape for shape in dims.values()):
        raise UsageError(f"--input {texts[0]}: no input has N, the batch, as its last dimension, such as 28,28,1,N")
    return tuple(dims.get(name) for name in names)


def _dims(text: str) -> PartialDims:
    dims: list[int | object] = []
    for word in text.split(","):
        if word.strip() == "N":
            dims.append(N)
        elif word.strip().isdecimal() and int(word) > 0:
            dims.append(int(word))
        else:
            raise UsageError(f"--input {text}: dims are positive numbers and N for the batch, such as 28,28,1,N")
    if N in dims[:-1]:
        raise UsageError(f"--input {text}: N, the batch, can only be the last dimension")
    return tuple(dims)  # type: ignore[arg-type]


def _default_loss(program: Program) -> str:
    """softloss where what the model returns is a `soft` (in `ssa` form each value is defined once), else quadloss."""
    for variant in program.variants:
        if variant.result is not None:
            made = {i.out: i.op for i in variant.forward}
            return "softloss" if made.get(variant.result) == "soft" else "quadloss"
    return "quadloss"


# --- files and reports ------------------------------------------------------------------------------------------------


def _read(path: str) -> Source:
    from knetc.frontend.parser import read_source

    return read_source(path)


def _architecture(text: str) -> str:
    if not re.fullmatch(r"sm_[1-9][0-9]+[af]?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no architecture such as sm_90")
    return text


def _prefix(text: str) -> str:
    from knetc.codegen.names import PREFIXES_IN_USE

    if not re.fullmatch(r"[A-Za-z](_?[A-Za-z0-9])*", text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot begin a name of C, as lenet does in lenet_forward")
    if text in PREFIXES_IN_USE:
        raise argparse.ArgumentTypeError(f"the emitted file itself uses names that begin with {text}_")
    return text


def _write(args: argparse.Namespace, text: str) -> int:
    """Writes the whole output or nothing: beside its place, then renamed."""
    path = args.output or _default_output(args)
    if path == "-":
        sys.stdout.write(text)
        return 0
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # /dev/null, a pipe
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            return 0
        from knetc.files import replacing

        with replacing(path) as beside, open(beside, "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
    except OSError as error:
        raise KnetEnvironmentError(f"cannot write {path}: {error.strerror}") from None
    return 0


def _check_output(args: argparse.Namespace) -> None:
    """Raises UsageError where the output would take the place of the source."""
    path = args.output or _default_output(args)
    if os.path.isfile(path) and os.path.isfile(args.source) and os.path.samefile(path, args.source):
        raise UsageError(f"-o {path}: the output would take the place of the source")


def _default_output(args: argparse.Namespace) -> str:
    if args.source == "-":
        return "-"
    return os.path.splitext(str(args.source))[0] + ENDINGS[args.emit]


def _show(program: Program) -> str:
    from knetc.ir.printer import print_program

    return print_program(program)


def _show_ast(source: Source) -> str:
    from knetc.frontend.ast import show
    from knetc.frontend.parser import parse

    return show(parse(source))


class Observer:
    """Prints the IR after passes and the time each took, on standard error."""

    def __init__(self, print_after: str | None, timed: bool) -> None:
        from knetc.ir.pipeline import PIPELINE

        names = [p.name for p in PIPELINE]
        if print_after not in (None, "all", *names):
            raise UsageError(f"--print-after: no pass '{print_after}'; the passes are {', '.join(names)}, or all")
        self._wanted = print_after
        self._timed = timed
        self._times: list[tuple[str, float]] = []
        self._start = time.perf_counter()

    def before(self, name: str, program: Program) -> None:
        """Called before a pass."""

    def after(self, name: str, program: Program, seconds: float) -> None:
        """Called after a pass and its verification."""
        self._times.append((name, seconds))
        if self._wanted in (name, "all"):
            print(f"# after {name}\n{_show(program)}", file=sys.stderr)

    def finish(self) -> None:
        """Prints the times."""
        if self._timed:
            for name, seconds in self._times:
                print(f"{name:12} {1e3 * seconds:9.2f} ms", file=sys.stderr)


_BUILDS = "--build wants --emit cu or cpp and an output file"


def _build(args: argparse.Namespace, source: Source) -> None:
    path = args.output or _default_output(args)
    if path == "-" or not os.path.isfile(path):
        raise UsageError(_BUILDS)
    library = os.path.splitext(path)[0] + ".so"
    if args.emit == "cpp":
        from knetc.runtime.cpu import build_file

        build_file(path, library)
    else:
        from knetc.runtime.build import build_with_nvcc

        build_with_nvcc(path, library, args.arch)


if __name__ == "__main__":
    sys.exit(main())
