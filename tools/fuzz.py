"""Looks for faults of the compiler with random input; says what it ran, and each failure with its seed.

    python tools/fuzz.py models --count 500        # builds of random models, compared through random calls
    python tools/fuzz.py cpu --count 20            # the interpreter and emitted C++: 2 to 5 s a model, nearly all g++
    python tools/fuzz.py cuda --count 20           # the interpreter and emitted CUDA under emulation: as long
    python tools/fuzz.py cuda --seed 7 --reduce    # the model of a seed that failed, as small as it fails still
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
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz.compare import Trial, check_gradients, check_model, draw, draw_emitted  # noqa: E402
from fuzz.mutate import corpus, mutated, outcome  # noqa: E402
from fuzz.reduce import reduced  # noqa: E402

# How each kind of model is drawn.
DRAWS: dict[str, Callable[[random.Random], Trial]] = {
    "models": draw,
    "cpu": partial(draw_emitted, backend="cpu"),
    "cuda": partial(draw_emitted, backend="emulated"),
}


def models(draws: Callable[[random.Random], Trial], pick: random.Random) -> str:
    """One model on its back ends and levels."""
    return check_model(draws(pick), pick)


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
    **{kind: partial(models, draws) for kind, draws in DRAWS.items()},
    "gradients": check_gradients,
    "mutations": mutations,
}


def smallest(kind: str, seed: int) -> str:
    """The model of a seed that fails, made as small as can be."""
    if kind not in DRAWS:
        raise SystemExit(f"{kind} are not made smaller")
    found = reduced(DRAWS[kind](random.Random(seed)))
    if found is None:
        raise SystemExit("the builds of this model did not differ in any of a few runs")
    return f"inputs {found.made.inputs}, whole {found.made.whole}, on {found.levels}\n{found.made.source}"


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
    parser.add_argument("--reduce", action="store_true", help="make the model of --seed, which fails, smaller")
    given = parser.parse_args()
    if given.reduce:
        print(smallest(given.kind, given.seed))
        return 0
    found, failed = run(given.kind, range(given.seed, given.seed + given.count), given.seconds)
    ran = found.total() + failed
    print(f"{given.kind}: {ran} from seed {given.seed}: {failed} failed, {dict(found.most_common())}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
