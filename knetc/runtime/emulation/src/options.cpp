// The switches, the lock, the end of a faulty program, the handles that are live, and the counters that make a chosen
// call fail; see `emu.h`.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <mutex>

#include "emu.h"

namespace knetemu {
namespace {

const char* setting(const char* name, const char* otherwise) {
  const char* value = getenv(name);
  return value && *value ? value : otherwise;
}
long number(const char* name, const char* otherwise) { return strtol(setting(name, otherwise), nullptr, 0); }

Options read() {
  Options o{};
  const char* order = setting("KNETEMU_ORDER", "asc");
  o.seed = 1;
  if (!strcmp(order, "asc")) {
    o.order = Order::ascending;
  } else if (!strcmp(order, "desc")) {
    o.order = Order::descending;
  } else if (!strncmp(order, "rand:", 5)) {
    o.order = Order::random;
    o.seed = strtoull(order + 5, nullptr, 10);
  } else {
    die("KNETEMU_ORDER=%s: asc, desc or rand:SEED", order);
  }
  const char* async = setting("KNETEMU_ASYNC", "eager");
  o.ahead = !strcmp(async, "ahead");
  o.lazy = o.ahead || !strcmp(async, "lazy");
  if (!o.lazy && strcmp(async, "eager")) die("KNETEMU_ASYNC=%s: eager, lazy or ahead", async);
  const char* capture = setting("KNETEMU_CAPTURE", "works");
  if (!strcmp(capture, "works"))
    o.capture = Capture::works;
  else if (!strcmp(capture, "never"))
    o.capture = Capture::never;
  else if (!strcmp(capture, "breaks"))
    o.capture = Capture::breaks;
  else
    die("KNETEMU_CAPTURE=%s: works, never or breaks", capture);
  const char* epilogues = setting("KNETEMU_EPILOGUES", "work");
  if (!strcmp(epilogues, "work"))
    o.epilogues = Epilogues::work;
  else if (!strcmp(epilogues, "none"))
    o.epilogues = Epilogues::none;
  else if (!strcmp(epilogues, "late"))
    o.epilogues = Epilogues::late;
  else
    die("KNETEMU_EPILOGUES=%s: work, none or late", epilogues);
  o.strict = number("KNETEMU_STRICT", "1") != 0;
  o.guard = number("KNETEMU_GUARD", "1") != 0;
  o.race_grid = number("KNETEMU_TSAN_GRID", "1") != 0;
  o.ucontext = number("KNETEMU_UCONTEXT", "0") != 0;
  o.fill = static_cast<int>(number("KNETEMU_FILL", "0xff")) & 0xff;
  o.fail_malloc = number("KNETEMU_FAIL_MALLOC", "0");
  o.fail_call = number("KNETEMU_FAIL_CALL", "0");
  o.plain_only = number("KNETEMU_PLAIN_ONLY", "0");
  return o;
}

std::recursive_mutex& lock() {
  static std::recursive_mutex m;
  return m;
}
long long calls, allocations, objects;

}  // namespace

Options switches = read();

void die(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("knetemu: error: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  fflush(stderr);
  abort();
}

Call::Call() { lock().lock(); }
Call::~Call() { lock().unlock(); }
bool Call::fails() { return ++calls == options().fail_call; }
bool allocation_fails() { return ++allocations == options().fail_malloc; }
void count_object(int change) { objects += change; }

void Handles::add(void* object) {
  live_.push_back(object);
  count_object(1);
}
void Handles::remove(void* object) {
  require(object);
  live_.erase(std::find(live_.begin(), live_.end(), object));
  count_object(-1);
}
bool Handles::has(const void* object) const { return std::find(live_.begin(), live_.end(), object) != live_.end(); }
void Handles::require(const void* object) const {
  if (!has(object)) die("use of %s that does not exist (%p)", kind_, object);
}

}  // namespace knetemu

using namespace knetemu;
extern "C" {
void knetemu_reload() {
  Call call;
  const bool ucontext = switches.ucontext;
  switches = read();
  switches.ucontext = ucontext;
  calls = allocations = 0;
  restart_peak();
}
long long knetemu_calls() { return calls; }
long long knetemu_allocations() { return allocations; }
long long knetemu_live_objects() { return objects; }
}
