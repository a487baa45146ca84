"""Building the emulation library and files against it: the cache, a compiler that is missing, code that is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emulation.conftest import HERE, run_python
from knetc.errors import KnetEnvironmentError, KnetInternalError
from knetc.runtime import build, emulation
from knetc.runtime.emulation.build import _key


def test_second_build_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is there, nothing is compiled: the same path, and no compiler is called."""
    path = emulation.build_library()

    def refuse(*_: object) -> None:
        raise AssertionError("the compiler was called")

    monkeypatch.setattr("knetc.runtime.emulation.build._run", refuse)
    assert emulation.build_library() == path
    assert emulation.fingerprint() == str(path)


def test_key_follows_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another option or another processor is another library; a package at another path is the same one."""
    command = [emulation.find_compiler(), "-O3", "-I/somewhere"]
    key = _key(command)
    assert _key([command[0], "-O3", "-I/elsewhere"]) == key
    assert _key([command[0], "-O2", "-I/somewhere"]) != key
    monkeypatch.setattr("knetc.runtime.build.processor", lambda: "another")
    assert _key(command) != key


def test_two_processes_build_once(tmp_path: Path) -> None:
    """Started together with an empty cache and a slow compiler, they end with one library, compiled once."""
    log, sources = tmp_path / "log", tmp_path / "src"
    sources.mkdir()
    (sources / "one.cpp").write_text("static int one;\nint* knetemu_one = &one;\n")
    compiler = tmp_path / "slow-compiler"
    real = emulation.find_compiler()
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {log}\nsleep 0.2\nexec {real} "$@"\n')
    compiler.chmod(0o755)
    script = (
        "import sys; from pathlib import Path; from knetc.runtime.emulation import build as b\n"
        "b._key = lambda command: 'same'\n"
        f"b._HERE = Path({str(tmp_path)!r})\n"
        "print(b.build_library())\n"
    )
    environment = {**os.environ, "KNETC_CACHE": str(tmp_path / "cache"), "CXX": str(compiler)}
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0] == said[1] == f"{tmp_path}/cache/libknetemu-same.so\n"
    assert len([line for line in log.read_text().splitlines() if " -c " in line]) == 1
    left = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert left == ["libknetemu-same.so", "libknetemu-same.so.lock"]


def test_wrong_code(tmp_path: Path) -> None:
    """What the compiler refuses is a fault of knetc, with the compiler's words; nothing is left behind."""
    source = tmp_path / "wrong.cu"
    source.write_text("int f() { return nothing; }\n")
    with pytest.raises(KnetInternalError, match=r"wrong\.cu.*\n?.*'?.?nothing.? was not declared|undeclared"):
        emulation.compile_shared(source, tmp_path / "wrong.so")
    assert not (tmp_path / "wrong.so").exists()


@pytest.mark.parametrize(
    "text,message",
    [
        ("__shared__ float x[4];", "KNET_SHARED or KNET_DYN_SHARED"),
        ("__constant__ float x[4];", "constant memory is not emulated"),
    ],
)
def test_what_is_not_emulated(tmp_path: Path, text: str, message: str) -> None:
    """A plain __shared__ would be shared by all blocks, and __constant__ has no copy functions: both are refused."""
    source = tmp_path / "plain.cu"
    source.write_text(f'#include "launch.h"\n{text}\n')
    with pytest.raises(KnetInternalError, match=message):
        emulation.compile_shared(source, tmp_path / "plain.so", extra=[f"-I{HERE}"])


def test_defines_and_command(tmp_path: Path) -> None:
    """`extra` reaches the compiler, and the command that ran is returned."""
    source = tmp_path / "value.cu"
    source.write_text('extern "C" int value() { return VALUE; }\n')
    command = emulation.compile_shared(source, tmp_path / "value.so", extra=["-DVALUE=42"])
    assert command[0] == emulation.find_compiler() and "-DVALUE=42" in command and str(source) in command
    script = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).value())"
    assert run_python(["-c", script, str(tmp_path / "value.so")]).stdout == "42\n"


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error says how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    build.cxx.cache_clear()
    try:
        with pytest.raises(KnetEnvironmentError, match=r"no C\+\+ compiler was found: install g\+\+"):
            emulation.find_compiler()
    finally:
        build.cxx.cache_clear()


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than under Linux, an error that says so."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(KnetEnvironmentError, match="under Linux only, this is darwin"):
        emulation.find_compiler()


def test_unknown_sanitizer(tmp_path: Path) -> None:
    with pytest.raises(KnetInternalError, match="no sanitizer 'memory'"):
        emulation.compile_shared(tmp_path / "any.cu", tmp_path / "any.so", sanitize="memory")


@pytest.mark.deep
def test_library_under_sanitizers() -> None:
    """The look-alikes themselves, instrumented: their tests find no fault in them."""
    library = emulation.build_library("address,undefined")
    tests = [str(HERE / f"test_emulation_{part}.py") for part in ("blas", "convolution", "pooling", "runtime")]
    script = (
        "import pathlib, sys, pytest; from knetc.runtime import emulation\n"
        f"emulation.build_library = lambda: pathlib.Path({str(library)!r})\n"
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *{tests!r}]))"
    )
    done = run_python(["-c", script], "address,undefined")
    assert done.returncode == 0, done.stdout + done.stderr
