"""`knetc.data`: where files are looked for and downloaded from, what is refused, and the arrays that come of them.

Files are small ones in place of the real, served by a server on this machine.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import knetc
from knetc import cache, data
from knetc.record import replace

TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"


class Server(http.server.ThreadingHTTPServer):
    """Serves `pages` by path, an integer being an error's number; `asked` are the paths asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, bytes | int] = {}
        self.asked: list[str] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        page = self.server.pages.get(name, 404)
        if isinstance(page, int):
            self.send_error(page)
            return
        short = name.startswith("short")
        self.send_response(200)
        self.send_header("Content-Length", str(len(page) + 100 * short))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Server()
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """The folder that KNETC_DATA will name, which it does not yet, and the cache's."""
    monkeypatch.delenv(data.FOLDER, raising=False)
    monkeypatch.setenv("KNETC_CACHE", str(tmp_path / "cache"))
    cache.cache_folder.cache_clear()
    (tmp_path / "named" / "tinyshakespeare").mkdir(parents=True)
    yield tmp_path / "named", tmp_path / "cache" / "data"
    cache.cache_folder.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, server: Server, *names: str) -> None:
    """Makes TEXT the Shakespeare, public under `names` of the server."""
    sums = (hashlib.sha256(TEXT).hexdigest(),)
    urls = tuple(server.url(name) for name in names)
    monkeypatch.setattr(data, "SHAKESPEARE", replace(data.SHAKESPEARE, size=len(TEXT), sums=sums, urls=urls))


