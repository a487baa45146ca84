// Switching between stacks, and telling the address sanitizer of it; see `fiber.h`.
#include "fiber.h"

#include <string.h>
#include <sys/mman.h>

#include "emu.h"

extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* base, size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** base, size_t* size);
}

#if defined(__x86_64__)
// Saves the registers that a call must preserve, changes the stack, and returns on the other one.
extern "C" __attribute__((visibility("hidden"))) void knetemu_switch_stack(void** save, void* load);
asm(".text\n"
    ".globl knetemu_switch_stack\n"
    ".hidden knetemu_switch_stack\n"
    ".type knetemu_switch_stack,@function\n"
    "knetemu_switch_stack:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size knetemu_switch_stack, .-knetemu_switch_stack\n");
#endif

namespace knetemu {

Context scheduler;

namespace {

constexpr size_t kStack = 256 << 10, kGuard = 4 << 10;

#if defined(__x86_64__)
bool own_switch() { return !options().ucontext; }
void switch_own(Context& from, Context& to) { knetemu_switch_stack(&from.stack_pointer, to.stack_pointer); }
void prepare_own(Context& context, void (*entry)()) {
  void** top = reinterpret_cast<void**>(context.base + kStack) - 1;
  *--top = reinterpret_cast<void*>(entry);  // where the switch's `ret` goes, with the alignment of a call
  top -= 6;
  memset(top, 0, 6 * sizeof(void*));  // the registers
  context.stack_pointer = top;
}
#else
bool own_switch() { return false; }
void switch_own(Context&, Context&) {}
void prepare_own(Context&, void (*)()) {}
#endif

// Whoever was switched away from is the scheduler, unless it is the scheduler that comes back.
void finish_switch(void* fake_stack, bool from_scheduler) {
  if (!__sanitizer_finish_switch_fiber) return;
  const void* base;
  size_t size;
  __sanitizer_finish_switch_fiber(fake_stack, &base, &size);
  if (!from_scheduler) return;
  scheduler.base = static_cast<char*>(const_cast<void*>(base));
  scheduler.size = size;
}

}  // namespace

void entered() { finish_switch(nullptr, true); }

void switch_context(Context& from, Context& to) {
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&from.fake_stack, to.base, to.size);
  if (own_switch())
    switch_own(from, to);
  else
    swapcontext(&from.machine, &to.machine);
  finish_switch(from.fake_stack, &from != &scheduler);
}

void prepare(Context& context, void (*entry)()) {
  void* memory = mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                      -1, 0);
  if (memory == MAP_FAILED) die("no memory for the stack of a CUDA thread");
  mprotect(memory, kGuard, PROT_NONE);  // an overflow stops here
  context.base = static_cast<char*>(memory) + kGuard;
  context.size = kStack;
  if (own_switch()) {
    prepare_own(context, entry);
    return;
  }
  getcontext(&context.machine);
  context.machine.uc_stack.ss_sp = context.base;
  context.machine.uc_stack.ss_size = kStack;
  context.machine.uc_link = nullptr;
  makecontext(&context.machine, entry, 0);
}

}  // namespace knetemu
