"""Random models and mutated sources: a few in every run, many in `make test-deep`, any number by tools/fuzz.py."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from .compare import check_gradients, check_model, draw, draw_emitted
from .mutate import corpus, mutated, outcome
from .reduce import smaller

EMITTED = ("cpu", "emulated")
CHUNK = 10
TEXTS = corpus()


def compare_model(seed: int) -> str:
    pick = random.Random(seed)
    return check_model(draw(pick), pick)


def compare_emitted(seed: int, backend: str) -> None:
    pick = random.Random(seed)
    check_model(draw_emitted(pick, backend), pick)


def compare_models(seeds: range) -> None:
    found = Counter(map(compare_model, seeds))
    assert found["same"] >= 0.8 * len(seeds), found


def mutate_sources(seeds: range) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        pick = random.Random(seed)
        text = pick.choice(TEXTS)
        changed = mutated(text.text, pick.choice(TEXTS).text, pick)
        found[outcome(changed, text.dims, pick)] += 1
    return found


@pytest.mark.parametrize("seed", range(3))
def test_every_level_computes_the_same(seed: int) -> None:
    compare_models(range(seed, seed + 1))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("backend", EMITTED)
def test_emitted_code_computes_the_same(backend: str, seed: int) -> None:
    compare_emitted(seed, backend)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_equal_central_differences(seed: int) -> None:
    check_gradients(random.Random(seed))


def test_a_mutated_source_gives_code_or_a_users_error() -> None:
    found = mutate_sources(range(200))
    assert found["code"] > 0 and found["KnetSyntaxError"] > 0


@pytest.mark.deep
@pytest.mark.parametrize("first", range(10_000, 10_500, CHUNK))
def test_every_level_computes_the_same_deep(first: int) -> None:
    compare_models(range(first, first + CHUNK))


@pytest.mark.deep
@pytest.mark.parametrize("first", range(20_000, 20_100, CHUNK))
def test_gradients_equal_central_differences_deep(first: int) -> None:
    for seed in range(first, first + CHUNK):
        check_gradients(random.Random(seed))


@pytest.mark.deep
@pytest.mark.parametrize("first", range(30_000, 30_050, 5))
@pytest.mark.parametrize("backend", EMITTED)
def test_emitted_code_computes_the_same_deep(backend: str, first: int) -> None:
    for seed in range(first, first + 5):
        compare_emitted(seed, backend)


@pytest.mark.deep
@pytest.mark.parametrize("first", range(0, 5000, 500))
def test_mutated_sources_deep(first: int) -> None:
    mutate_sources(range(first, first + 500))


def test_models_are_made_smaller_by_statements_and_terms() -> None:
    """What tools/fuzz.py --reduce tries: no `if`, what stands in one alone, no statement, a term in place of a call."""
    lines = ["@knet function m(x)", "    if one", "        y = tanh(x + w; a=1)", "    end", "    return x", "end"]
    found = [text.split("\n")[1:-1] for text in smaller("\n".join(lines))]
    assert found == [
        lines[4:5],
        [lines[2], lines[4]],
        [lines[1], lines[3], lines[4]],
        lines[1:4],
        [lines[1], "        y = (x)", *lines[3:5]],
        [lines[1], "        y = (w)", *lines[3:5]],
    ]
