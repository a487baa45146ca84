"""What the tests of the generator share: programs of single operators, emitted code beside the interpreter."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from knetc import driver
from knetc.codegen.emit import include, without_unused
from knetc.errors import Source
from knetc.ir.program import Input, Instr, Program, Variant, make_attrs
from knetc.ir.types import N, Partial, Type
from knetc.ops import registry
from knetc.options import Options
from knetc.runtime import build
from knetc.runtime.cpu import CpuExecutable, blas_options
from knetc.runtime.emulated import EmulatedExecutable
from knetc.runtime.interp import Interpreter
from knetc.runtime.library import Library

ROOT = Path(__file__).parents[3]
NONE: frozenset[str] = frozenset()
NUMPY = {"f32": np.float32, "f64": np.float64}


@dataclass(frozen=True)
class Case:
    """One operator on operands of given dims; `out` where the operands do not decide the result's dims."""

    op: str
    dims: tuple = ()
    attrs: dict = field(default_factory=dict)
    out: tuple | None = None

    @property
    def id(self) -> str:
        shapes = "_".join("x".join(map(repr, d)) for d in self.dims)
        return f"{self.op}-{shapes}-{'-'.join(f'{k}={v}' for k, v in self.attrs.items())}"


def attributes(case: Case) -> dict:
    """All keywords, defaults filled in."""
    return {k: case.attrs.get(k, v.default) for k, v in registry()[case.op].keywords.items()}


def result_dims(case: Case) -> tuple:
    if case.out is not None:
        return case.out
    args, out = registry()[case.op].shape(tuple(Partial(d) for d in case.dims), Partial(), attributes(case), True)
    assert out.dims is not None and None not in out.dims, case
    return out.dims


def program_of(cases: list[Case], dtype: str) -> Program:
    """One program whose variables are the results of all cases, each on inputs of its own."""
    inputs, forward, names = [Input("batch", (1, N))], [], []
    for k, case in enumerate(cases):
        args = [f"in{k}_{j}" for j in range(len(case.dims))]
        inputs += [Input(a, d) for a, d in zip(args, case.dims, strict=True)]
        attrs = attributes(case)
        if "stream" in attrs:
            attrs["stream"] = k
        forward.append(Instr(f"v{k}", case.op, tuple(args), make_attrs(**attrs), Type(dtype, result_dims(case))))
        names.append((f"v{k}", f"v{k}"))
    variant = Variant((NONE,), tuple(forward), None, tuple(names))
    return Program("cases", "training", tuple(inputs), (), (variant,), dtype)


def data_for(cases: list[Case], dtype: str, batch: int, seed: int = 0) -> list[np.ndarray]:
    """Inputs for `program_of`: few distinct values, so that maxima tie; never 0, so that powers are defined."""
    r = np.random.default_rng(seed)
    arrays = [np.ones((1, batch))]
    for case in cases:
        for d in case.dims:
            shape = tuple(batch if n is N else n for n in d)
            positive = case.op in ("axpb", "axpb_back")
            x = r.integers(1, 9, shape) / 4 if positive else (r.integers(0, 8, shape) - 3.5) / 3
            arrays.append(x)
    return [np.asfortranarray(a, NUMPY[dtype]) for a in arrays]


def close(got: np.ndarray, want: np.ndarray, dtype: str, terms: int = 1) -> None:
    """Agreement of the back ends: 1.3e-6 relative, 1e-5 absolute in float32; sums may differ as their length grows."""
    assert got.shape == want.shape and got.dtype == want.dtype
    scale = 1.0 if dtype == "f32" else 1e-8
    growth = max(1.0, np.sqrt(terms) / 4)
    np.testing.assert_allclose(got, want, rtol=1.3e-6 * scale * growth, atol=1e-5 * scale * growth)


def compiled(
    path: Path | str, model: str | None = None, losses=("none", "quadloss", "softloss"), inputs=(), level=2, **keywords
):
    """A training program of a file of `examples`, or of a source text, with its options."""
    source = Source(path.name, path.read_text()) if isinstance(path, Path) else Source("test.knet", path)
    dtype = keywords.pop("dtype", "f32")
    options = Options(inputs=inputs, losses=losses, dtype=dtype, level=level)
    return driver.optimise(driver.lower(source, model, keywords), options), options


# What stands beside the interpreter; the fixture `target` chooses among them.
TARGETS = {"emulated": EmulatedExecutable, "cpu": CpuExecutable}
target = ["emulated"]


def make(program: Program, options: Options, seed: int = 0) -> Library:
    """The emitted code for the target."""
    return TARGETS[target[0]](program, options, seed)


def both(program: Program, options: Options, seed: int = 7) -> tuple[Library, Interpreter]:
    """The emitted code for the target, and the interpreter."""
    return make(program, options, seed), Interpreter(program, seed)


# --- helpers of emitted C++ -------------------------------------------------------------------------------------------

VECTORS = {
    "all": ["-march=native"],
    "avx2": ["-march=native", "-mno-avx512f"],
    "sse": ["-march=native", "-mno-avx", "-mno-fma"],
}
"""Flags for the vectors of this processor and, of an x86, for the shorter ones that it has too."""
_BYTES = {"avx2": 32, "sse": 16}


def run_helpers(folder: Path, pieces: Sequence[str], main: str, vectors: str, *more: str) -> str:
    """What a program says that is made of helpers of emitted C++ and of `main`, with so long vectors."""
    if vectors != "all" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("only an x86 has vectors of several lengths")
    lines = ["#include <vector>", *(include(f"cpu/include/knet_{name}.h") for name in pieces), main]
    if vectors in _BYTES:
        lines.append(f'static_assert(KNET_REGISTER_BYTES == {_BYTES[vectors]}, "the vectors that are asked for");')
    source, program = folder / "helpers.cpp", folder / "helpers"
    source.write_text(without_unused("\n".join(lines)))
    flags = [
        "-std=c++17",
        "-O2",
        "-Wall",
        "-Werror",
        *(VECTORS[vectors] if platform.machine() != "arm64" else []),
        *more,
    ]
    subprocess.run([build.cxx(), *flags, str(source), "-o", str(program), *blas_options()], check=True)
    return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
