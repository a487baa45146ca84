// What the parts of the emulation know of each other. Before: the headers of CUDA, cuBLAS and cuDNN (ours or NVIDIA's),
// whose functions the sources define. `options.cpp`, `engine.cpp`, `memory.cpp` and `stream.cpp` provide what stands here.
//
// All state belongs to the process. Every function of the interface holds one lock while it runs, so several threads may
// call, one at a time; kernels run on the thread that makes the call.
#pragma once
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <functional>
#include <vector>

namespace knetemu {

// --- options.cpp -----------------------------------------------------------------------------------------------------

enum class Order { ascending, descending, random };
enum class Capture { works, never, breaks };
enum class Epilogues { work, none, late };

// The switches, read from the environment when the library is loaded, and by knetemu_reload, which leaves
// `ucontext` alone: stacks are kept between launches.
struct Options {
  Order order;      // KNETEMU_ORDER=asc|desc|rand:SEED, of a grid's blocks and a block's threads
  uint64_t seed;
  bool lazy;        // KNETEMU_ASYNC=lazy: a stream's work is done only when something waits for it
  bool ahead;       // KNETEMU_ASYNC=ahead: lazy, and all other streams do what they may before each work that is done
  bool strict;      // KNETEMU_STRICT=1: a barrier that some threads never reach is an error
  Capture capture;  // KNETEMU_CAPTURE=works|never|breaks: whether a capture can begin, and whether it can end well
  bool guard;       // KNETEMU_GUARD=1: under the address sanitizer, host code can't touch device memory
  bool race_grid;   // KNETEMU_TSAN_GRID=1: the thread sanitizer looks for races between blocks too
  bool ucontext;    // KNETEMU_UCONTEXT=1: switch stacks as on other processors than x86-64
  int fill;         // KNETEMU_FILL=0xff: the byte that fresh device memory holds (0xff: NaN, 0x7e: huge)
  long fail_malloc; // KNETEMU_FAIL_MALLOC=n: the n-th allocation fails
  long fail_call;   // KNETEMU_FAIL_CALL=n: the n-th call that can fail does
  long plain_only;  // KNETEMU_PLAIN_ONLY: convolutions refuse all algorithms but the plain ones, 2: already their sizes
  Epilogues epilogues;  // KNETEMU_EPILOGUES=work|none|late: none: cuBLASLt finds no algorithm; late: it refuses what it found
};
extern Options switches;
inline const Options& options() { return switches; }

// Ends the process with a message: the emitted code has done what no status can report.
[[noreturn]] void die(const char* format, ...) __attribute__((format(printf, 1, 2)));

// One call of the interface: holds the lock. `fails` counts the call and says whether it is the one that must fail: it
// does nothing then, unless it is one that frees or waits, which reports what went wrong before, as on a device.
class Call {
 public:
  Call();
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  bool fails();
};
bool allocation_fails();
void count_object(int change);  // of live handles, descriptors, streams, events, graphs and allocations

// Objects of one kind that the interface has handed out. Use of one that is not live ends the process.
class Handles {
 public:
  explicit Handles(const char* kind) : kind_(kind) {}
  void add(void* object);
  void remove(void* object);
  bool has(const void* object) const;
  void require(const void* object) const;
  const std::vector<void*>& all() const { return live_; }

 private:
  const char* kind_;
  std::vector<void*> live_;  // in the order of their making: never many
};
template <class T> class Registry {
 public:
  explicit Registry(const char* kind) : handles_(kind) {}
  T* add(T* object) {
    handles_.add(object);
    return object;
  }
  T& get(T* object) const {
    handles_.require(object);
    return *object;
  }
  void destroy(T* object) {
    handles_.remove(object);
    delete object;
  }
  bool has(T* object) const { return handles_.has(object); }
  template <class F> void each(F f) const {
    for (void* object : handles_.all()) f(*static_cast<T*>(object));
  }

 private:
  Handles handles_;
};

// --- memory.cpp ------------------------------------------------------------------------------------------------------

bool is_device(const void* pointer);
void restart_peak();  // of the memory in use
// Ends the process unless [pointer, pointer + bytes) lies in one device allocation.
void check(const void* pointer, size_t bytes, const char* who);
// Device memory may be touched only while one of these lives.
class DeviceMode {
 public:
  DeviceMode();
  ~DeviceMode();
  DeviceMode(const DeviceMode&) = delete;
  DeviceMode& operator=(const DeviceMode&) = delete;
};
cudaError_t fail(cudaError_t error);  // remembers it for cudaGetLastError

// --- stream.cpp ------------------------------------------------------------------------------------------------------

using Work = std::function<void()>;
// Runs, queues or records `work`, as the stream's state and the options say.
void submit(cudaStream_t stream, Work work);
void submit_after(cudaStream_t stream, Work work, cudaEvent_t event, uint64_t record);  // that waits for that record
void drain_all();
bool is_capturing(cudaStream_t stream);
// cudaSuccess, or the error of a call that waits while a stream (any, for waits_for_all) is being captured.
cudaError_t waits_for_all();

// --- kernel.cpp, engine.cpp ------------------------------------------------------------------------------------------

struct Kernel {
  const void* address;
  void (*caller)(const void* kernel, void** arguments);
  int parameters;
  const size_t* sizes;  // of the parameters; KNETEMU_POINTER is set in those of pointers
};
// Makes the kernel at `address` run whenever `stub` is launched.
void alias_kernel(const void* stub, const void* address);
void run_grid(const Kernel& kernel, dim3 grid, dim3 block, size_t shared, void** arguments);

constexpr size_t kSharedMemory = 48 << 10;        // bytes that every kernel may use
constexpr size_t kSharedMemoryOptIn = 227 << 10;  // after cudaFuncSetAttribute

// --- gemm.cpp --------------------------------------------------------------------------------------------------------

// c = alpha op(a) op(b) + beta c, column-major; op(a) is m by k, op(b) k by n. c is not read where beta is 0.
template <class T>
void gemm(bool ta, bool tb, int m, int n, int k, T alpha, const T* a, int lda, const T* b, int ldb, T beta, T* c,
          int ldc);

// --- cublas.cpp ------------------------------------------------------------------------------------------------------

extern std::atomic<long long> products;  // see knetemu_products

}  // namespace knetemu

// What tests ask of the emulation itself.
extern "C" {
void knetemu_reload(void);             // reads the environment again and counts from 0
long long knetemu_calls(void);         // calls that could have failed
long long knetemu_allocations(void);   // device and pinned allocations asked for
long long knetemu_live_objects(void);  // whatever has been created and not destroyed
long long knetemu_live_bytes(void);    // device memory in use
long long knetemu_peak_bytes(void);    // the most since the start or the last reload
long long knetemu_graphs(void);          // graphs made so far
long long knetemu_graph_launches(void);  // launches of them
long long knetemu_products(void);        // matrix products of cuBLAS and cuBLASLt done so far, graphs' too
long long knetemu_works(void);           // launches, copies, calls of libraries and graphs, outside captures
int knetemu_convolution(int call);       // the algorithm of the last convolution: 0 forward, 1 backward data, 2 filter
}
