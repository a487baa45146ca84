// Which of several processes this one is, and the communicator of NCCL among them, for `lenet_mnist.cpp`.
//
// Before: a launcher that sets RANK, WORLD_SIZE and LOCAL_RANK (torchrun), or is Slurm's srun or Open MPI's mpirun, whose
// own variables are read. After: gradients that are summed over all processes. The id of the communicator goes through
// a file that all of them can read. Without -DKNET_NCCL there is one process.
#pragma once
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "lenet.h"
#ifdef KNET_NCCL
#include <cuda_runtime.h>
#include <nccl.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#endif

namespace ranks {

// The first of these variables that is set, as a number.
inline int variable(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names)
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return otherwise;
}

struct World {
  int rank = 0, size = 1;

  // This process's columns of a minibatch: as even as may be; `mine` is 0 where there are fewer columns than processes.
  void share(int columns, int& first, int& mine) const {
    const int least = columns / size, more = columns % size;
    first = rank * least + (rank < more ? rank : more);
    mine = least + (rank < more);
  }
};

// In a job of Slurm's, mpirun's processes have Slurm's variables too, and all of them the same: mpirun's count first.
inline World world() {
  World w;
  w.size = variable({"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"}, 1);
  w.rank = variable({"RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"}, 0);
  if (w.size < 1 || w.rank < 0 || w.rank >= w.size) throw std::runtime_error("RANK does not fit to WORLD_SIZE");
#ifndef KNET_NCCL
  if (w.size > 1) throw std::runtime_error("several processes need a program that is built with -DKNET_NCCL");
#endif
  return w;
}

#ifdef KNET_NCCL
inline void check(ncclResult_t result, const char* call) {
  if (result) throw std::runtime_error(std::string(call) + ": " + ncclGetErrorString(result));
}

// Hands the id of rank 0 to all: by a file that comes into being whole.
inline ncclUniqueId exchange_id(const World& w, const std::string& file) {
  ncclUniqueId id;
  if (w.rank == 0) {
    check(ncclGetUniqueId(&id), "ncclGetUniqueId");
    std::ofstream(file + ".part", std::ios::binary).write(id.internal, sizeof id.internal);
    if (std::rename((file + ".part").c_str(), file.c_str())) throw std::runtime_error("cannot write " + file);
    return id;
  }
  for (int tries = 0; tries < 3000; tries++) {  // five minutes
    std::ifstream in(file, std::ios::binary);
    if (in.read(id.internal, sizeof id.internal)) return id;
    usleep(100000);
  }
  throw std::runtime_error(file + " has not come from rank 0");
}

// The communicator of all processes, on the device that is this one's on its machine; NULL for one process.
class Communicator {
 public:
  Communicator(const World& w, const std::string& file) {
    if (w.size == 1) return;
    if (file.empty()) throw std::runtime_error("several processes need --id FILE, in a folder that all can read");
    if (cudaSetDevice(variable({"LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}, 0)))
      throw std::runtime_error("there is no device for this LOCAL_RANK");
    const ncclUniqueId id = exchange_id(w, file);
    check(ncclCommInitRank(&comm_, w.size, id, w.rank), "ncclCommInitRank");
    if (w.rank == 0) std::remove(file.c_str());  // all have read it
  }
  ~Communicator() {
    if (comm_) ncclCommDestroy(comm_);
  }
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  int give(lenet_model* model) const { return lenet_set_communicator(model, comm_); }

 private:
  ncclComm_t comm_ = nullptr;
};
#else
struct Communicator {
  Communicator(const World&, const std::string&) {}
  int give(lenet_model*) const { return KNET_OK; }
};
#endif

}  // namespace ranks
