// Processes of one machine that sum arrays, through a file that they all map. Part of `nccl.cpp`.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <memory>

namespace knetemu {

// One sum as a rank asks for it: elements, bytes of each, whether a graph does it, and whether it is divided by the
// number of ranks. All ranks must ask for the same.
struct Sum {
  size_t count, size;
  bool captured, mean;
};
void require_same(const Sum& a, const Sum& b);  // ends the process where they differ

// Makes the file where ranks meet, and its name.
bool make_meeting_place(char* name, size_t room);

class Ranks {
 public:
  // Waits for all ranks to come to the file of that name. NULL where there is none.
  static std::shared_ptr<Ranks> meet(const char* name, int ranks, int rank);
  Ranks(void* shared, int ranks, int rank) : shared_(static_cast<char*>(shared)), ranks_(ranks), rank_(rank) {}
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;
  // Waits for all ranks to come to the same sum, and makes it.
  void sum(const Sum& sum, const void* from, void* to);

 private:
  void wait();
  char* slot(int rank) const;
  template <class T> void add(T* to, size_t count, bool mean) const;

  char* shared_;
  int ranks_, rank_;
  uint64_t waits_ = 0;
};

}  // namespace knetemu
