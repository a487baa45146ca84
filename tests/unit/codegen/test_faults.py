"""Faults planted in emitted files, one at a time: the way of running that is meant to catch each does catch it.

What shows that the tests of the emitted code would see a fault of the generator. A fault is a pattern in the file,
which must be there, and what takes its place.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codegen import faulty
from knetc.codegen.emit import emit_cuda
from knetc.errors import KnetEnvironmentError
from knetc.record import replace
from knetc.runtime import emulation

pytestmark = pytest.mark.deep
SCRIPT = Path(__file__).with_name("faulty.py")
ADDRESS, THREAD = "address,undefined", "thread"
LAZY = {"KNETEMU_ASYNC": "lazy"}
NAN, WARM = {"KNETEMU_FILL": "0xff"}, {"KNETEMU_FILL": "0x7e"}
BACKWARDS, SHUFFLED = {"KNETEMU_ORDER": "desc"}, {"KNETEMU_ORDER": "rand:3"}

# fault: model, pattern, what takes its place. Caught by numbers other than the interpreter's, or by a refused call.
VALUES = {
    "broadcast_along_too_few": ("lstm2", r"row = i % 5;", "row = i % 4;"),
    "sigm_back_wrong_sign": ("lstm2", r"\((\S+) \* \(1\.0f - \1\)\)", r"(\1 * (1.0f + \1))"),
    "tanh_back_half": ("lstm2", r"\(\(1\.0f - (\S+)\) \* \(1\.0f \+ \1\)\)", r"(1.0f - \1)"),
    "soft_not_divided": ("lstm2", r" / sum;", ";"),
    "soft_top_of_one_thread": ("lstm2", r"  top = knet_block_max\(top\);\n", ""),
    "sumto_of_one_thread": ("lenet", r"(dy\[o.*\];\n)  sum = knet_block_sum\(sum\);\n", r"\1"),
    "last_block_missing": ("lstm2", r"\(n \+ 255\) / 256;", "n / 256;"),
    "state_gradient_not_taken": ("lstm2", r"  if \(later\)\n", "  if (false)\n"),
    "state_gradient_not_handed": ("lstm2", r"if \(m->unwinding\) TRY", "if (false) TRY"),
    "state_gradient_of_the_last_sequence": ("lstm2", r"if \(!m->stack\) m->later = false;", ""),
    "state_not_kept": ("lstm2", r"  TRY\(cudaMemcpyAsync\(m->\w+_state, m->.*\n(?:      .*\n)?", ""),
    "state_not_reset": ("lstm2", r"  m->state_batch = 0;\n", ""),
    "state_reset_though_kept": ("lstm2", r"  if \(code \|\| keepstate\) return code;\n", "  (void)keepstate;\n"),
    "gradients_replaced": ("lstm2", r"sum\[i\] \+= dw\[i\];", "sum[i] = dw[i];"),
    "gradients_not_set_aside": ("lstm2", r"add = pop && m->gradients;", "add = false;"),
    "call_not_counted": ("lstm2", r"m->call\+\+;", ""),
    "random_words_repeat": ("lstm2", r"c0 = i / 4,", "c0 = i / 8,"),
    "norm_of_one_parameter": ("lstm2", r"\*squares = sum;", "*squares = partials[0];"),
    "momentum_forgotten": ("lstm2", r"      t\.momentum\[i\] = g;\n", ""),
    "adam_bias_of_another_step": ("lstm2", r"(const int steps = )\+\+(.*);", r"\1\2 += 2;"),
    "loss_over_elements": ("lstm2", r"\(1\.0 / columns\)", "(1.0 / n)"),
    "frame_of_the_wrong_step": (
        "lstm2",
        r"= \*value\+\+ \+ b->column",
        "= (m->stack ? m->stack->values[value++ - f->values] : *value++) + b->column",
    ),
    "stack_as_a_queue": (
        "lstm2",
        r"(f->below = )m->stack;\n  m->stack = f;",
        r"\1nullptr;\n  knet_frame** e = &m->stack;\n  while (*e) e = &(*e)->below;\n  *e = f;",
    ),
    "columns_too_few": ("lstm2", r"batch \* b->column\)", "(batch - 1) * b->column)"),
    "arena_of_one_step": ("sequence", r"arena_elements\(batch, steps\);", "arena_elements(batch, 1);"),
    "further_steps_left_out": ("sequence", r" \+ b->later \* later", " + 0 * later"),
    "places_of_single_steps": ("sequence", r"f->steps > 1 \? forward\.sequence_places : ", ""),
    "places_of_single_steps_back": ("sequence", r"\bsteps > 1 \? b->sequence_places : ", ""),
    "sequence_one_step_short": ("sequence", r"step < m->steps; step\+\+", "step + 1 < m->steps; step++"),
    "columns_of_the_first_step": ("sequence", r"at = N \* step;", "at = 0 * step;"),
    "state_of_the_first_step_at_every_step": (
        "sequence",
        r"= step > 0 \? m->\S+ \+ 5 \* \(at - N\)",
        "= false ? nullptr",
    ),
    "kept_where_this_step_reads": ("sequence", r"(step \+ 1 < m->steps \? m->\S+ \+ 5 \* )\(at \+ N\)", r"\1at"),
    "kept_beyond_the_last_step": ("sequence", r"step \+ 1 < m->steps \? m->", "true ? m->"),
    "gradients_do_not_change_places": ("sequence", r"    knet_swap\(.*\);\n", ""),
    "gradient_handed_of_the_other": ("sequence", r"(hand_state_gradient\(m, \S+, \S+)next_here", r"\1prev_here"),
    "state_of_earlier_steps_not_left_for_the_way_back": ("sequence", r"\* \(m->steps - 1\) \* sizeof", "* 0 * sizeof"),
    "state_of_the_last_step_but_one": ("sequence", r"m->batch \* \(m->steps - 1\), ", "m->batch * (m->steps - 2), "),
    "batch_of_one_step_outside_the_loop": ("sequence", r"N = m->batch \* m->steps;", "N = m->batch;"),
    "draws_of_one_call_for_all_steps": ("sequence", r"now\.call \+ ", "now.call + 0 * "),
    "warp_sum_stops_early": ("lstm2", r"step = 16; step > 0;", "step = 16; step > 1;"),
    "lanes_left_out": ("lstm2", r"__shfl_xor_sync\(0xffffffffu", "__shfl_xor_sync(0x0000ffffu"),
    "freed_twice": (
        "lstm2",
        r"  \*place = nullptr;\n\}",
        '  knet_check(cudaFree(*place), "", 0) ? *code = 1 : 0;\n  *place = nullptr;\n}',
    ),
    "transposed": ("lenet", r"CUBLAS_OP_N, CUBLAS_OP_T", "CUBLAS_OP_T, CUBLAS_OP_N"),
    "filters_not_turned": ("lenet", r"CUDNN_CONVOLUTION\}", "CUDNN_CROSS_CORRELATION}"),
    "last_for_maximum": ("lenet", r"top = knet_max\(top, element\);", "top = element;"),
    "average_not_divided": ("lenet", r"(sum \+= dys\[.*\]) / .*;", r"\1;"),
    "pooling_window_too_short": ("lenet", r"min\((.*) \+ 2, (\d+)\)", r"min(\1 + 1, \2)"),
    "input_of_the_first_minibatch": ("training", r"arrays\[i\] \+ from_column\(inputs\[i\], first\)", "arrays[i]"),
    "gold_of_the_first_minibatch": ("training", r"gold \+ b->gold\.column \* first;", "gold;"),
    "step_without_its_update": (
        "training",
        r"(return )run_update\(m, flags\);(\n\}\n// Copies)",
        r"\1(void)flags, 0;\2",
    ),
    "step_of_no_options": ("training", r"run_training\(m, f, b, call\.flags\)", "run_training(m, f, b, KNET_TRAINING)"),
    "step_by_another_graph": ("training", r"a\.flags == b\.flags && ", ""),
    "losses_in_one_place": ("training", r"losses \? m->losses \+ k", "losses ? m->losses"),
    "last_minibatch_too_large": ("training", r"left < batch \? left : batch, gclip", "batch, gclip"),
    "segment_of_the_first_columns": ("segments", r"time\.length \* k;", "time.length * 0;"),
    "segment_with_the_gradient_of_another": (
        "segments",
        r"(reserve_segments\(.*\n)  m->later = false;",
        r"\1  m->later = true;",
    ),
    "draws_of_one_step": ("segments", r"  m->call \+= steps - 1;\n", ""),
    "desired_at_the_place_for_one_step": (
        "segments",
        r"whole \? b->sequence_places : b->places\);\n  if",
        "b->places);\n  if",
    ),
    "bias_left_out": ("dense", r"EPILOGUE_RELU_BIAS", "EPILOGUE_RELU"),
    "relu_left_out": ("dense", r"EPILOGUE_RELU_BIAS", "EPILOGUE_BIAS"),
    "relu_too_many": ("dense", r"EPILOGUE_BIAS", "EPILOGUE_RELU_BIAS"),
    "operands_of_a_product_turned": (
        "dense",
        r"(EPILOGUE_BGRADA, .*)CUBLAS_OP_N, CUBLAS_OP_T",
        r"\1CUBLAS_OP_T, CUBLAS_OP_N",
    ),
    "another_bias": ("dense", r"(EPILOGUE_RELU_BIAS, m->)h_b", r"\1wbf_b"),
    "vector_of_the_plan": ("dense", r"    TRY\(knet_set\(p->call, CUBLASLT_MATMUL_DESC_BIAS_POINTER.*\n", ""),
    "plan_of_another_size": ("dense", r" && p.n == columns && p.k == depth", ""),
    "plan_of_another_alignment": ("dense", r"\(uint32_t\)p->alignment", "(uint32_t)256"),
    "product_of_another_pitch": ("dense", r"(at \? rows : depth, )lda", r"\1ldb"),
    "convolution_adds_to_what_is_there": ("lenet", r"one = 1, zero = 0;", "one = 1, zero = 1;"),
}
# Those that the numbers alone may not show: the way of running that does. A sanitizer sees the end of a buffer where
# each has memory of its own.
SANITIZED = {
    "frame_too_small": ("lstm2", r"b->column \* room\)", "b->column * (room - 1))", ADDRESS),
    "gold_too_long": ("lstm2", r"(b->gold.column \* columns\) \* sizeof\()float", r"\1double", ADDRESS),
    "one_too_many": ("lstm2", r"(fused_\w+_kernel\([^{]*\{\n.*) i < n;", r"\1 i <= n;", ADDRESS),
    "no_barrier_before_the_parts": ("lstm2", r"  __syncthreads\(\);\n  T total", "  T total", THREAD),
}
NO_EPILOGUES = {"KNETEMU_EPILOGUES": "none"}
RUN_SO = {
    "rest_forgotten": ("dense", r"  if \(!m->product\[0\]\.fused\) TRY.*\n", "", NO_EPILOGUES),
    "rest_thought_done": ("dense", r"product->fused = p->fused;", "product->fused = true;", NO_EPILOGUES),
    "product_forgotten": ("dense", r"  if \(!p->fused\) TRY\(knet_gemm.*\n", "", NO_EPILOGUES),
    "refused_is_done": ("dense", r"    p->fused = !status;\n", "", {"KNETEMU_EPILOGUES": "late"}),
    "state_not_zeroed": ("lstm2", r"  TRY\(zero_state\(m, batch\)\);\n", "", NAN),
    "state_gradient_not_zeroed": ("lstm2", r"  else\n    TRY\(cudaMemsetAsync\(to.*\n", "", NAN),
    "averages_not_zeroed": ("lstm2", r"  NOTE\(&code, cudaMemsetAsync\(\*average, 0.*\n", "", NAN),
    "value_not_waited_for": (
        "lstm2",
        r"  if \(wait\) TRY\(cudaStreamSynchronize\(m->stream\)\);\n",
        "",
        LAZY,
    ),
    "no_barrier_before_the_largest": ("lstm2", r"  __syncthreads\(\);\n(  float top)", r"\1", SHUFFLED),
    "another_stream": ("lstm2", r"(kernels.update, blocks, 256, 0, )m->stream", r"\1nullptr", LAZY),
}


def run(folder: Path, name: str, pattern: str, instead: str, sanitize: str = "", **environment: str):
    """The process that ran the model with the fault in its emitted file."""
    program, options = faulty.model(name)
    text = emit_cuda(program, replace(options, arena=not sanitize))
    changed, count = re.subn(pattern, instead, text) if pattern else (text, 1)
    assert count, f"nothing in the file fits {pattern}"
    try:
        needed = emulation.sanitizer_environment(sanitize or None)
    except KnetEnvironmentError as error:
        pytest.skip(str(error))
    (folder / "model.cu").write_text(changed)
    emulation.compile_shared(folder / "model.cu", folder / "model.so", sanitize=sanitize or None)
    env = {**os.environ, **needed, **environment}
    command = [sys.executable, str(SCRIPT), name, str(folder / "model.so")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)


def caught(done: subprocess.CompletedProcess[str]) -> None:
    """Other numbers, a call that was refused, or the process ended by a check of the emulation or by the system."""
    told = done.stdout == "different\n" or done.stdout.startswith("refused: ") or done.returncode < 0
    assert told and "Traceback" not in done.stderr, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("name", ["lstm2", "sequence", "segments", "dense", "training", "lenet"])
@pytest.mark.parametrize(
    "way",
    [{}, LAZY, NAN, WARM, BACKWARDS, SHUFFLED, NO_EPILOGUES, {"sanitize": ADDRESS}, {"sanitize": THREAD}],
    ids=str,
)
def test_without_a_fault_nothing_is_found(tmp_path, name, way):
    done = run(tmp_path, name, "", "", **way)
    assert done.returncode == 0 and done.stdout == "same\n", done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("fault", VALUES)
def test_caught_by_the_numbers(tmp_path, fault):
    caught(run(tmp_path, *VALUES[fault]))


@pytest.mark.parametrize("fault", SANITIZED)
def test_caught_by_a_sanitizer(tmp_path, fault):
    name, pattern, instead, sanitize = SANITIZED[fault]
    done = run(tmp_path, name, pattern, instead, sanitize)
    found = "Sanitizer" in done.stderr or "knetemu: error" in done.stderr  # copies are checked before they are made
    assert done.returncode != 0 and found, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("fault", RUN_SO)
def test_caught_by_another_way_of_running(tmp_path, fault):
    name, pattern, instead, environment = RUN_SO[fault]
    caught(run(tmp_path, name, pattern, instead, **environment))
