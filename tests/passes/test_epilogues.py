"""Epilogues of matrix products: how many calls they save, why some are not taken, and what the verifier refuses."""

from __future__ import annotations

import pytest

from knetc import driver
from knetc.codegen.report import report, show_plan
from knetc.errors import KnetInternalError, Source
from knetc.ir.epilogues import is_product, without_epilogues
from knetc.ir.passes import epilogue
from knetc.ir.plan import Kernel, Unit
from knetc.ir.planner import make_plan
from knetc.ir.printer import print_program
from knetc.ir.program import Program
from knetc.ir.reader import read_program
from knetc.ir.types import N
from knetc.ir.verify import verify
from knetc.options import Options

MLP = "@knet function mlp(x)\n h = wbf(x; out=6, f=:relu)\n return wbf(h; out=3, f=:soft)\nend"


def compiled(source: str, level: int = 2, **options: object) -> tuple[Program, Options]:
    chosen = Options(**{"inputs": ((4, N),), "losses": ("softloss",), "level": level, **options})  # type: ignore[arg-type]
    return driver.optimise(driver.lower(Source("mlp.knet", source), None, {}), chosen), chosen


def counted(program: Program, options: Options) -> tuple[int, int, int]:
    """Of a step of training without the gradient of its input: products, those with an epilogue, and other kernels."""
    (variant,) = make_plan(program, options).variants
    units: list[Unit] = [u for u in (*variant.forward, *variant.backward[0].steps) if u.wanted is None]
    products = [u for u in units if any(is_product(s.instr) for s in (u.steps if isinstance(u, Kernel) else (u,)))]
    return len(products), sum(isinstance(u, Kernel) for u in products), len(units) - len(products)


@pytest.mark.parametrize(
    "level,wanted",
    [
        # -O0: forward 2 adds, relu, soft; back the loss's value, its gradient with soft's, relu's, 2 sums.
        (0, (5, 0, 9)),
        # -O1: relu's and soft's kernels have their adds.
        (1, (5, 0, 7)),
        # -O2: relu's kernel and both sums have gone into products; left are soft, the loss and its gradient, relu's.
        (2, (5, 3, 3)),
    ],
)
def test_what_a_step_of_training_takes(level: int, wanted: tuple[int, int, int]) -> None:
    assert counted(*compiled(MLP, level)) == wanted


def test_sequences_have_theirs_for_all_steps_at_once() -> None:
    """h's bias and relu before the loop; back, the output layer's bias's gradient before it and two others after it."""
    source = """
@knet function m(x)
    h = wbf(x; out=6, f=:relu)
    s = tanh(wdot(h; out=5) .+ wb(s; out=5))
    return wbf(s; out=3, f=:soft)
end"""
    program, _ = compiled(source)
    gradient = ["dot", "sumto"]
    assert joined_in_sequences(program) == [[["add", "dot", "relu"]], [], [], [gradient], [], [gradient] * 2]
    assert joined_in_sequences(without_epilogues(program)) == [[]] * 6


def test_reasons_are_given_for_sequences_too() -> None:
    """Those of their own lists, each once: wb has its bias before the loop, the recurrent product does not in it."""
    cell = "s = tanh(wb(x; out=5) .+ wb(s; out=5))"
    program, options = compiled(f"@knet function m(x)\n {cell}\n return wbf(s; out=3, f=:soft)\nend")
    step, *rest = show_plan(program, options).split("\nforwseq ")
    before, loop, after = (text.split("\nbackward ")[0] for text in rest)
    why = "  # no epilogue: more is computed in the kernel that reads it\n"
    assert f"  wb/tmp1 = dot(wb/w, x){why}" in step and step.count("# no epilogue") == 2
    assert f"  wb2/tmp1 = dot(wb2/w, s@prev){why}" in loop and f"  wbf/tmp1 = dot(wbf/w, s){why}" in after
    assert [text.count("# no epilogue") for text in (before, loop, after)] == [0, 1, 1]


def joined_in_sequences(program: Program) -> list[list[list[str]]]:
    """For each list over a sequence, forward and back, the operators of each kernel with a product."""
    (variant,) = program.variants
    lists = [body for p in (variant.phases, variant.backward[0].phases) if p is not None for body in p.lists]
    found = []
    for body in lists:
        kernels = [[i for i in body if i.kernel == k] for k in {i.kernel for i in body} - {0}]
        found.append(sorted(sorted(i.op for i in unit) for unit in kernels if any(map(is_product, unit))))
    return found


