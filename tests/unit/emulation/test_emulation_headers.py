"""Our declarations of CUDA, cuBLAS and cuDNN are NVIDIA's: the same signatures, values and layouts.

Where NVIDIA's headers are installed, a text generated from ours is compiled after theirs: a pointer to each function of
theirs is assigned to one of our type, each value and layout is asserted. The look-alikes are compiled against either
set, and a function without a declaration is an error.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emulation.conftest import HERE
from knetc.runtime import build, emulation

SOURCES = Path(emulation.__file__).parent / "src"
OURS = Path(emulation.__file__).parent / "include" / "cuda"
HEADERS = ["cuda_runtime.h", "cublas_v2.h", "cublasLt.h", "cudnn.h"]
STRUCTS = ["int2", "int3", "int4", "uint2", "uint3", "uint4", "float2", "float3", "float4", "double2", "dim3"]


ALGORITHM = {"algo": 0, "status": 4, "time": 8, "memory": 16, "determinism": 24, "mathType": 28, "size": 48}
MEMBERS = {
    "cudaPointerAttributes": {"type": 0, "device": 4, "devicePointer": 8, "hostPointer": 16, "size": 88},
    "cublasLtMatmulAlgo_t": {"data": 0, "size": 64},
    "cublasLtMatmulHeuristicResult_t": {"algo": 0, "workspaceSize": 64, "state": 72, "wavesCount": 76, "size": 96},
    **{f"cudnnConvolution{kind}AlgoPerf_t": ALGORITHM for kind in ("Fwd", "BwdData", "BwdFilter")},
}


def nvidia_includes() -> list[str]:
    """The folders of NVIDIA's headers; skips where one of them is missing."""
    folders = build.nvidia_folders("include")
    for header in HEADERS:
        if not any((folder / header).exists() for folder in folders):
            pytest.skip(f"NVIDIA's {header} is not installed")
    return [f"-isystem{folder}" for folder in folders]


def our_includes() -> list[str]:
    return [f"-I{OURS}"]


def compile_only(source: Path | str, includes: list[str]) -> str:
    """What the compiler says of a file, or of a text; "" where it is satisfied."""
    command = [emulation.find_compiler(), "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    command += ["-Wmissing-declarations", "-Wno-unknown-pragmas", "-Wno-deprecated-declarations"]
    command += [f"-I{SOURCES}", f"-I{OURS.parent}", *includes]
    text = None if isinstance(source, Path) else source
    command += ["-x", "c++", "-" if text is not None else str(source)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).stderr


def enumerators() -> list[tuple[str, str]]:
    """Every `name = value` of our headers' enumerations, and every macro that is a number or a handle."""
    found = []
    for header in HEADERS:
        text = (OURS / header).read_text()
        for body in re.findall(r"enum\b[^{;]*\{([^}]*)\}", text):
            found += re.findall(r"(\w+) = (\d+)", body)
        found += re.findall(r"#define (cuda(?:Stream|Event|Host)\w+) (0x\d+)", text)
    return found


def declarations() -> dict[str, str]:
    """Our functions: the declaration of each, without default arguments, by the name that the linker knows."""
    found = {}
    for header in HEADERS:
        for block in re.findall(r'^extern "C" \{\n(.*?)^\}', (OURS / header).read_text(), re.M | re.S):
            for text in re.sub(r"//.*", "", block).split(";")[:-1]:
                declaration = " ".join(text.replace(" = 0", "").split())
                name = re.match(r".*?\b((?:cuda|cublas|cudnn)\w+)\(", declaration)
                assert name, declaration
                found[name[1]] = declaration
    return found


def test_signatures() -> None:
    """Each function of ours is one of NVIDIA's, with the same parameters and result."""
    lines = [f"#include <{header}>" for header in HEADERS]
    lines += ['namespace ours { extern "C" {', *(f"{text};" for text in declarations().values()), "} }"]
    lines += [f"[[maybe_unused]] decltype(ours::{f})* const p_{f} = &::{f};" for f in declarations()]
    assert len(declarations()) > 80
    assert compile_only("\n".join(lines) + "\n", nvidia_includes()) == ""


@pytest.mark.deep
def test_look_alikes_compile() -> None:
    """Against NVIDIA's headers, without a warning, and every function has a declaration there.

    Against ours the library is built so (`build_library`).
    """
    includes = nvidia_includes()
    files = sorted(SOURCES.glob("*.cpp"))
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda path: compile_only(path, includes), files))
    assert dict(zip(files, said, strict=True)) == dict.fromkeys(files, "")


@pytest.mark.parametrize("name", ["suite.cu", "faults.cu"])
def test_emitted_style_compiles(name: str) -> None:
    """Files as they are emitted compile against NVIDIA's headers outside nvcc, too."""
    assert compile_only(HERE / name, [f"-I{HERE}", "-Wno-missing-declarations", *nvidia_includes()]) == ""


def test_values_and_layouts() -> None:
    """Each value, and the size, alignment and members of each vector, under both sets."""
    lines = [f"#include <{header}>" for header in HEADERS] + ["#include <stddef.h>"]
    assert len(enumerators()) > 90
    lines += [f'static_assert((long){name} == {value}, "{name}");' for name, value in enumerators()]
    sizes = {"int": 4, "uint": 4, "float": 4, "double": 8, "dim": 4}
    for struct in STRUCTS:
        kind, count = struct[:-1], int(struct[-1])
        align = sizes[kind] * count if count != 3 else sizes[kind]
        lines.append(f'static_assert(sizeof({struct}) == {sizes[kind] * count} && alignof({struct}) == {align}, "");')
        for i, member in enumerate("xyzw"[:count]):
            lines.append(f'static_assert(offsetof({struct}, {member}) == {i * sizes[kind]}, "");')
    for struct, members in MEMBERS.items():
        lines.append(f'static_assert(sizeof({struct}) == {members["size"]}, "");')
        lines += [f'static_assert(offsetof({struct}, {m}) == {at}, "");' for m, at in members.items() if m != "size"]
    text = "\n".join(lines) + "\n"
    assert compile_only(text, our_includes()) == ""
    assert compile_only(text, nvidia_includes()) == ""


@pytest.mark.parametrize(
    "text",
    [
        "cudaError_t cudaMemset(void*, int, int);",
        "int cudnnGetVersion();",
        "cudaError_t cudaFree(const void*);",
    ],
)
def test_a_wrong_signature_shows(text: str) -> None:
    """The method of `test_signatures` finds a wrong parameter and a wrong result."""
    include = '#include <cudnn.h>\n#include <cublas_v2.h>\nextern "C" '
    assert compile_only(f"{include}{text}\n", our_includes()) != ""


def test_every_declaration_is_defined() -> None:
    """The library exports each function that our headers declare."""
    library = ctypes.CDLL(str(emulation.build_library()))
    assert [name for name in declarations() if not hasattr(library, name)] == []
