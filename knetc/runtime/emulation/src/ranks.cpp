// Sums among processes: each copies a stretch of its array to its slot of a shared file, waits for all, adds all slots in
// the order of the ranks, and waits for all again. See `ranks.h`.
#include "ranks.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "emu.h"

namespace knetemu {
namespace {

constexpr size_t kStretch = 1 << 18, kHead = 4096, kSlot = kHead + kStretch;
constexpr time_t kLongest = 120;  // seconds: a rank that does not come is a fault, and NCCL would wait for ever

size_t size_of(int ranks) { return kHead + static_cast<size_t>(ranks) * kSlot; }

}  // namespace

void require_same(const Sum& a, const Sum& b) {
  if (a.count != b.count || a.size != b.size)
    die("ncclAllReduce: ranks sum %zu and %zu elements of %zu and %zu bytes", a.count, b.count, a.size, b.size);
  if (a.mean != b.mean) die("ncclAllReduce: one rank takes a sum, and another a mean");
  if (a.captured != b.captured) die("ncclAllReduce: one rank has captured a sum as a graph, and another has not");
}

bool make_meeting_place(char* name, size_t room) {
  const char* folder = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
  snprintf(name, room, "%s/knetemu-%ld-XXXXXX", folder, static_cast<long>(getpid()));
  const int file = mkstemp(name);
  return file >= 0 && !close(file);
}

std::shared_ptr<Ranks> Ranks::meet(const char* name, int ranks, int rank) {
  const int file = open(name, O_RDWR | O_CLOEXEC);
  if (file < 0) return nullptr;
  const size_t size = size_of(ranks);
  void* shared = ftruncate(file, static_cast<off_t>(size))
                     ? MAP_FAILED
                     : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (shared == MAP_FAILED) return nullptr;
  const auto met = std::make_shared<Ranks>(shared, ranks, rank);
  met->wait();
  if (rank == 0) unlink(name);  // all have it open
  return met;
}

Ranks::~Ranks() { munmap(shared_, size_of(ranks_)); }

// The head of the file counts arrivals.
void Ranks::wait() {
  auto& arrived = *reinterpret_cast<std::atomic<uint64_t>*>(shared_);
  const uint64_t all = ++waits_ * static_cast<uint64_t>(ranks_);
  const time_t start = time(nullptr);
  arrived.fetch_add(1);
  while (arrived.load() < all) {
    sched_yield();
    if (time(nullptr) - start > kLongest) die("NCCL: rank %d waits for another that does not come", rank_);
  }
}

char* Ranks::slot(int rank) const { return shared_ + kHead + static_cast<size_t>(rank) * kSlot; }

template <class T> void Ranks::add(T* to, size_t count, bool mean) const {
  for (int r = 0; r < ranks_; r++) {
    const T* from = reinterpret_cast<const T*>(slot(r) + kHead);
    for (size_t i = 0; i < count; i++) to[i] = r ? to[i] + from[i] : from[i];
  }
  for (size_t i = 0; mean && i < count; i++) to[i] /= static_cast<T>(ranks_);
}

void Ranks::sum(const Sum& sum, const void* from, void* to) {
  for (size_t at = 0; at < sum.count * sum.size; at += kStretch) {
    const size_t bytes = std::min(kStretch, sum.count * sum.size - at);
    memcpy(slot(rank_), &sum, sizeof sum);
    memcpy(slot(rank_) + kHead, static_cast<const char*>(from) + at, bytes);
    wait();
    for (int r = 0; r < ranks_; r++) require_same(sum, *reinterpret_cast<const Sum*>(slot(r)));
    void* const part = static_cast<char*>(to) + at;
    if (sum.size == sizeof(float))
      add(static_cast<float*>(part), bytes / sizeof(float), sum.mean);
    else
      add(static_cast<double*>(part), bytes / sizeof(double), sum.mean);
    wait();
  }
}

}  // namespace knetemu
