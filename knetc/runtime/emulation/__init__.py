"""Running an emitted `.cu` on the processor: headers, look-alikes of CUDA's libraries, and how to build with them.

Before: `codegen.emit` has written the file. After: `runtime.emulated` has it compiled and loads the result. The emitted
file is C++ outside nvcc: `include/knet_device_emu.h` gives its device half a meaning, `include/cuda` declares the part
of the CUDA runtime, cuBLAS and cuDNN that emitted code may use, and `src` defines it, with an engine that runs a grid's
threads. Linux on any processor; only the C++ compiler is needed.

The library keeps its state per process. Calls from several threads are safe, one runs at a time; a model belongs to one
thread at a time all the same. How it runs is set by the environment, read when the library is loaded:

| variable | meaning |
|---|---|
| KNETEMU_ORDER=asc\\|desc\\|rand:SEED | order of a grid's blocks and of a block's threads (asc) |
| KNETEMU_ASYNC=eager\\|lazy | lazy: a stream's work is done only when something waits for it (eager) |
| KNETEMU_FILL=BYTE | what fresh device and shared memory holds: 0xff is NaN, 0x7e huge numbers (0xff) |
| KNETEMU_STRICT=0\\|1 | a barrier that some threads never reach is an error (1) |
| KNETEMU_GUARD=0\\|1 | under the address sanitizer, host code can't touch device memory (1) |
| KNETEMU_TSAN_GRID=0\\|1 | the thread sanitizer looks for races between blocks too (1) |
| KNETEMU_UCONTEXT=0\\|1 | stacks are switched as on other processors than x86-64 (0) |
| KNETEMU_FAIL_MALLOC=N | the N-th allocation fails |
| KNETEMU_FAIL_CALL=N | the N-th call that can fail does; one that frees or waits does that too |
| KNETEMU_PLAIN_ONLY=1, 2 | convolutions support their plain algorithms alone; 2: which the workspace's size tells |
| KNETEMU_EPILOGUES=work\\|none\\|late | whether cuBLASLt has algorithms: yes, no, or it refuses what it found (work) |
| KNETEMU_CAPTURE=works\\|never\\|breaks | whether a stream can be captured: yes, no, or it ends without a graph |
| KNETEMU_KERNELS=PATH | the library that holds the kernels of one that nvcc compiled |
"""

from knetc.runtime.emulation.build import (
    SANITIZERS,
    build_library,
    compile_shared,
    find_compiler,
    fingerprint,
    include_dirs,
    sanitizer_environment,
)

__all__ = [
    "SANITIZERS",
    "build_library",
    "compile_shared",
    "find_compiler",
    "fingerprint",
    "include_dirs",
    "sanitizer_environment",
]
