"""The wheel holds everything: installed away from the checkout, the command gives the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_command_from_an_installed_wheel(tmp_path: Path) -> None:
    run = lambda *args, **kw: subprocess.run(args, check=True, capture_output=True, text=True, **kw)  # noqa: E731
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("knetc-*.whl")
    site = tmp_path / "site"
    run(*pip, "install", "--no-deps", "--no-index", "-q", "--target", str(site), str(wheel))
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = run(sys.executable, "-c", "import knetc; print(knetc.__file__)", env=env, cwd=tmp_path).stdout
    assert where.startswith(str(site))
    lenet = str(ROOT / "examples" / "lenet.knet")
    installed = run(sys.executable, str(site / "bin" / "knetc"), lenet, "-o", "-", env=env, cwd=tmp_path).stdout
    checkout = run(sys.executable, "-m", "knetc.cli", lenet, "-o", "-", cwd=ROOT).stdout
    assert installed == checkout
    assert "lenet_forward" in installed
