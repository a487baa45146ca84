// Runs a grid, block after block, on the calling thread. Before: `kernel.cpp` has checked the launch. A CUDA thread runs
// until it returns or waits; a stack whose thread has returned takes the next thread at once, so that a kernel without
// barriers is a plain loop, and only a thread that waits costs a stack. Shuffles are in `warp.cpp`.
#include "engine.h"

#include <algorithm>
#include <stdlib.h>
#include <string.h>

#include "knet_device_emu.h"

extern "C" {
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
uint64_t knetemu_block_number;
}

namespace knetemu {

Block block;
Fiber* running;

namespace {

// The launch.
const Kernel* kernel;
void** arguments;
char* dynamic_shared;
size_t static_shared;
std::vector<Fiber*> idle;

// A generator of our own (splitmix64): the order that a seed names is the same everywhere.
uint64_t random_state;
uint64_t random_word() {
  uint64_t z = random_state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}
template <class T> void shuffle_from(std::vector<T>& items, size_t from) {
  for (size_t n = items.size(); n > from + 1; n--) std::swap(items[n - 1], items[from + random_word() % (n - from)]);
}

}  // namespace

void arrange(std::vector<unsigned>& threads, size_t from) {
  if (options().order == Order::descending)
    std::sort(threads.begin() + static_cast<long>(from), threads.end(), std::greater<unsigned>());
  if (options().order == Order::random) shuffle_from(threads, from);
}

// --- the thread sanitizer's view -------------------------------------------------------------------------------------

namespace races {
void* engine;
namespace {
std::vector<void*> fibers;
size_t first;    // this block's first fiber; blocks alternate between two halves
unsigned phase;  // barriers that this block has passed
char* barriers;  // tokens of the block's even and odd barriers
char start, finish;

void prepare_grid(size_t threads) {
  if (!__tsan_create_fiber) return;
  engine = __tsan_get_current_fiber();
  while (fibers.size() < 2 * threads) fibers.push_back(__tsan_create_fiber(0));
}
// Fresh tokens: nothing orders one block before another.
void begin_block(size_t number, size_t threads) {
  if (!engine) return;
  first = number % 2 ? threads : 0;
  phase = 0;
  barriers = static_cast<char*>(malloc(16));
  block.memory.push_back(barriers);
  release(&start);
  for (auto& warp : block.warps) {
    block.memory.insert(block.memory.end(), warp.begin(), warp.end());
    warp.clear();
  }
}
}  // namespace

void switch_to(unsigned thread) { __tsan_switch_to_fiber(fibers[first + thread], 1); }
}  // namespace races

// --- threads ---------------------------------------------------------------------------------------------------------

namespace {

// What every stack runs: threads, one after the other, until none can be started here.
void run_threads() {
  entered();
  for (;;) {
    Fiber* fiber = running;
    for (;;) {
      const unsigned thread = fiber->thread;
      threadIdx = block.threads[thread].index;
      races::become(thread);
      races::acquire(&races::start);
      kernel->caller(kernel->address, arguments);
      races::release(&races::finish);
      if (races::engine) __tsan_switch_to_fiber(races::engine, 1);
      block.threads[thread].state = State::done;
      block.done++;
      // To the thread sanitizer a thread must keep its stack.
      if (races::engine || block.next_fresh >= block.order.size() || block.next_ready < block.ready.size()) break;
      fiber->thread = block.order[block.next_fresh++];
      block.threads[fiber->thread].fiber = fiber;
    }
    fiber->thread = ~0u;
    if (!races::engine) idle.push_back(fiber);
    switch_context(*fiber, scheduler);
  }
}

Fiber* new_fiber() {
  Fiber* fiber = new Fiber;
  prepare(*fiber, run_threads);
  return fiber;
}
Fiber* fiber_for(unsigned thread) {
  if (races::engine) {
    static std::vector<Fiber*> own;
    const size_t number = races::first + thread;
    if (own.size() <= number) own.resize(number + 1);
    if (!own[number]) own[number] = new_fiber();
    return own[number];
  }
  if (idle.empty()) return new_fiber();
  Fiber* fiber = idle.back();
  idle.pop_back();
  return fiber;
}

void start(unsigned thread) {
  running = block.threads[thread].fiber = fiber_for(thread);
  running->thread = thread;
  switch_context(scheduler, *running);
}
void resume(unsigned thread) {
  running = block.threads[thread].fiber;
  threadIdx = block.threads[thread].index;
  switch_context(scheduler, *running);
}

// --- one block -------------------------------------------------------------------------------------------------------

// Everyone who has not returned stands at a barrier: lets them go on if it is one and the same.
void pass_barrier() {
  const Thread* first = nullptr;
  for (const Thread& t : block.threads) {
    if (t.state != State::at_barrier) continue;
    if (!first) first = &t;
    if (t.line != first->line || (t.file != first->file && strcmp(t.file, first->file)))
      die("block (%u,%u,%u): threads wait at different __syncthreads: %s:%d (thread %u) and %s:%d (thread %u)",
          blockIdx.x, blockIdx.y, blockIdx.z, first->file, first->line, first->index.x, t.file, t.line, t.index.x);
  }
  if (block.done && options().strict)
    die("%s:%d: __syncthreads reached by %zu of %zu threads, the others have returned", first->file, first->line,
        block.waiting, block.threads.size());
  for (unsigned t = 0; t < block.threads.size(); t++) {
    if (block.threads[t].state != State::at_barrier) continue;
    block.threads[t].state = State::ready;
    block.ready.push_back(t);
  }
  block.waiting = 0;
  races::phase++;
  arrange(block.ready, 0);
}

void run_block() {
  if (options().order == Order::random) shuffle_from(block.order, 0);
  block.ready.clear();
  block.next_ready = block.next_fresh = block.done = block.waiting = 0;
  while (block.done < block.threads.size()) {
    if (block.next_ready < block.ready.size()) {
      resume(block.ready[block.next_ready++]);
    } else if (block.next_fresh < block.order.size()) {
      start(block.order[block.next_fresh++]);
    } else {
      block.ready.clear();
      block.next_ready = 0;
      for (const Thread& t : block.threads)
        if (t.state == State::at_warp)
          die("%s:%d: warp intrinsic never completed: a lane named in its mask returned or is elsewhere (thread %u)",
              t.file, t.line, t.index.x);
      pass_barrier();
    }
  }
}

void release_block_memory() {
  for (void* p : block.memory) free(p);
  block.memory.clear();
}

void* shared_memory(size_t size) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, size)) die("no memory for a block's shared memory");
  memset(memory, options().fill, size);
  block.memory.push_back(memory);
  return memory;
}

