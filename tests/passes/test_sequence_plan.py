"""The plan of whole sequences: what stands in the loop over time, and which arrays have the columns of all steps."""

from __future__ import annotations

from knetc import driver
from knetc.errors import Source
from knetc.ir.plan import Plan, flat
from knetc.ir.planner import make_plan
from knetc.ir.sequence_plan import make_sequence_plan
from knetc.ir.types import N
from knetc.options import Options

LSTM = """
@knet function net(x)
    h = lstm(x; out=4)
    return wbf(h; out=3, f=:soft)
end
"""
LENET = "@knet function net(x)\n    return wbf(x; out=3, f=:soft)\nend\n"


def _plan(source: str, level: int = 2) -> Plan:
    options = Options(inputs=((5, N),), level=level, arena=False)
    return make_sequence_plan(driver.optimise(driver.lower(Source("net", source), None, {}), options), options)


def _products(plan: Plan) -> list[list[str]]:
    (variant,) = plan.variants
    (backward,) = variant.backward
    assert variant.phases is not None and backward.phases is not None
    lists = (*variant.phases.lists, *backward.phases.lists)
    return [[s.out.name for s in flat(units) if s.instr.op == "dot"] for units in lists]


def test_an_lstm_has_one_product_in_the_loop_each_way() -> None:
    before, loop, after, back_before, back_loop, back_after = _products(_plan(LSTM))
    assert (len(before), len(loop), len(after)) == (1, 1, 1)
    assert len(back_loop) == 1 and "d:wbf/w" in back_before
    assert back_after and not set(back_after) & set(back_loop)


def test_what_the_way_back_reads_has_the_columns_of_all_steps() -> None:
    plan = _plan(LSTM)
    (variant,) = plan.variants
    assert variant.phases is not None
    written = {s.out.root for s in flat(variant.phases.loop) if s.out.kind == "value"}
    whole = set(variant.phases.whole)
    assert written & set(variant.frame) <= whole
    assert written - whole  # and some have those of one step
    assert all(b.type.batched and b.kind not in ("state", "dstate") for b in whole)


def test_a_sequence_leaves_the_frame_of_a_step() -> None:
    plan = _plan(LSTM)
    (variant,) = plan.variants
    assert variant.phases is not None
    steps = {s.out for units in variant.phases.lists for s in flat(units) if s.out.root in variant.frame}
    assert {b.root for b in steps} == {b for b in variant.frame if b.kind == "value"}


def test_no_phases_without_state_or_below_level_2() -> None:
    for plan in (_plan(LENET), _plan(LSTM, level=1)):
        assert all(v.phases is None and all(b.phases is None for b in v.backward) for v in plan.variants)
    options = Options(inputs=((5, N),), arena=False)
    program = driver.optimise(driver.lower(Source("net", LENET), None, {}), options)
    assert make_sequence_plan(program, options) == make_plan(program, options)