def test_reports_say_what_has_an_epilogue_and_why_not() -> None:
    program, options = compiled(MLP)
    plan, table = show_plan(program, options), report(program, options)
    assert "wbf/tmp1 = dot(wbf/w, h)  # no epilogue: more is computed in the kernel that reads it" in plan
    assert plan.count("# no epilogue") == 1
    assert "h = relu(h/w * x .+ h/b)" in table and "RELU_BIAS" in table and table.count("BGRADA") == 2
    assert "epilogue" not in show_plan(*compiled(MLP, 1)) + report(*compiled(MLP, 1))


REASONS = {
    "its value is read elsewhere too": "p = w * x\n return tanh(w * relu(p)) .+ soft(w * p)",
    "p is read elsewhere too": "p = w * x .+ b\n h = relu(p)\n return tanh(w * h) .+ soft(w * p)",
    "what is added is not a number for each row": "p = w * x\n return w * (p .+ x)",
    "more is computed in the kernel that reads it": "return tanh(w * x .+ b)",
    "it is no matrix of several rows": "v = par(dims=(1,4))\n return relu(v * x)",
}


@pytest.mark.parametrize("why", REASONS)
def test_reasons(why: str) -> None:
    body = REASONS[why]
    source = f"@knet function f(x)\n w = par(dims=(4,4))\n b = par(dims=(4,))\n {body}\nend"
    assert f"# no epilogue: {why}" in show_plan(*compiled(source))


def test_a_back_end_may_take_products_by_themselves() -> None:
    """Then the program is what it was before the pass."""
    program, options = compiled(MLP)
    before = driver.optimise(driver.lower(Source("mlp.knet", MLP), None, {}), options, stop_after="fuse")
    assert counted(without_epilogues(program), options) == counted(before, options) == (5, 0, 7)
    apart = without_epilogues(program).variants[0]
    assert [i.out for i in apart.forward] == [i.out for i in before.variants[0].forward]
    assert [i.out for i in apart.backward[0].body] == [i.out for i in before.variants[0].backward[0].body]


@pytest.mark.parametrize(
    "old,new",
    [
        ("add(%h/tmp1, %h/b)", "add(%h/tmp1, %h/tmp1)"),  # no vector
        ("add(%h/tmp1, %h/b) : f32[6,N]", "mul(%h/tmp1, %h/b) : f32[6,N]"),  # no epilogue
        ("relu(%h/tmp2)", "relu(%h/tmp1)"),  # not the value before
        ("sumto(%d:h/tmp2)", "sumto(%d:h)"),  # of another gradient than the product's
        ("softloss_back(%return, %@gold, %@mask)", "softloss_back(%@gold, %@gold, %@mask)"),  # not what the loss reads
    ],
)
def test_the_verifier_knows_what_an_epilogue_is(old: str, new: str) -> None:
    program, _ = compiled(MLP)
    text = print_program(program)
    assert old in text
    verify(read_program(text))
    with pytest.raises(KnetInternalError, match="the rule 'kernels'"):
        verify(read_program(text.replace(old, new)))


@pytest.mark.parametrize(
    "source,loss,joined",
    [
        (MLP, "softloss", ["softloss", "softmax_softloss_back"]),
        (
            "@knet function f(x)\n return relu(wdot(x; out=3))\nend",
            "quadloss",
            ["quadloss", "quadloss_back", "relu_back"],
        ),
        ("@knet function f(x)\n return soft(wdot(x; out=3))\nend", "quadloss", ["quadloss", "quadloss_back"]),
        # Its gradient is computed for the input's alone, so not always.
        ("@knet function f(x)\n return tanh(x)\nend", "quadloss", ["quadloss"]),
    ],
)
def test_a_loss_is_computed_with_its_gradient(source: str, loss: str, joined: list[str]) -> None:
    program, options = compiled(source, losses=(loss,))
    (back,) = make_plan(program, options).variants[0].backward
    units = [u.steps if isinstance(u, Kernel) else (u,) for u in back.steps]
    assert [[s.instr.op for s in steps] for steps in units if any(s.out.kind == "loss" for s in steps)] == [joined]


def test_the_pass_changes_nothing_the_second_time() -> None:
    program, options = compiled(MLP)
    assert epilogue.run(program, options) == program