uint3 position(size_t number, dim3 size) {
  return {static_cast<unsigned>(number % size.x), static_cast<unsigned>(number / size.x % size.y),
          static_cast<unsigned>(number / size.x / size.y)};
}

void prepare_threads() {
  const size_t n = static_cast<size_t>(blockDim.x) * blockDim.y * blockDim.z;
  block.order.resize(n);
  block.threads.resize(n);
  block.warps.resize((n + 31) / 32);
  for (size_t i = 0; i < n; i++) {
    block.order[i] = static_cast<unsigned>(options().order == Order::descending ? n - 1 - i : i);
    block.threads[i].index = position(i, blockDim);
  }
}

std::vector<size_t> order_of_blocks(size_t count) {
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; i++) order[i] = options().order == Order::descending ? count - 1 - i : i;
  if (options().order == Order::random) shuffle_from(order, 0);
  return order;
}

}  // namespace

void wait_here(State state, const char* file, int line) {
  Thread& thread = block.threads[running->thread];
  thread.state = state;
  thread.file = file;
  thread.line = line;
  Fiber* fiber = running;
  switch_context(*fiber, scheduler);
}

void run_grid(const Kernel& launched, dim3 grid, dim3 block_size, size_t shared, void** values) {
  kernel = &launched;
  arguments = values;
  gridDim = grid;
  blockDim = block_size;
  random_state = options().seed;
  prepare_threads();
  races::prepare_grid(block.threads.size());
  const std::vector<size_t> order = order_of_blocks(static_cast<size_t>(grid.x) * grid.y * grid.z);
  for (size_t number = 0; number < order.size(); number++) {
    blockIdx = position(order[number], grid);
    knetemu_block_number++;
    static_shared = 0;
    dynamic_shared = shared ? static_cast<char*>(shared_memory(shared)) : nullptr;
    races::begin_block(number, block.threads.size());
    run_block();
    // Blocks run at the same time on a device: only the grid's end is known to come after them.
    const bool ordered = !options().race_grid || number + 1 == order.size();
    if (ordered) races::acquire(&races::finish);
    if (ordered || !races::engine) release_block_memory();
  }
}

}  // namespace knetemu

using namespace knetemu;
extern "C" {
void knetemu_static_shared(knetemu_shared* array, size_t size) {
  if (array->block != knetemu_block_number) {
    AsEngine engine;
    static_shared += size;
    if (static_shared > kSharedMemory) die("a kernel declares more than %zu bytes of shared memory", kSharedMemory);
    array->memory = shared_memory(size);
    array->block = knetemu_block_number;
    races::release(&races::start);
  }
  races::acquire(&races::start);  // after the engine's fill; of the other threads it says nothing
}
void* knetemu_dynamic_shared(const char* file, int line) {
  if (!dynamic_shared) die("%s:%d: dynamic shared memory in a kernel launched without any", file, line);
  return dynamic_shared;
}
void knetemu_barrier(const char* file, int line) {
  char* token = races::engine ? &races::barriers[8 * (races::phase & 1)] : nullptr;
  races::release(token);
  {
    AsEngine engine;
    block.waiting++;
    wait_here(State::at_barrier, file, line);
  }
  races::acquire(token);
}
}
