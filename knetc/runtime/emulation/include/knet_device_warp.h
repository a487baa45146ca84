// Warp shuffles and votes, and atomic operations, for `knet_device_emu.h`, which includes this file. A shuffle parks the
// CUDA thread until every lane of its mask has come (`src/warp.cpp`); an atomic operation is one in C++ too, so that the
// thread sanitizer tells it from a plain update.
#pragma once

#define __syncwarp(...) knetemu::meet(__FILE__, __LINE__, ##__VA_ARGS__)
#define __shfl_sync(mask, value, source, ...) \
  knetemu::shuffle<knetemu::Shuffle::index>(__FILE__, __LINE__, mask, value, source, ##__VA_ARGS__)
#define __shfl_xor_sync(mask, value, lanes, ...) \
  knetemu::shuffle<knetemu::Shuffle::exclusive_or>(__FILE__, __LINE__, mask, value, lanes, ##__VA_ARGS__)
#define __shfl_down_sync(mask, value, delta, ...) \
  knetemu::shuffle<knetemu::Shuffle::down>(__FILE__, __LINE__, mask, value, delta, ##__VA_ARGS__)
#define __shfl_up_sync(mask, value, delta, ...) \
  knetemu::shuffle<knetemu::Shuffle::up>(__FILE__, __LINE__, mask, value, delta, ##__VA_ARGS__)
#define __ballot_sync(mask, predicate) knetemu::ballot(__FILE__, __LINE__, mask, predicate)
#define __any_sync(mask, predicate) (knetemu::ballot(__FILE__, __LINE__, mask, predicate) != 0)
#define __all_sync(mask, predicate) knetemu::all(__FILE__, __LINE__, mask, predicate)

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

template <Shuffle kind, class T>
T shuffle(const char* file, int line, unsigned mask, T value, int by, int width = 32) {
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

inline void meet(const char* file, int line, unsigned mask = 0xffffffffu) {
  unsigned lane;
  knetemu_exchange(mask, 0, file, line, &lane);
}

inline unsigned ballot(const char* file, int line, unsigned mask, int predicate) {
  unsigned lane, votes = 0;
  const uint64_t* board = knetemu_exchange(mask, predicate != 0, file, line, &lane);
  for (unsigned other = 0; other < 32; other++)
    if (mask >> other & 1u && board[other]) votes |= 1u << other;
  return votes;
}

inline int all(const char* file, int line, unsigned mask, int predicate) {
  return ballot(file, line, mask, predicate) == mask;
}

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
