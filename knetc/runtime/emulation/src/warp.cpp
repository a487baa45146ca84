// Warp intrinsics: the lanes that a mask names leave a value each and go on when all have come. Before: `engine.cpp` runs
// the threads. After: `include/knet_device_warp.h` reads the board.
#include <stdlib.h>

#include "engine.h"
#include "knet_device_emu.h"

namespace knetemu {
namespace {

Meeting* open_meeting(std::vector<Meeting*>& warp, unsigned mask, const char* file, int line) {
  Meeting* meeting = nullptr;
  for (Meeting* m : warp)
    if (!m->open && !m->leaving) meeting = m;
  if (!meeting) {
    meeting = static_cast<Meeting*>(calloc(1, sizeof(Meeting)));
    if (!meeting) die("no memory for a warp's meeting");
    warp.push_back(meeting);
  }
  meeting->mask = mask;
  meeting->arrived = meeting->leaving = 0;
  meeting->open = true;
  meeting->file = file;
  meeting->line = line;
  return meeting;
}

// The meeting that this lane joins: the one open for its mask, or a new one.
Meeting* join(unsigned thread, unsigned mask, uint64_t value, const char* file, int line) {
  const unsigned lane = thread % 32, warp = thread / 32;
  if (!(mask >> lane & 1u)) die("%s:%d: lane %u is not in its own mask %08x", file, line, lane, mask);
  const size_t lanes = block.threads.size() - warp * 32;
  if (lanes < 32 && mask >> lanes) die("%s:%d: mask %08x names lanes beyond the block's end", file, line, mask);
  Meeting* meeting = nullptr;
  for (Meeting* m : block.warps[warp])
    if (m->open && m->mask == mask && !(m->arrived >> lane & 1u)) meeting = m;
  if (!meeting) meeting = open_meeting(block.warps[warp], mask, file, line);
  if (meeting->line != line)
    die("%s:%d and line %d: lanes of one mask meet at different warp intrinsics", file, line, meeting->line);
  meeting->board[lane] = value;
  meeting->arrived |= 1u << lane;
  meeting->leaving++;
  races::release(meeting);  // the board is written in the engine's name
  return meeting;
}

void complete(Meeting* meeting, unsigned last) {
  meeting->open = false;
  const unsigned base = last - last % 32;
  for (unsigned lane = 0; lane < 32; lane++) {
    if (!(meeting->mask >> lane & 1u) || base + lane == last) continue;
    block.threads[base + lane].state = State::ready;
    block.ready.push_back(base + lane);
  }
  arrange(block.ready, block.next_ready);
}

}  // namespace
}  // namespace knetemu

using namespace knetemu;
extern "C" const uint64_t* knetemu_exchange(unsigned mask, uint64_t value, const char* file, int line, unsigned* lane) {
  const unsigned thread = running->thread;
  *lane = thread % 32;
  Meeting* meeting;
  {
    AsEngine engine;
    meeting = join(thread, mask, value, file, line);
  }
  races::release(meeting);
  {
    AsEngine engine;
    if (meeting->arrived == meeting->mask)
      complete(meeting, thread);
    else
      wait_here(State::at_warp, file, line);
    meeting->leaving--;
  }
  races::acquire(meeting);
  return meeting->board;
}
