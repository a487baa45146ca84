// Streams, events and graphs. Work is done at once, or in lazy mode when something waits for it, in an order that the
// waits alone decide: so a missing wait shows. Ahead, the other streams do all that they may before each work of the one
// that is waited for: so a wait that is missing on those shows too. A stream that is being captured records its work
// instead.
// Before: `memory.cpp`, `kernel.cpp`, `cublas.cpp` and the cuDNN sources submit work.
#include <time.h>

#include <deque>
#include <vector>

#include "emu.h"

using knetemu::Work;

struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
namespace {
long long graphs_made, graph_launches, works;  // of which works are those that no graph did
}
struct Queued {
  Work work;
  CUevent_st* event;  // the work waits for this record of an event, NULL for none
  uint64_t record;
};
struct CUstream_st {
  std::deque<Queued> queue;
  CUgraph_st* capture = nullptr;
  bool joined = false, apart = false;  // it is in another stream's capture, which does not wait for its last work yet
  bool invalid = false;   // the capture is broken
  bool blocking = true;   // waits for the default stream, and the default stream for it
};
struct CUevent_st {
  uint64_t recorded = 0, done = 0;
  CUstream_st* stream = nullptr;  // of the last record
  bool timed = true;
  timespec time = {};
};

namespace knetemu {
namespace {

CUstream_st& default_stream() {
  static CUstream_st stream;
  return stream;
}
Registry<CUstream_st>& streams() {
  static Registry<CUstream_st> all("a stream");
  return all;
}
Registry<CUevent_st>& events() {
  static Registry<CUevent_st> all("an event");
  return all;
}
Registry<CUgraph_st>& graphs() {
  static Registry<CUgraph_st> all("a graph");
  return all;
}
Registry<CUgraphExec_st>& executables() {
  static Registry<CUgraphExec_st> all("an executable graph");
  return all;
}

CUstream_st& get(cudaStream_t stream) {
  const bool is_default = !stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
  return is_default ? default_stream() : streams().get(stream);
}
bool is_default(const CUstream_st& stream) { return &stream == &default_stream(); }

// Does the oldest work of the stream.
void do_oldest(CUstream_st& stream) {
  const Work work = std::move(stream.queue.front().work);
  stream.queue.pop_front();
  work();
}
bool may_go_on(const CUstream_st& stream) {
  if (stream.queue.empty()) return false;
  const Queued& next = stream.queue.front();
  return !next.event || next.event->done >= next.record;
}
void step(CUstream_st& stream) {
  if (options().ahead)
    streams().each([&](CUstream_st& other) {
      while (&other != &stream && may_go_on(other)) do_oldest(other);
    });
  if (!stream.queue.empty()) do_oldest(stream);
}
void drain(CUstream_st& stream) {
  while (!stream.queue.empty()) step(stream);
}
void drain_others() {
  streams().each([](CUstream_st& s) {
    if (s.blocking) drain(s);
  });
}
void drain_blocking() {
  drain(default_stream());
  drain_others();
}

// A call that waits is illegal while what it waits for is being captured, and breaks the capture.
cudaError_t refuse_during(bool capturing) {
  if (!capturing) return cudaSuccess;
  streams().each([](CUstream_st& s) { s.invalid = s.capture != nullptr; });
  return fail(cudaErrorStreamCaptureUnsupported);
}
cudaError_t waits_for(const CUstream_st& stream) { return refuse_during(stream.capture != nullptr); }

void wait_for_event(CUevent_st* event, uint64_t record, CUstream_st* stream) {
  while (event->done < record && (stream == &default_stream() || streams().has(stream)) && !stream->queue.empty())
    step(*stream);
}

}  // namespace

bool is_capturing(cudaStream_t stream) { return get(stream).capture != nullptr; }
cudaError_t waits_for_all() {
  bool any = false;
  streams().each([&](const CUstream_st& s) { any = any || s.capture; });
  return refuse_during(any);
}
// The default stream last: what should have waited for it shows.
void drain_all() {
  streams().each(drain);
  drain(default_stream());
}

void submit(cudaStream_t handle, Work work) { submit_after(handle, std::move(work), nullptr, 0); }

void submit_after(cudaStream_t handle, Work work, CUevent_st* event, uint64_t record) {
  CUstream_st& stream = get(handle);
  if (!stream.capture) works++;
  if (stream.capture) {
    stream.capture->work.push_back(std::move(work));
    stream.apart = stream.joined;
  } else if (!options().lazy) {
    work();
  } else {
    // Either the default stream or blocking ones have work that waits, never both.
    if (is_default(stream))
      drain_others();
    else if (stream.blocking)
      drain(default_stream());
    stream.queue.push_back({std::move(work), event, record});
  }
}

}  // namespace knetemu

