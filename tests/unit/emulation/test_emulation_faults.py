"""Every planted fault of `faults.cu` is caught, by the way of running that is meant to catch it."""

from __future__ import annotations

import re

import pytest

from emulation.conftest import Build, run_python

RUN = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).run(sys.argv[2].encode()))"
ADDRESS, THREAD = "address,undefined", "thread"

# fault: a sanitizer, and what it says, with the kernel's name where it knows it
SANITIZED = {
    "past_the_end": (ADDRESS, r"heap-buffer-overflow[\s\S]*in .*past_the_end.*faults\.cu:\d+"),
    "before_the_start": (ADDRESS, r"heap-buffer-overflow[\s\S]*in .*before_the_start"),
    "past_static_shared": (ADDRESS, r"heap-buffer-overflow[\s\S]*in .*past_static_shared"),
    "past_dynamic_shared": (ADDRESS, r"heap-buffer-overflow[\s\S]*in .*past_dynamic_shared"),
    "freed_pointer_in_struct": (ADDRESS, r"heap-use-after-free[\s\S]*in .*through_struct"),
    "host_reads_device": (ADDRESS, r"use-after-poison[\s\S]*in .*host_fault"),
    "overflow": (ADDRESS, r"faults\.cu:\d+.*signed integer overflow"),
    "misaligned": (ADDRESS, r"faults\.cu:\d+.*misaligned address"),
    "no_barrier_before_read": (THREAD, r"data race[\s\S]*no_barrier_before_read"),
    "no_barrier_in_tree": (THREAD, r"data race[\s\S]*no_barrier_in_tree"),
    "no_barrier_before_reuse": (THREAD, r"data race[\s\S]*no_barrier_before_reuse"),
    "plain_update_in_block": (THREAD, r"data race[\s\S]*plain_update_in_block"),
    "plain_update_between_blocks": (THREAD, r"data race[\s\S]*plain_update_between_blocks"),
}

# fault: what the emulation's own checks say, without any sanitizer, before the process ends
STOPPED = {
    "no_dynamic_shared": r"faults\.cu:\d+: dynamic shared memory in a kernel launched without any",
    "return_before_barrier": r"faults\.cu:\d+: __syncthreads reached by 60 of 64 threads",
    "divergent_barrier": r"threads wait at different __syncthreads: .*faults\.cu:\d+ .*faults\.cu:\d+",
    "lanes_missing": r"faults\.cu:\d+: warp intrinsic never completed",
    "not_in_own_mask": r"lane 16 is not in its own mask 0000ffff",
    "mask_past_the_block": r"mask ffffffff names lanes beyond the block's end",
    "different_intrinsics": r"lanes of one mask meet at different warp intrinsics",
    "host_pointer_to_kernel": r"kernel .*: argument 1 .* is not live device memory",
    "freed_pointer_to_kernel": r"kernel .*: argument 1 .* is not live device memory",
    "host_pointer_as_destination": r"cudaMemcpy \(destination\): .* is not live device memory",
    "copy_past_the_end": r"cudaMemcpy \(source\): needs 260 bytes at .*, the allocation has 256 left",
    "wrong_direction": r"cudaMemcpy: kind 2 with device memory on the host's side",
    "large_ld": r"cublasSgemm: needs 284 bytes at .*, the allocation has 256 left",
    "stream_used_after_destroy": r"use of a stream that does not exist",
}

# fault: the status with which the call refuses, printed by `faults.cu`
REFUSED = {
    "wait_during_capture": "cudaErrorStreamCaptureUnsupported\ncudaErrorStreamCaptureInvalidated\n",
    "allocation_during_capture": "cudaErrorStreamCaptureUnsupported\ncudaErrorStreamCaptureInvalidated\n",
    "small_ld": "CUBLAS_STATUS_INVALID_VALUE\n",
    "too_many_threads": "cudaErrorInvalidConfiguration\n",
    "too_much_shared": "cudaErrorInvalidConfiguration\n",
    "freed_twice": "cudaErrorInvalidValue\n",
}

# fault: two ways of running whose results differ
DIFFERENT = {
    "no_barrier_before_read": ({"KNETEMU_ORDER": "asc"}, {"KNETEMU_ORDER": "desc"}),
    "no_barrier_in_tree": ({"KNETEMU_ORDER": "asc"}, {"KNETEMU_ORDER": "desc"}),
    "no_barrier_before_reuse": ({"KNETEMU_ORDER": "asc"}, {"KNETEMU_ORDER": "desc"}),
    "unwritten": ({"KNETEMU_FILL": "0xff"}, {"KNETEMU_FILL": "0x7e"}),
    "unwritten_behind_max": ({"KNETEMU_FILL": "0xff"}, {"KNETEMU_FILL": "0x7e"}),
    "unwritten_shared": ({"KNETEMU_FILL": "0xff"}, {"KNETEMU_FILL": "0x7e"}),
    "no_wait_before_read": ({"KNETEMU_ASYNC": "eager"}, {"KNETEMU_ASYNC": "lazy"}),
    "no_wait_between_streams": ({"KNETEMU_ASYNC": "eager"}, {"KNETEMU_ASYNC": "lazy"}),
}


def _run(build_file: Build, fault: str, sanitize: str = "", **variables: str) -> tuple[int, str, str]:
    library = build_file("faults.cu", sanitize)
    done = run_python(["-S", "-c", RUN, str(library), fault], sanitize, **variables)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("fault", SANITIZED)
def test_sanitizer(build_file: Build, fault: str) -> None:
    """The sanitizer ends the process, naming where."""
    sanitize, report = SANITIZED[fault]
    code, _, errors = _run(build_file, fault, sanitize)
    assert code != 0 and re.search(report, errors), errors


@pytest.mark.parametrize("fault", STOPPED)
def test_own_check(build_file: Build, fault: str) -> None:
    """The emulation itself ends the process, saying why."""
    code, _, errors = _run(build_file, fault)
    assert code != 0 and errors.startswith("knetemu: error: ") and re.search(STOPPED[fault], errors), errors


@pytest.mark.parametrize("fault", REFUSED)
def test_status(build_file: Build, fault: str) -> None:
    """The call that is at fault returns an error."""
    assert _run(build_file, fault) == (0, REFUSED[fault], "")


@pytest.mark.parametrize("fault", DIFFERENT)
def test_difference(build_file: Build, fault: str) -> None:
    """The fault stays hidden in one way of running, and shows when two are compared."""
    first, second = (_run(build_file, fault, **variables) for variables in DIFFERENT[fault])
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert first[1] != second[1]


def test_strict_can_be_switched_off(build_file: Build) -> None:
    """A barrier that some threads never reach is legal on devices where they have returned."""
    code, _, errors = _run(build_file, "return_before_barrier", KNETEMU_STRICT="0")
    assert (code, errors) == (0, "")


@pytest.mark.parametrize("name", ["correct", "wait_between_streams"])
def test_no_false_alarm(build_file: Build, name: str) -> None:
    """What is right gives one result in every way of running, and no report."""
    ways: list[tuple[str, dict[str, str]]] = [
        ("", {}),
        ("", {"KNETEMU_ORDER": "desc", "KNETEMU_ASYNC": "lazy"}),
        ("", {"KNETEMU_ORDER": "rand:2", "KNETEMU_FILL": "0x7e", "KNETEMU_ASYNC": "lazy"}),
        (ADDRESS, {}),
        (THREAD, {}),
    ]
    results = [_run(build_file, name, sanitize, **variables) for sanitize, variables in ways]
    assert all(r == (0, results[0][1], "") for r in results), results
