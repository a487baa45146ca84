"""A file that is written takes the place of the old one whole, whatever stops the process that writes it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import knetc
from knetc.files import replacing


def test_the_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for text in ("old", "new"):
        with replacing(path) as beside:
            Path(beside).write_text(text)
        assert path.read_text() == text and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    for written in ("", "half"):
        with pytest.raises(ZeroDivisionError), replacing(path) as beside:
            if written:
                Path(beside).write_text(written)
            raise ZeroDivisionError
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_the_mode_is_that_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "a", tmp_path / "link"
    link.symlink_to(target)
    before = os.umask(0o027)
    try:
        with replacing(link) as beside:
            Path(beside).write_text("new")
    finally:
        os.umask(before)
    assert link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file"), replacing(place):
            raise AssertionError("the block must not run")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# --- a process that is killed -----------------------------------------------------------------------------------------

# Forks a child for every call, of Python or C, in one save, and kills it there.
EVERY_CALL = """
import os, signal, sys
import numpy as np
import knetc
path = sys.argv[1]
values = {"before": 1, "table": np.arange(1000.0)}
knetc.save(path, **values)
old = open(path, "rb").read()
values["before"] = 2
knetc.save(path + ".new", **values)  # imports everything
new = open(path + ".new", "rb").read()
seen = {old: 0, new: 0}
moment = 0
while True:
    open(path, "wb").write(old)
    child = os.fork()
    if not child:
        left = moment
        def count(frame, event, argument):
            global left
            if event in ("call", "c_call"):
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
        sys.setprofile(count)
        knetc.save(path, **values)
        sys.setprofile(None)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    found = open(path, "rb").read()
    assert found in seen, f"at call {moment} the file is neither the old one nor the new one"
    assert knetc.load(path, "before") in (1, 2)
    seen[found] += 1
    if status == 0:
        assert found == new
        break
    moment += 1
print(*seen.values())
"""


def test_a_save_killed_at_every_call_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_CALL, str(tmp_path / "a.h5")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    old, new = map(int, done.stdout.split())
    assert old > 100 and new > 3  # most of the work comes before the step that replaces the file, some after


FOR_EVER = """
import sys
import numpy as np
import knetc
path, number = sys.argv[1], 0
while True:
    number += 1
    knetc.save(path, number=number, table=np.full(300_000, float(number)))
    print(number, flush=True)
"""


def test_a_save_killed_at_many_moments_leaves_a_whole_file(tmp_path: Path) -> None:
    """Killed from outside, within system calls too: what is loaded is a number and its table, from one save."""
    path = tmp_path / "a.h5"
    numbers = []
    for moment in range(12):
        child = subprocess.Popen([sys.executable, "-c", FOR_EVER, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()  # one save is done
        time.sleep(0.003 * moment)
        child.send_signal(signal.SIGKILL)
        last = int(([0, *child.stdout.read().split()])[-1])
        child.wait()
        found = knetc.load(path)
        assert found["number"] >= max(last, 1) and (found["table"] == found["number"]).all()
        numbers.append(found["number"])
    assert max(numbers) > 1


FULL = """
import resource, signal, sys
import numpy as np
import knetc
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    knetc.save(sys.argv[1], table=np.zeros(20_000))
except knetc.KnetError as error:
    print(error)
knetc.save(sys.argv[1] + ".small", x=1)
"""


@pytest.mark.parametrize("limit", [10_000, 160_000])
def test_a_file_that_does_not_fit_on_the_disk(limit: int, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    knetc.save(path, table=np.ones(3))
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(limit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be written: File too large" in done.stdout
    np.testing.assert_array_equal(knetc.load(path, "table"), np.ones(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "a.h5.small"]
