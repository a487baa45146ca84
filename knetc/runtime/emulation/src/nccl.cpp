// Look-alike of NCCL's sum. Among the models of one process (ncclCommInitAll) nothing waits: the sum is made when the
// last rank has come to it, so what a rank reads before that is not summed yet. Among processes of one machine, one rank
// each (ncclCommInitRank), a sum waits for all ranks, as NCCL's does. All sums are made in the order of the ranks.
#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include <nccl.h>
#include <string.h>

#include "emu.h"
#include "ranks.h"

namespace {

// What a rank gives to one sum.
struct Part {
  const void* from = nullptr;
  void* to = nullptr;
  knetemu::Sum sum = {};
};
// The sums that some ranks of one process have come to and others not, by their number.
struct World {
  size_t ranks = 0;
  std::map<long, std::vector<Part>> open;
};

}  // namespace

struct ncclComm {
  std::shared_ptr<World> world;          // of a process,
  std::shared_ptr<knetemu::Ranks> ranks;  // or of several
  size_t rank = 0;
  long come = 0;  // to so many sums
};

namespace knetemu {
namespace {

Registry<ncclComm>& comms() {
  static Registry<ncclComm> all("a communicator");
  return all;
}

template <class T> void add(const std::vector<Part>& parts) {
  std::vector<T> total(parts[0].sum.count);
  for (const Part& part : parts) {
    const T* from = static_cast<const T*>(part.from);
    require_same(parts[0].sum, part.sum);
    for (size_t i = 0; i < total.size(); i++) total[i] = &part == &parts[0] ? from[i] : total[i] + from[i];
  }
  for (size_t i = 0; parts[0].sum.mean && i < total.size(); i++) total[i] /= static_cast<T>(parts.size());
  for (const Part& part : parts) std::copy(total.begin(), total.end(), static_cast<T*>(part.to));
}

// A rank of this process comes to a sum; the last one makes it.
void arrive(World& world, long number, size_t rank, const Part& part) {
  std::vector<Part>& parts = world.open[number];
  parts.resize(world.ranks);
  parts[rank] = part;
  for (const Part& p : parts)
    if (!p.to) return;
  part.sum.size == sizeof(float) ? add<float>(parts) : add<double>(parts);
  world.open.erase(number);
}

void sum(const ncclComm& comm, long number, const Part& part) {
  const size_t bytes = part.sum.count * part.sum.size;
  check(part.from, bytes, "ncclAllReduce");
  check(part.to, bytes, "ncclAllReduce");
  DeviceMode device;
  if (comm.world)
    arrive(*comm.world, number, comm.rank, part);
  else
    comm.ranks->sum(part.sum, part.from, part.to);
}

}  // namespace
}  // namespace knetemu

using namespace knetemu;

const char* ncclGetErrorString(ncclResult_t result) { return result == ncclSuccess ? "no error" : "an error of NCCL"; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  Call call;
  if (call.fails()) return ncclUnhandledCudaError;
  if (!id) return ncclInvalidArgument;
  return make_meeting_place(id->internal, sizeof id->internal) ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRank(ncclComm_t* made, int ranks, ncclUniqueId id, int rank) {
  Call call;
  if (call.fails()) return ncclUnhandledCudaError;
  if (!made || rank < 0 || rank >= ranks || !memchr(id.internal, 0, sizeof id.internal)) return ncclInvalidArgument;
  const auto met = Ranks::meet(id.internal, ranks, rank);
  if (!met) return ncclSystemError;
  *made = comms().add(new ncclComm{nullptr, met, static_cast<size_t>(rank), 0});
  return ncclSuccess;
}

ncclResult_t ncclCommInitAll(ncclComm_t* made, int count, const int*) {
  Call call;
  if (call.fails()) return ncclUnhandledCudaError;
  if (!made || count < 1) return ncclInvalidArgument;
  const auto world = std::make_shared<World>();
  world->ranks = static_cast<size_t>(count);
  for (int k = 0; k < count; k++) made[k] = comms().add(new ncclComm{world, nullptr, static_cast<size_t>(k), 0});
  return ncclSuccess;
}

ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank) {
  Call call;
  if (call.fails()) return ncclUnhandledCudaError;
  *rank = static_cast<int>(comms().get(comm).rank);
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  Call call;
  drain_all();
  comms().get(comm);  // ends the process where it is none
  comms().destroy(comm);
  return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) { return ncclSuccess; }
ncclResult_t ncclGroupEnd(void) { return ncclSuccess; }

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  Call call;
  if (call.fails()) return ncclUnhandledCudaError;
  comms().get(comm);
  if (!from || !to || (op != ncclSum && op != ncclAvg) || (type != ncclFloat && type != ncclDouble))
    return ncclInvalidArgument;
  const bool captured = is_capturing(stream);
  const Part part = {from, to, {count, type == ncclFloat ? sizeof(float) : sizeof(double), captured, op == ncclAvg}};
  submit(stream, [=] {
    ncclComm& mine = comms().get(comm);
    sum(mine, mine.come++, part);
  });
  return ncclSuccess;
}
