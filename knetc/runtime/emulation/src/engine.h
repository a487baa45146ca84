// The state of the block that is running, shared by `engine.cpp` (threads and barriers) and `warp.cpp` (shuffles).
#pragma once
#include <vector>

#include "emu.h"
#include "fiber.h"

extern "C" {
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* token);
__attribute__((weak)) void __tsan_release(void* token);
}

namespace knetemu {

// A stack for CUDA threads; one that finishes its thread takes another.
struct Fiber : Context {
  unsigned thread = ~0u;
};

enum class State : uint8_t { ready, at_barrier, at_warp, done };

struct Thread {
  Fiber* fiber;
  const char* file;  // where it waits
  int line;
  State state;
  uint3 index;
};

// Lanes that meet at a warp intrinsic.
struct Meeting {
  unsigned mask, arrived, leaving;
  const char* file;
  int line;
  bool open;
  uint64_t board[32];
};

struct Block {
  std::vector<Thread> threads;
  std::vector<unsigned> order;  // in which fresh threads start
  size_t next_fresh = 0, done = 0, waiting = 0;
  std::vector<unsigned> ready;  // threads that may go on, from next_ready
  size_t next_ready = 0;
  std::vector<std::vector<Meeting*>> warps;
  std::vector<void*> memory;  // shared memory and what else lives as long as the block
};
extern Block block;
extern Fiber* running;

// Parks the running thread in `state`; returns when it may go on.
void wait_here(State state, const char* file, int line);
void arrange(std::vector<unsigned>& threads, size_t from);  // puts threads in the order that the options ask for

// The thread sanitizer's view: each CUDA thread is a thread to it, and the engine's own work is done in the name of the
// thread that launched the kernel. Without that sanitizer all of this does nothing.
namespace races {
extern void* engine;  // null: not under the thread sanitizer
void switch_to(unsigned thread);
inline void become(unsigned thread) {
  if (engine) switch_to(thread);
}
inline void acquire(void* token) {
  if (engine) __tsan_acquire(token);
}
inline void release(void* token) {
  if (engine) __tsan_release(token);
}
}  // namespace races

// While one lives, the engine works, not the CUDA thread that called it.
class AsEngine {
 public:
  AsEngine() : thread_(running->thread) {
    if (races::engine) __tsan_switch_to_fiber(races::engine, 1);
  }
  ~AsEngine() { races::become(thread_); }
  AsEngine(const AsEngine&) = delete;
  AsEngine& operator=(const AsEngine&) = delete;

 private:
  unsigned thread_;
};

}  // namespace knetemu
