// Look-alike of NCCL's sum among the models of one process. Nothing waits: the sum is made when the last rank has come
// to it, in the order of the ranks, so what a rank reads before that is not summed yet.
#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include <nccl.h>

#include "emu.h"

namespace {

// What a rank gives to one sum.
struct Part {
  const void* from = nullptr;
  void* to = nullptr;
  size_t count = 0;
};
// The sums that some ranks have come to and others not, by their number.
struct World {
  size_t ranks = 0;
  std::map<long, std::vector<Part>> open;
};

}  // namespace

struct ncclComm {
  std::shared_ptr<World> world;
  size_t rank = 0;
  long asked = 0;
};

namespace knetemu {
namespace {

Registry<ncclComm>& comms() {
  static Registry<ncclComm> all("a communicator");
  return all;
}

template <class T> void sum(const std::vector<Part>& parts) {
  std::vector<T> total(parts[0].count);
  for (const Part& part : parts) {
    const T* from = static_cast<const T*>(part.from);
    if (part.count != total.size()) die("ncclAllReduce: ranks sum %zu and %zu elements", total.size(), part.count);
    for (size_t i = 0; i < total.size(); i++) total[i] = &part == &parts[0] ? from[i] : total[i] + from[i];
  }
  for (const Part& part : parts) std::copy(total.begin(), total.end(), static_cast<T*>(part.to));
}

template <class T> void arrive(World& world, long number, size_t rank, const Part& part) {
  check(part.from, part.count * sizeof(T), "ncclAllReduce");
  check(part.to, part.count * sizeof(T), "ncclAllReduce");
  std::vector<Part>& parts = world.open[number];
  parts.resize(world.ranks);
  parts[rank] = part;
  for (const Part& p : parts)
    if (!p.to) return;
  DeviceMode device;
  sum<T>(parts);
  world.open.erase(number);
}

}  // namespace
}  // namespace knetemu

using namespace knetemu;

const char* ncclGetErrorString(ncclResult_t result) { return result == ncclSuccess ? "no error" : "an error of NCCL"; }

ncclResult_t ncclCommInitAll(ncclComm_t* made, int count, const int*) {
  Call call;
  if (call.fails()) return ncclUnhandledCudaError;
  if (!made || count < 1) return ncclInvalidArgument;
  const auto world = std::make_shared<World>();
  world->ranks = static_cast<size_t>(count);
  for (int k = 0; k < count; k++) {
    made[k] = comms().add(new ncclComm{world, static_cast<size_t>(k), 0});
    count_object(1);
  }
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  Call call;
  comms().get(comm);  // ends the process where it is none
  comms().destroy(comm);
  count_object(-1);
  return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) { return ncclSuccess; }
ncclResult_t ncclGroupEnd(void) { return ncclSuccess; }

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  Call call;
  if (call.fails()) return ncclUnhandledCudaError;
  ncclComm& mine = comms().get(comm);
  if (!from || !to || op != ncclSum || (type != ncclFloat && type != ncclDouble)) return ncclInvalidArgument;
  const auto world = mine.world;
  const size_t rank = mine.rank;
  const long number = mine.asked++;
  const Part part = {from, to, count};
  submit(stream, [=] {
    if (type == ncclFloat)
      arrive<float>(*world, number, rank, part);
    else
      arrive<double>(*world, number, rank, part);
  });
  return ncclSuccess;
}
