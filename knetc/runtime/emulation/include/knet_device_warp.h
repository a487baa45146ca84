// Warp shuffles and votes, and atomic operations, for `knet_device_emu.h`, which includes this file. A shuffle parks the
// CUDA thread until every lane of its mask has come (`src/warp.cpp`); an atomic operation is one in C++ too, so that the
// thread sanitizer tells it from a plain update.
#pragma once

#define KNETEMU_HERE (knetemu::Place{__FILE__, __LINE__})
#define __syncwarp(...) KNETEMU_HERE.meet(__VA_ARGS__)
#define __shfl_sync(...) KNETEMU_HERE.shuffle<knetemu::Shuffle::index>(__VA_ARGS__)
#define __shfl_xor_sync(...) KNETEMU_HERE.shuffle<knetemu::Shuffle::exclusive_or>(__VA_ARGS__)
#define __shfl_down_sync(...) KNETEMU_HERE.shuffle<knetemu::Shuffle::down>(__VA_ARGS__)
#define __shfl_up_sync(...) KNETEMU_HERE.shuffle<knetemu::Shuffle::up>(__VA_ARGS__)
#define __ballot_sync(...) KNETEMU_HERE.ballot(__VA_ARGS__)
#define __any_sync(...) (KNETEMU_HERE.ballot(__VA_ARGS__) != 0)
#define __all_sync(...) KNETEMU_HERE.all(__VA_ARGS__)

namespace knetemu __attribute__((visibility("hidden"))) {

enum class Shuffle { index, exclusive_or, down, up };

// The lane whose value `lane` receives, within its group of `width` lanes.
template <Shuffle kind> unsigned source_lane(unsigned lane, int by, int width) {
  const int base = static_cast<int>(lane) & ~(width - 1), own = static_cast<int>(lane) & (width - 1);
  int from = own;
  if (kind == Shuffle::index) from = by & (width - 1);
  if (kind == Shuffle::exclusive_or) from = own ^ by;
  if (kind == Shuffle::down) from = own + by;
  if (kind == Shuffle::up) from = own - by;
  return static_cast<unsigned>(base + (from < 0 || from >= width ? own : from));
}

// Where an intrinsic stands in the source; the intrinsics themselves.
struct Place {
  const char* file;
  int line;

  template <Shuffle kind, class T> T shuffle(unsigned mask, T value, int by, int width = 32) const {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a shuffle moves at most 8 bytes");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof(T));
    unsigned lane;
    const uint64_t* board = knetemu_exchange(mask, word, file, line, &lane);
    const unsigned from = source_lane<kind>(lane, by, width);
    T result;
    if (mask >> from & 1u)
      memcpy(&result, &board[from], sizeof(T));
    else
      memset(&result, 0xff, sizeof(T));  // a lane outside the mask: undefined on a device, NaN here
    return result;
  }

  void meet(unsigned mask = 0xffffffffu) const {
    unsigned lane;
    knetemu_exchange(mask, 0, file, line, &lane);
  }

  unsigned ballot(unsigned mask, int predicate) const {
    unsigned lane, votes = 0;
    const uint64_t* board = knetemu_exchange(mask, predicate != 0, file, line, &lane);
    for (unsigned other = 0; other < 32; other++)
      if (mask >> other & 1u && board[other]) votes |= 1u << other;
    return votes;
  }

  int all(unsigned mask, int predicate) const { return ballot(mask, predicate) == mask; }
};

template <class T, class F> T atomic_update(T* address, F change) {
  T old, changed;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do changed = change(old);
  while (!__atomic_compare_exchange(address, &old, &changed, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

template <class T> struct identity {
  using type = T;
};

}  // namespace knetemu

#define KNETEMU_T typename knetemu::identity<T>::type
template <class T> static inline T atomicAdd(T* address, KNETEMU_T v) {
  return knetemu::atomic_update(address, [=](T old) { return T(old + v); });
}
template <class T> static inline T atomicSub(T* address, KNETEMU_T v) {
  return knetemu::atomic_update(address, [=](T old) { return T(old - v); });
}
template <class T> static inline T atomicMax(T* address, KNETEMU_T v) {
  return knetemu::atomic_update(address, [=](T old) { return old < v ? v : old; });
}
template <class T> static inline T atomicMin(T* address, KNETEMU_T v) {
  return knetemu::atomic_update(address, [=](T old) { return v < old ? v : old; });
}
template <class T> static inline T atomicExch(T* address, KNETEMU_T v) {
  return knetemu::atomic_update(address, [=](T) { return v; });
}
template <class T> static inline T atomicCAS(T* address, KNETEMU_T expected, KNETEMU_T v) {
  return knetemu::atomic_update(address, [=](T old) { return old == expected ? v : old; });
}
#undef KNETEMU_T
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
