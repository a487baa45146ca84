"""How long compiling takes: the whole process for LeNet, and how time grows with the number of layers.

`python benchmarks/compile_time.py`. Prints medians; compare the last column, time per layer, down the table.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
DEEP = "@knet function deep(x; n=1)\n    h = repeat(x; frepeat=:wbf, nrepeat=n, out=16)\n    return wb(h; out=1)\nend\n"


def seconds(arguments: list[str], runs: int) -> list[float]:
    """Wall seconds of `runs` runs of the command, after one that fills the caches."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "knetc.cli", *arguments], check=True)
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    """Prints both tables."""
    lenet = seconds([str(EXAMPLES / "lenet.knet"), "-o", "/dev/null"], 11)
    print(f"knetc examples/lenet.knet -o /dev/null: median {statistics.median(lenet):.3f} s, least {min(lenet):.3f} s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep.knet"
        path.write_text(DEEP)
        print("layers   seconds   ms a layer")
        for n in (10, 100, 1000, 10000):
            arguments = [str(path), "-D", f"n={n}", "--input", "16,N", "-o", "/dev/null"]
            t = statistics.median(seconds(arguments, 1 if n > 1000 else 3))
            print(f"{n:6} {t:9.2f} {1e3 * t / n:12.3f}")


if __name__ == "__main__":
    main()
