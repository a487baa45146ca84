"""A launcher that starts processes and sets variables, and no more: `python variables.py 4 PROGRAM ARGUMENT...`.

It ends when all processes have. Where one fails it leaves the others some seconds to end by themselves, says who has
not, and ends them, as launchers do.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

GRACE = 10.0


def free_port() -> int:
    """A port that nobody has, now, and that no connection is given by chance."""
    for port in range(20000 + os.getpid() * 101 % 9000, 32000):
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise OSError("no port is free")


def stopped(pid: int) -> bool:
    """Whether a process does nothing any more by itself."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def main() -> None:
    ranks, *words = sys.argv[1:]
    shared = os.environ | {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    running = {}
    for rank in range(int(ranks)):
        variables = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        running[rank] = subprocess.Popen([sys.executable, *words], env=variables)
    failed, until = False, float("inf")
    while running:
        for rank in [r for r, p in running.items() if p.poll() is not None]:
            code = running.pop(rank).returncode
            if code:
                print(f"rank {rank} has ended with {code}", file=sys.stderr)
                failed, until = True, min(until, time.monotonic() + GRACE)
        if time.monotonic() > until or (failed and all(stopped(p.pid) for p in running.values())):
            for rank, process in running.items():
                print(f"rank {rank} did not end", file=sys.stderr)
                process.kill()
            until = float("inf")
        time.sleep(0.01)
    sys.exit(failed)


if __name__ == "__main__":
    main()
