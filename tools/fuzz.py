"""Looks for faults of the compiler with random input; says what it ran, and each failure with its seed.

    python tools/fuzz.py models --count 500        # builds of random models, compared through random calls
    python tools/fuzz.py cpu --count 20            # the interpreter and emitted C++: 2 to 5 s a model, nearly all g++
    python tools/fuzz.py cuda --count 20           # the interpreter and emitted CUDA under emulation: as long
    python tools/fuzz.py gradients --count 200     # gradients against central differences
    python tools/fuzz.py mutations --count 10000   # mutated sources: code or an error of the user's, nothing else

Numbers `--seed` to `--seed + --count` are run, each by itself. `--seconds` ends a run early.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz.compare import check_emitted, check_gradients, check_model  # noqa: E402
from fuzz.mutate import corpus, mutated, outcome  # noqa: E402

LEVELS = (("numpy", 0), ("numpy", 2), ("numpy", 1))


def models(pick: random.Random) -> str:
    """One model on the interpreter, all levels."""
    return check_model(pick, LEVELS)[0]


def cpu(pick: random.Random) -> str:
    """One model as emitted C++."""
    return check_emitted(pick, "cpu")[0]


def cuda(pick: random.Random) -> str:
    """One model as emitted CUDA, emulated; the variables of the emulation say how."""
    return check_emitted(pick, "emulated")[0]


def gradients(pick: random.Random) -> str:
    """One model's gradients."""
    return check_gradients(pick)[0]


def mutations(pick: random.Random) -> str:
    """One mutated source."""
    text = pick.choice(TEXTS)
    changed = mutated(text.text, pick.choice(TEXTS).text, pick)
    try:
        return outcome(changed, text.dims, pick)
    except Exception as error:
        error.add_note(changed)
        raise


TEXTS = corpus()
KINDS: dict[str, Callable[[random.Random], str]] = {
    "models": models,
    "cpu": cpu,
    "cuda": cuda,
    "gradients": gradients,
    "mutations": mutations,
}


def run(kind: str, seeds: range, seconds: float) -> tuple[Counter[str], int]:
    """Runs each seed; what came of them, and how many failed."""
    found: Counter[str] = Counter()
    start = time.monotonic()
    failed = 0
    for seed in seeds:
        if time.monotonic() - start > seconds:
            break
        try:
            found[KINDS[kind](random.Random(seed))] += 1
        except Exception:
            failed += 1
            print(f"--- {kind}, seed {seed}\n{traceback.format_exc()}", flush=True)
    return found, failed


def main() -> int:
    """The command; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    given = parser.parse_args()
    found, failed = run(given.kind, range(given.seed, given.seed + given.count), given.seconds)
    ran = found.total() + failed
    print(f"{given.kind}: {ran} from seed {given.seed}: {failed} failed, {dict(found.most_common())}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
