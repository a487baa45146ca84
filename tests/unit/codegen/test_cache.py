"""The cache of built files: made once, whole or not at all, mended when damaged, shared by processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from knetc import cache
from knetc.codegen.emit import emit_cuda
from knetc.errors import KnetEnvironmentError, KnetError, KnetInternalError
from knetc.ir.types import N
from knetc.runtime import build

from .support import compiled


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KNETC_CACHE", str(tmp_path / "cache"))
    cache.cache_folder.cache_clear()
    yield tmp_path / "cache"
    cache.cache_folder.cache_clear()


def test_made_once_and_mended(folder):
    made = []

    def make(path):
        made.append(path)
        path.write_bytes(b"x" * 1000)

    first = cache.cached(("a", "b"), ".so", make)
    assert cache.cached(("a", "b"), ".so", make) == first and len(made) == 1
    assert cache.content(first) == b"x" * 1000
    assert cache.cached(("ab",), ".so", make) != first
    for damage in (first.read_bytes()[:500], b"", first.read_bytes().replace(b"x", b"y", 1)):
        first.write_bytes(damage)
        assert cache.content(first) is None
        assert cache.content(cache.cached(("a", "b"), ".so", make)) == b"x" * 1000


def test_the_log_says_what_was_done(folder, caplog):
    caplog.set_level("INFO", "knetc")

    def make(path):
        path.write_bytes(b"x")

    path = cache.cached(("k",), ".so", make, "host half")
    cache.cached(("k",), ".so", make, "host half")
    path.write_bytes(b"")
    cache.cached(("k",), ".so", make, "host half")
    cache.cached(("other",), ".tpl", make)  # has no name: nothing is said
    made, there, again = (record.getMessage() for record in caplog.records)
    assert made.startswith("host half: made in ") and made.endswith(str(path)) and "damaged" not in made
    assert there == f"host half: from the cache, {path}"
    assert "again, since the file in the cache was damaged" in again


def test_a_library_that_was_cut_short_is_made_again(folder):
    """Both the emulation library and an emitted one: cut to half they are built anew and run."""
    program, options = compiled("@knet function f(x)\n return relu(x)\nend", inputs=((4, N),))
    text = emit_cuda(program, options)
    script = (
        "import sys; from knetc.runtime.emulated import build_emulated; import ctypes\n"
        "path = build_emulated(open(sys.argv[1]).read()); ctypes.CDLL(str(path)); print(path)"
    )
    source = folder.parent / "f.cu"
    source.write_text(text)
    command = [sys.executable, "-c", script, str(source)]

    def run():
        done = subprocess.run(command, env={**os.environ, "KNETC_CACHE": str(folder)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run()
    libraries = sorted(folder.glob("*.so"))
    assert len(libraries) == 2
    for library in libraries:
        library.write_bytes(library.read_bytes()[: library.stat().st_size // 2])
    assert run() == first and sorted(folder.glob("*.so")) == libraries
    assert all(cache.content(library) is not None for library in libraries)


def test_a_failure_leaves_nothing(folder):
    def fail(path):
        path.write_bytes(b"half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.cached(("k",), ".so", fail)
    assert list(folder.iterdir()) == []


def test_several_processes_at_once(folder):
    script = (
        "import time, knetc.cache as c\n"
        "def make(p): p.write_bytes(b'a'); time.sleep(0.2); p.write_bytes(b'whole')\n"
        "print(c.content(c.cached(('k',), '.so', make)))"
    )
    env = {**os.environ, "KNETC_CACHE": str(folder)}
    command = [sys.executable, "-c", script]
    runs = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [r.communicate()[0] for r in runs] == ["b'whole'\n"] * 4
    assert len(list(folder.iterdir())) == 1


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KNETC_CACHE", str(tmp_path / "file"))
    cache.cache_folder.cache_clear()
    assert cache.cache_folder().is_dir()
    cache.cache_folder.cache_clear()


def test_missing_compilers_say_how_to_get_them(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build, "CUDA_HOMES", ())
    build.cxx.cache_clear()
    with pytest.raises(KnetEnvironmentError, match="install g"):
        build.cxx()
    with pytest.raises(KnetEnvironmentError, match="install the CUDA toolkit"):
        build.nvcc()
    monkeypatch.setattr(build, "nvidia_folders", lambda kind: [])
    with pytest.raises(KnetEnvironmentError, match="pip install nvidia-cudnn-cu13"):
        build.library("cudnn")
    with pytest.raises(KnetEnvironmentError, match="cannot run"):
        build.run(["/nowhere/compiler"])
    build.cxx.cache_clear()


def test_what_a_compiler_refuses_is_an_internal_error(tmp_path):
    (tmp_path / "bad.cpp").write_text("int main( {")
    with pytest.raises(KnetInternalError, match="refused emitted code"):
        build.run([build.cxx(), "-fsyntax-only", str(tmp_path / "bad.cpp")])


def test_an_architecture_that_nvcc_does_not_know_is_no_fault_of_knetc():
    words = "nvcc fatal   : Unsupported gpu architecture 'sm_10'"
    with pytest.raises(KnetError, match="sm_10': this nvcc does not know the architecture that --arch names") as found:
        build.run(["sh", "-c", f'echo "{words}" >&2; exit 1'])
    assert not isinstance(found.value, KnetInternalError)
    with pytest.raises(KnetInternalError, match="the compiler refused emitted code"):
        build.run(["sh", "-c", "echo error >&2; exit 1"])