def test_the_named_folder_comes_first_then_the_cache_then_the_public_source(
    folders: tuple[Path, Path], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, cached = folders
    pretend(monkeypatch, server, "text")
    server.pages["text"] = TEXT
    monkeypatch.setenv(data.FOLDER, str(named))
    assert knetc.data.shakespeare() == TEXT.decode()
    assert server.asked == ["text"] and (cached / "tinyshakespeare" / "input.txt").read_bytes() == TEXT
    assert data.shakespeare() == TEXT.decode() and len(server.asked) == 1  # from the cache
    (named / "tinyshakespeare" / "input.txt").write_bytes(TEXT)
    (cached / "tinyshakespeare" / "input.txt").unlink()
    assert data.shakespeare() == TEXT.decode() and len(server.asked) == 1  # from the folder
    assert not list(cached.rglob("*.*"))


def test_a_damaged_file_of_the_user_is_an_error(
    folders: tuple[Path, Path], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, _ = folders
    pretend(monkeypatch, server, "text")
    server.pages["text"] = TEXT
    monkeypatch.setenv(data.FOLDER, str(named))
    path = named / "tinyshakespeare" / "input.txt"
    for wrong, reason in ((b"x" + TEXT[1:], "its SHA-256 differs"), (gzip.compress(TEXT)[:-9], "cannot be unpacked")):
        path.write_bytes(wrong)
        with pytest.raises(knetc.KnetError, match=reason) as raised:
            data.shakespeare()
        assert str(path) in str(raised.value) and server.asked == []
    monkeypatch.setenv(data.FOLDER, str(path))
    with pytest.raises(knetc.KnetEnvironmentError, match="which is no folder"):
        data.shakespeare()


def test_a_damaged_file_of_the_cache_is_downloaded_anew(
    folders: tuple[Path, Path], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folders[1] / "tinyshakespeare" / "input.txt"
    pretend(monkeypatch, server, "text")
    server.pages["text"] = TEXT
    path.parent.mkdir(parents=True)
    path.write_bytes(TEXT[:-1])
    assert data.shakespeare() == TEXT.decode()
    assert path.read_bytes() == TEXT


def test_another_source_takes_over(folders: tuple[Path, Path], server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one that is not there, one that fails, another file, one that breaks off and one that packs a bomb."""
    pretend(monkeypatch, server, "none", "error", "other", "short", "bomb", "packed")
    bomb, packed = gzip.compress(bytes(10**7)), gzip.compress(TEXT)
    server.pages.update(error=500, other=b"<html>moved</html>", short=TEXT[:-1], bomb=bomb, packed=packed)
    assert data.shakespeare() == TEXT.decode()
    assert server.asked == ["none", "error", "other", "short", "bomb", "packed"]
    assert [p.name for p in folders[1].rglob("*.*")] == ["input.txt"]


def test_a_download_that_fails_says_why_and_what_to_do(
    folders: tuple[Path, Path], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, server, "none", "other")
    server.pages["other"] = TEXT + TEXT
    with pytest.raises(knetc.KnetEnvironmentError) as raised:
        data.shakespeare()
    message = str(raised.value)
    assert "tinyshakespeare/input.txt could not be downloaded" in message
    assert f"put {server.url('none')} into the folder that KNETC_DATA names, as tinyshakespeare/input.txt" in message
    assert "404" in message and f"{server.url('other')} is not the file that was expected" in message
    assert not list(folders[1].rglob("*.*"))


def test_without_pooch_the_way_to_get_it_is_said(
    folders: tuple[Path, Path], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, server, "text")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(knetc.KnetEnvironmentError, match=r"pip install 'knetc\[data\]'; or put"):
        data.shakespeare()


# --- the arrays -------------------------------------------------------------------------------------------------------


def test_mnist(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sets in the idx format, one packed and one not: pixels and digits at their places."""
    named, _ = folders
    monkeypatch.setenv(data.FOLDER, str(named))
    (named / "mnist").mkdir()
    rng = np.random.default_rng(0)
    sets = {}
    for name, count in (("train", 5), ("test", 3)):
        pixels, digits = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)
        heads = [np.array([2051, count, 28, 28], ">i4"), np.array([2049, count], ">i4")]
        contents = [head.tobytes() + a.tobytes() for head, a in zip(heads, (pixels, digits), strict=True)]
        files = []
        for file, content in zip(data.MNIST[name], contents, strict=True):
            files.append(replace(file, size=len(content), sums=(hashlib.sha256(content).hexdigest(),)))
            place = named / (file.name if name == "train" else file.name.removesuffix(".gz"))
            place.write_bytes(gzip.compress(content) if name == "train" else content)
        sets[name] = (pixels, digits, tuple(files))
    monkeypatch.setattr(data, "MNIST", {name: files for name, (*_, files) in sets.items()})

    xtrn, ytrn, xtst, ytst = data.mnist()
    *_, labels = data.mnist(onehot=False)
    np.testing.assert_array_equal(labels, sets["test"][1])
    for x, y, (pixels, digits, _) in ((xtrn, ytrn, sets["train"]), (xtst, ytst, sets["test"])):
        assert x.shape == (28, 28, 1, len(pixels)) and x.dtype == y.dtype == np.float32
        assert x.flags.f_contiguous and y.flags.f_contiguous and y.shape == (10, len(pixels))
        for n, (image, digit) in enumerate(zip(pixels, digits, strict=True)):
            assert x[3, 7, 0, n] == np.float32(image[7, 3]) / 255  # the first dimension runs along a row
            np.testing.assert_array_equal(x[:, :, 0, n], image.T.astype(np.float32) / 255)
            assert y[digit, n] == 1 and y[:, n].sum() == 1


def test_housing(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row normalised with the sample's standard deviation, as Julia's std; the last column kept as it is."""
    named, _ = folders
    monkeypatch.setenv(data.FOLDER, str(named))
    (named / "housing").mkdir()
    table = np.round(np.random.default_rng(0).standard_normal((506, 14)) * 10, 2)
    lines = "\n".join("  ".join(f"{v:.2f}" for v in row) for row in table).encode()
    sums = tuple(hashlib.sha256(text).hexdigest() for text in (lines, lines + b"\n"))
    monkeypatch.setattr(data, "HOUSING", replace(data.HOUSING, size=len(lines) + 1, sums=sums))
    for content in (lines, lines + b"\n"):  # the public file ends in a newline, a copy of it may not
        (named / "housing" / "housing.data").write_bytes(content)
        x, y = data.housing()
        assert (x.shape, y.shape, x.dtype, y.dtype) == ((13, 506), (1, 506), np.float32, np.float32)
        np.testing.assert_array_equal(y[0], table[:, 13].astype(np.float32))
        np.testing.assert_allclose(x.mean(axis=1), 0, atol=1e-6)
        np.testing.assert_allclose(x.std(axis=1, ddof=1), 1, rtol=1e-6)
        assert np.corrcoef(x[4], table[:, 4])[0, 1] > 0.999999


def test_split() -> None:
    x, y = np.arange(20.0).reshape(2, 10), np.arange(10.0)
    xtrn, ytrn, xtst, ytst = data.split(x, y, 7, seed=3)
    assert xtrn.shape == (2, 7) and xtst.shape == (2, 3)
    assert sorted([*ytrn, *ytst]) == list(y) and list(ytrn) != list(y[:7])
    for xs, ys in ((xtrn, ytrn), (xtst, ytst)):
        np.testing.assert_array_equal(xs, x[:, ys.astype(int)])
        assert xs.flags.f_contiguous
    np.testing.assert_array_equal(data.split(x, y, 7, seed=3)[0], xtrn)
    for wrong, kind in (((x, y[:9], 7), knetc.KnetShapeError), ((x, y, 10), knetc.KnetShapeError)):
        with pytest.raises(kind):
            data.split(*wrong)
    with pytest.raises(knetc.KnetTypeError):
        data.split(x, y, 0)


@pytest.mark.skipif(not os.environ.get(data.FOLDER), reason="KNETC_DATA names no folder with the real data sets")
def test_the_real_data_sets() -> None:
    xtrn, ytrn, xtst, ytst = data.mnist()
    assert (xtrn.shape, ytrn.shape) == ((28, 28, 1, 60000), (10, 60000))
    assert (xtst.shape, ytst.shape) == ((28, 28, 1, 10000), (10, 10000))
    assert list(ytrn.argmax(axis=0)[:5]) == [5, 0, 4, 1, 9]
    x, y = data.housing()
    assert (x.shape, y.shape) == ((13, 506), (1, 506)) and list(y[0, :3]) == [24.0, np.float32(21.6), np.float32(34.7)]
    text = data.shakespeare()
    assert len(text) == 1_115_394 and len(set(text)) == 65


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    heavy = ["pooch", "requests", "h5py", "safetensors"]
    program = f"import sys, knetc.data, knetc.runtime.saving; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