using namespace knetemu;
extern "C" {
// --- streams ---------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  *stream = streams().add(new CUstream_st);
  (*stream)->blocking = !(flags & cudaStreamNonBlocking);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Call call;
  drain(streams().get(stream));
  streams().destroy(stream);
  return call.fails() ? fail(cudaErrorUnknown) : cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  Call call;
  CUstream_st& stream = get(handle);
  if (const cudaError_t e = waits_for(stream)) return e;
  if (is_default(stream))
    drain_blocking();
  else
    drain(stream);
  return call.fails() ? fail(cudaErrorUnknown) : cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  Call call;
  if (const cudaError_t e = waits_for_all()) return e;
  drain_all();
  return call.fails() ? fail(cudaErrorUnknown) : cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  return get(stream).queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned int) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  CUstream_st& stream = get(handle);
  CUstream_st* other = events().get(event).stream;
  if (!other) return cudaSuccess;  // never recorded
  if (other->capture && !stream.capture) {
    stream.capture = other->capture;
    stream.joined = true;
  }
  if (stream.capture) {  // a graph's work is done in the order in which it was recorded
    if (!stream.joined) other->apart = false;
    return cudaSuccess;
  }
  const uint64_t record = event->recorded;
  submit_after(handle, [=] { wait_for_event(event, record, other); }, event, record);
  return cudaSuccess;
}

// --- events ----------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  *event = events().add(new CUevent_st);
  (*event)->timed = !(flags & cudaEventDisableTiming);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Call call;
  drain_all();
  events().destroy(event);
  return call.fails() ? fail(cudaErrorUnknown) : cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  events().get(event).stream = &get(stream);
  if (is_capturing(stream)) return cudaSuccess;
  const uint64_t record = ++event->recorded;
  submit(stream, [=] {
    event->done = record;
    clock_gettime(CLOCK_MONOTONIC, &event->time);
  });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Call call;
  CUstream_st* stream = events().get(event).stream;
  if (!stream) return cudaSuccess;
  if (const cudaError_t e = waits_for(*stream)) return e;
  wait_for_event(event, event->recorded, stream);
  return call.fails() ? fail(cudaErrorUnknown) : cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  return events().get(event).done == event->recorded ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  const CUevent_st &a = events().get(start), &b = events().get(end);
  if (!a.timed || !b.timed || !a.recorded || !b.recorded) return fail(cudaErrorInvalidResourceHandle);
  if (a.done != a.recorded || b.done != b.recorded) return fail(cudaErrorNotReady);
  *milliseconds = static_cast<float>(static_cast<double>(b.time.tv_sec - a.time.tv_sec) * 1e3 +
                                     static_cast<double>(b.time.tv_nsec - a.time.tv_nsec) * 1e-6);
  return cudaSuccess;
}

// --- graphs ----------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  CUstream_st& stream = get(handle);
  if (is_default(stream) || options().capture == Capture::never) return fail(cudaErrorStreamCaptureUnsupported);
  if (stream.capture) return fail(cudaErrorIllegalState);
  stream.capture = new CUgraph_st;
  stream.invalid = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  Call call;
  CUstream_st& stream = get(handle);
  *graph = nullptr;
  CUgraph_st* const captured = stream.capture;
  if (!captured) return fail(cudaErrorIllegalState);
  bool apart = false;
  streams().each([&](CUstream_st& s) {
    if (s.capture != captured) return;
    apart = apart || s.apart;
    s.capture = nullptr;
    s.joined = s.apart = false;
  });
  const bool invalid = stream.invalid || apart || options().capture == Capture::breaks, fails = call.fails();
  stream.invalid = false;
  if (invalid || fails) {
    delete captured;
    return fail(invalid ? cudaErrorStreamCaptureInvalidated : cudaErrorUnknown);
  }
  *graph = graphs().add(captured);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  const CUstream_st& stream = get(handle);
  *status = !stream.capture  ? cudaStreamCaptureStatusNone
            : stream.invalid ? cudaStreamCaptureStatusInvalidated
                             : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  graphs_made++;
  *exec = executables().add(new CUgraphExec_st{graphs().get(graph).work});
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  executables().get(exec);
  graph_launches++;
  submit(stream, [=] {
    for (const Work& work : exec->work) work();
  });
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Call call;
  graphs().destroy(graph);
  return call.fails() ? fail(cudaErrorUnknown) : cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  Call call;
  drain_all();
  executables().destroy(exec);
  return call.fails() ? fail(cudaErrorUnknown) : cudaSuccess;
}

long long knetemu_graphs() { return graphs_made; }
long long knetemu_graph_launches() { return graph_launches; }
long long knetemu_works() { return works; }
}
