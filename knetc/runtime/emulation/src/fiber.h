// Stacks that can be switched between: a CUDA thread that waits keeps its stack while others run. x86-64 has a switch of
// its own of 14 instructions; elsewhere, or with KNETEMU_UCONTEXT=1, <ucontext.h> does it, ten times slower. Before:
// `emu.h`. After: `engine.cpp` decides who runs.
#pragma once
#include <stddef.h>
#include <ucontext.h>

namespace knetemu {

// A point of execution that can be resumed. `base` and `size` are its stack, for the address sanitizer.
struct Context {
  void* stack_pointer = nullptr;  // for our own switch
  ucontext_t machine;             // for the other one
  char* base = nullptr;
  size_t size = 0;
  void* fake_stack = nullptr;
};

extern Context scheduler;  // the engine itself, on the stack of the thread that launched the kernel
// A context that calls `entry`, which must never return, when it is first switched to.
void prepare(Context& context, void (*entry)());
// Goes on in `to`; returns when something switches back. Every switch is from or to the scheduler.
void switch_context(Context& from, Context& to);
// The first thing that an entry does.
void entered();

}  // namespace knetemu
