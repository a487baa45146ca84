"""From measurements to tables: medians, ratios within a round, what is compared with, agreement of losses."""

from __future__ import annotations

import pytest
import table


def measurement(peer, times, variant="plain", loss=2.0, aside=False, workload="W1", **more):
    """A job's measurements, one a round."""
    common = {"first_steps": 1, "gflops": 1.0, "peak_mb": 10.0, "others": 0.0, "loss": loss, "first_s": 1.5}
    who = {"workload": workload, "peer": peer, "variant": variant, "aside": aside}
    return [{**who, "round": r, "step_s": t, **common, **more} for r, t in enumerate(times)]


def failure(peer, error, workload="W1"):
    return {"workload": workload, "peer": peer, "variant": "plain", "aside": False, "round": 0, "error": error}


def report(results, peers=(), sgemm=(100.0,), device="cpu"):
    return {"about": {"device": device}, "peers": dict(peers), "sgemm": list(sgemm), "results": results}


def cells(text, *words):
    """The cells of the one line of a table that holds all the words."""
    (line,) = [line for line in text.splitlines() if line.startswith("|") and all(word in line for word in words)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_ratio_is_taken_within_a_round():
    # The machine is three times as slow in the second round, for both.
    ours, peer = table.rows(measurement("knetc-cpu", [1.0, 3.0]) + measurement("jax", [2.0, 6.0]))
    assert table.ratios(ours, peer) == [0.5, 0.5]


def test_a_ratio_leaves_out_rounds_that_one_lacks():
    ours, peer = table.rows(measurement("knetc-cpu", [1.0, 3.0, 9.0]) + measurement("jax", [2.0]))
    assert table.ratios(ours, peer) == [0.5]


def test_the_best_peer_is_the_fastest_that_ran_agrees_and_is_not_aside():
    found = table.rows(
        measurement("numpy", [2.0])
        + measurement("jax", [3.0])
        + measurement("numpy", [0.1], "reassoc", aside=True)
        + measurement("torch", [0.2], loss=2.1)
        + [failure("other", "broken")]
    )
    best = table.best(found)
    assert best is not None and (best.peer, best.variant) == ("numpy", "plain")


def test_no_peer_no_best():
    assert table.best(table.rows([failure("torch", "broken")])) is None


def test_losses_are_compared_with_one_vote_a_peer():
    # Four forms of knetc are wrong together, and still are the ones that differ.
    ours = [m for v in "abcd" for m in measurement("knetc-cpu", [1.0], v, loss=3.0)]
    found = table.rows(ours + measurement("torch", [1.0]) + measurement("jax", [1.0], loss=2.0001))
    assert [row.agrees for row in found] == [False] * 4 + [True, True]


@pytest.mark.parametrize(("loss", "agrees"), [(2.0 * (1 + 0.5e-4), True), (2.0 * (1 + 2e-4), False)])
def test_the_tolerance_is_relative(loss, agrees):
    results = measurement("torch", [1.0]) + measurement("jax", [1.0]) + measurement("numpy", [1.0], loss=loss)
    assert table.rows(results)[2].agrees is agrees


def test_a_loss_that_is_no_number_does_not_agree():
    results = measurement("torch", [1.0]) + measurement("jax", [1.0]) + measurement("numpy", [1.0], loss=float("nan"))
    assert [row.agrees for row in table.rows(results)] == [True, True, False]


def test_one_round_that_differs_is_enough():
    results = measurement("torch", [1.0, 1.0]) + measurement("jax", [1.0, 1.0]) + measurement("numpy", [1.0, 1.0])
    results[-1]["loss"] = 2.1
    assert [row.agrees for row in table.rows(results)] == [True, True, False]


def test_the_summary_names_the_best_form_the_ratio_and_the_aim():
    results = measurement("knetc-cpu", [4e-3, 5e-3], "calls") + measurement("knetc-cpu", [1e-3, 2e-3], "train")
    text = table.markdown(report(results + measurement("jax", [2e-3, 2e-3], "scan")))
    line = cells(text, "jax scan", "cpu train")
    assert line[:5] == ["W1", "jax scan", "2.00 ms (2.00 ms..2.00 ms)", "cpu train", "1.50 ms (1.00 ms..2.00 ms)"]
    assert line[5:7] == ["0.75 (0.50..1.00)", "≤ 0.6"]


def test_the_share_of_the_matrix_product_stands_beside_its_aim():
    results = measurement("knetc-cuda", [1.0], workload="W7", gpu_mb=5.0)
    for m in results:
        m["gflops"] = 45.0
    text = table.markdown(report(results, sgemm=[50.0], device="cuda"))
    assert "≥ 0.9 of the matrix product's rate, is 0.90" in text


def test_cold_and_warm_starts_stand_apart():
    results = measurement("jax", [1.0, 1.0, 1.0])
    for m, first in zip(results, (9.0, 3.0, 4.0), strict=True):
        m["first_s"] = first
    assert cells(table.markdown(report(results)), "jax", "(best peer)")[5:7] == ["9.00 s", "3.50 s"]


def test_what_is_absent_failed_or_differs_is_listed():
    results = [*measurement("jax", [1.0]), *measurement("numpy", [1.0]), failure("torch", "no memory")]
    results += measurement("knetc-cpu", [0.1], loss=7.0)
    text = table.markdown(report(results, {"other": {"absent": "pip install other"}, "jax": {"versions": "jax 9"}}))
    assert "## Absent\n\n- other: pip install other" in text
    assert "## Failed\n\n- W1 torch plain: no memory" in text
    assert "- W1 knetc-cpu plain" in text.split("## Losses that differ")[1]
    assert cells(text, "knetc-cpu", "DIFFERS")[-1] == "7 DIFFERS"
    assert "- jax: jax 9" in text


def test_a_busy_machine_is_said():
    results = measurement("jax", [1.0])
    assert "busy" not in table.markdown(report(results))
    results[0]["others"] = 1.5
    assert "The machine was busy" in table.markdown(report(results))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (172.4, "172 s"),
        (2.0, "2.00 s"),
        (0.4519, "452 ms"),
        (9.94e-3, "9.94 ms"),
        (5.55e-5, "55.5 µs"),
        (2e-7, "0.20 µs"),
    ],
)
def test_times_are_written_with_three_digits(value, text):
    assert table.seconds(value) == text
