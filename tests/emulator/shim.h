// CUDA C++ on a CPU: what a kernel sees of the language (end of the file), and the machine that runs it.
//
// One block at a time runs as fibers, one per CUDA thread: a thread runs until it meets a barrier or a warp operation. A warp
// operation completes when all lanes of its mask have posted it, a barrier when all threads of the block are at it. With EMU_RACES
// ThreadSanitizer takes every fiber of every block for a thread, ordered by barriers and __syncwarp only: shuffles and votes order
// no memory, and blocks not one another.
#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <math.h>  // the overloads for float, without std::
#include <xmmintrin.h>
#include <sys/mman.h>
#ifdef EMU_RACES
#include <sanitizer/tsan_interface.h>
#define EMU_QUIET __attribute__((no_sanitize("thread"), noinline))  // the machine's own state is nobody's race
#else
#define EMU_QUIET
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#define EMU_EXPORT extern "C" __attribute__((visibility("default")))

struct dim3 { unsigned x = 1, y = 1, z = 1; };
dim3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emu {
enum State : char { RUN, AT_BARRIER, AT_WARP, DONE };
struct Site { const char* file = ""; int line = 0; };
inline bool same(Site a, Site b) { return a.line == b.line && std::strcmp(a.file, b.file) == 0; }

char message[512];
std::atomic<bool> failed{false};
void report(const char* form, ...) {  // the first fault is kept
  if (failed.exchange(true)) return;
  va_list more;
  va_start(more, form);
  std::vsnprintf(message, sizeof message, form, more);
  va_end(more);
}

struct Thread {
  State state = RUN;
  dim3 index;
  Site site;
  unsigned mask = 0, ballot = 0;
  int source = 0;
  uint64_t value = 0, got = 0;
  bool predicate = false;
  unsigned barriers = 0, warp_syncs = 0;  // passed so far
  void *stack_pointer = nullptr, *fiber = nullptr;
};

constexpr int SLOTS = 512;
std::atomic<int> next_slot{0};
struct Block {
  dim3 index;
  std::vector<Thread> threads;
  std::unique_ptr<std::atomic<char*>[]> slots{new std::atomic<char*>[SLOTS]()};  // static shared arrays
  std::atomic<long> static_bytes{0};
  char* dynamic = nullptr;
  int answers[3] = {0, 0, 0};  // of the last barrier: or, and, count
  // What ThreadSanitizer orders threads by: the even and the odd barriers; for each warp the even and odd __syncwarp of all lanes,
  // and the others
  char barrier_order[2];
  std::vector<char> warp_order;
  Block(dim3 where, unsigned n, size_t shared) : index(where), threads(n) {
    for (unsigned t = 0; t < n; ++t)
      threads[t].index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
    if (shared) dynamic = poisoned(shared);
    warp_order.resize(3 * warps());
  }
  ~Block() {
    for (int i = 0; i < SLOTS; ++i) std::free(slots[i]);
    std::free(dynamic);
  }
  static char* poisoned(size_t bytes) {  // 0xFF: NaN as float and as double; its own piece of memory, so that ASan sees the ends
    void* at = nullptr;
    if (posix_memalign(&at, 128, bytes)) std::abort();
    return static_cast<char*>(std::memset(at, 0xFF, bytes));
  }
  int warps() const { return (int(threads.size()) + 31) / 32; }
  int lanes(int w) const { return std::min(32, int(threads.size()) - 32 * w); }

  // Completes the warp operations for which every lane of the mask has arrived; true where any has. Nothing can help lanes that
  // wait for one that is at another operation, at a barrier or gone once no lane of the warp runs: a fault.
  EMU_QUIET bool settle(int w) {
    Thread* lane = &threads[32 * w];
    int n = lanes(w);
    bool released = false, running = false;
    for (int i = 0; i < n; ++i) {
      running |= lane[i].state == RUN;
      if (lane[i].state != AT_WARP) continue;
      unsigned mask = lane[i].mask;
      bool ready = n == 32 || mask >> n == 0;
      for (int k = 0; ready && k < n; ++k)
        if (mask >> k & 1) ready = lane[k].state == AT_WARP && lane[k].mask == mask && same(lane[k].site, lane[i].site);
      if (!ready) continue;
      unsigned ballot = 0;
      for (int k = 0; k < n; ++k)
        if (mask >> k & 1 && lane[k].value) ballot |= 1u << k;
      for (int k = 0; k < n; ++k) {
        if (!(mask >> k & 1)) continue;
        int source = lane[k].source;
        if (source >= n || !(mask >> source & 1))
          report("%s:%d: lane %d shuffles from lane %d, which is not in the mask 0x%x", lane[k].site.file, lane[k].site.line, k,
                 source, mask);
        else
          lane[k].got = lane[source].value;
        lane[k].ballot = ballot;
      }
      for (int k = 0; k < n; ++k)
        if (mask >> k & 1) lane[k].state = RUN;
      released = true;
    }
    if (released || running) return released;
    for (int i = 0; i < n; ++i) {
      if (lane[i].state != AT_WARP) continue;
      for (int k = 0; k < 32; ++k) {
        bool here = k < n && lane[k].state == AT_WARP && lane[k].mask == lane[i].mask && same(lane[k].site, lane[i].site);
        if (!(lane[i].mask >> k & 1) || here) continue;
        const char* why = k >= n ? "is not in the block" : lane[k].state == DONE ? "has left the kernel" : "waits elsewhere";
        report("%s:%d: warp operation with mask 0x%x, but lane %d %s%s%s:%d (block %u, warp %d)", lane[i].site.file,
               lane[i].site.line, lane[i].mask, k, why, k < n ? ", last at " : "", k < n ? lane[k].site.file : "",
               k < n ? lane[k].site.line : 0, index.x, w);
        return false;
      }
    }
    return false;
  }

  // True where every thread is at one barrier, with the answers of the voting forms; a fault where some are not and never will be.
  EMU_QUIET bool meet() {
    Site first;
    int waiting = 0, gone = 0, count = 0;
    bool one = true;
    for (Thread& t : threads) {
      gone += t.state == DONE;
      if (t.state != AT_BARRIER) continue;
      if (!waiting++) first = t.site;
      if (!same(t.site, first)) {
        report("divergent barrier: threads of block %u wait at %s:%d and at %s:%d", index.x, first.file, first.line, t.site.file,
               t.site.line);
        return false;
      }
      count += t.predicate;
    }
    if (waiting && gone && waiting + gone == int(threads.size())) {
      report("%s:%d: divergent barrier: %d threads of block %u wait, %d have left the kernel", first.file, first.line, waiting,
             index.x, gone);
      one = false;
    }
    answers[0] = count > 0, answers[1] = count == int(threads.size()), answers[2] = count;
    return one && waiting == int(threads.size());
  }
};

Block* block;
Thread* self;
using Kernel = void (*)(void**);
Kernel kernel;
void** arguments;
inline void before(char* order) {
#ifdef EMU_RACES
  __tsan_release(order);
#endif
}
inline void after(char* order) {
#ifdef EMU_RACES
  __tsan_acquire(order);
#endif
}

#include "fibers.h"

template <class V> V bits(uint64_t raw) { V v; std::memcpy(&v, &raw, sizeof v); return v; }
template <class V> uint64_t raw(V v) {
  static_assert(sizeof(V) <= 8 && std::is_trivially_copyable<V>::value, "warp operations take values of up to 8 bytes");
  uint64_t out = 0;
  std::memcpy(&out, &v, sizeof v);
  return out;
}
inline int lane_id() { return int(self - block->threads.data()) % 32; }
EMU_QUIET inline void post(Site site, unsigned mask, uint64_t value, int source) {
  if (!(mask >> lane_id() & 1))
    report("%s:%d: lane %d calls a warp operation whose mask 0x%x leaves it out", site.file, site.line, lane_id(), mask);
  self->site = site, self->mask = mask, self->value = value, self->source = source;
  suspend(AT_WARP);
}
template <class V> V shuffle(Site site, unsigned mask, V v, int source) {
  post(site, mask, raw(v), source);
  return bits<V>(self->got);
}
template <class V> V shfl(Site s, unsigned m, V v, int source, int width = 32) {
  return shuffle(s, m, v, (lane_id() & ~(width - 1)) + (source & (width - 1)));
}
template <class V> V shfl_up(Site s, unsigned m, V v, unsigned d, int width = 32) {
  int id = lane_id(), from = id - int(d);
  return shuffle(s, m, v, from < (id & ~(width - 1)) ? id : from);
}
template <class V> V shfl_down(Site s, unsigned m, V v, unsigned d, int width = 32) {
  int id = lane_id(), from = id + int(d);
  return shuffle(s, m, v, from > (id | (width - 1)) ? id : from);
}
template <class V> V shfl_xor(Site s, unsigned m, V v, int x, int width = 32) {
  int id = lane_id(), from = id ^ x;
  return shuffle(s, m, v, from > (id | (width - 1)) ? id : from);
}
inline unsigned ballot(Site s, unsigned m, int predicate) { post(s, m, predicate != 0, lane_id()); return self->ballot; }
inline int any(Site s, unsigned m, int p) { return ballot(s, m, p) != 0; }
inline int all(Site s, unsigned m, int p) { return ballot(s, m, p) == m; }
EMU_QUIET inline void syncwarp(Site s, unsigned m = 0xffffffffu) {
  char* order = &block->warp_order[3 * (int(self - block->threads.data()) / 32)] + (m == 0xffffffffu ? self->warp_syncs++ % 2 : 2);
  before(order);
  post(s, m, 0, lane_id());
  after(order);
}
EMU_QUIET inline int barrier(Site site, int which, int predicate) {
  char* order = &block->barrier_order[self->barriers++ % 2];
  self->site = site, self->predicate = predicate != 0;
  before(order);
  suspend(AT_BARRIER);
  after(order);
  return block->answers[which];
}

template <class A> A& shared(int slot) {
  if (slot >= SLOTS) std::abort();
  char* at = block->slots[slot].load(std::memory_order_acquire);
  if (!at) {
    char* mine = Block::poisoned(sizeof(A));
    if (block->slots[slot].compare_exchange_strong(at, mine, std::memory_order_acq_rel)) at = mine, block->static_bytes += sizeof(A);
    else std::free(mine);
  }
  return *reinterpret_cast<A*>(at);
}
inline void bound(unsigned most, unsigned = 0, unsigned = 0) {
  if (blockDim.x * blockDim.y * blockDim.z > most) report("more threads than __launch_bounds__(%u)", most);
}

// Signature of a kernel, in NumPy's names: "p:f8" a pointer to double, "i4" an int.
template <class T> std::string type_name() {
  using U = std::remove_cv_t<T>;
  if (std::is_pointer<U>::value) return "p:" + type_name<std::remove_pointer_t<U>>();
  if (std::is_same<U, bool>::value) return "b1";
  const char* kind = std::is_floating_point<U>::value ? "f" : !std::is_integral<U>::value ? "V" : std::is_signed<U>::value ? "i" : "u";
  return kind + std::to_string(sizeof(std::conditional_t<std::is_void<U>::value, char, U>));
}
template <class... A> const char* signature(void (*)(A...)) {
  static const std::string text = ((type_name<A>() + " ") + ... + "");
  return text.c_str();
}
template <class... A, size_t... I> void spread(void (*f)(A...), void** a, std::index_sequence<I...>) {
  f(*static_cast<std::remove_reference_t<A>*>(a[I])...);
}
template <class... A> void call(void (*f)(A...), void** a) { spread(f, a, std::index_sequence_for<A...>()); }
}  // namespace emu

// The most shared bytes of any block, -1 after a fault. order: 0 forward, 1 backward, 2 random.
EMU_EXPORT long emu_launch(emu::Kernel kernel, void** arguments, const unsigned* grid, const unsigned* threads, size_t shared,
                           int order, unsigned seed, int flush) {
  unsigned mode = _mm_getcsr();
  if (flush) _mm_setcsr(mode | 0x8040);  // subnormal results and operands are zero
  gridDim = {grid[0], grid[1], grid[2]}, blockDim = {threads[0], threads[1], threads[2]};
  emu::kernel = kernel, emu::arguments = arguments, emu::failed = false;
  unsigned n = blockDim.x * blockDim.y * blockDim.z;
  long count = long(gridDim.x) * gridDim.y * gridDim.z, most = 0;
  emu::Order order_of_blocks(order, seed, int(count));
  std::vector<std::unique_ptr<emu::Block>> blocks(count);
  auto make = [&](long i) {
    dim3 at{unsigned(i % gridDim.x), unsigned(i / gridDim.x % gridDim.y), unsigned(i / gridDim.x / gridDim.y)};
    blocks[i].reset(new emu::Block(at, n, shared));
    emu::start(*blocks[i], i);
  };
#ifdef EMU_RACES
  for (long i = 0; i < count; ++i) make(i);  // all before any runs, and none is freed before all have run: blocks race as well
  emu::scheduler_fiber = __tsan_get_current_fiber();
  emu::before(&emu::launch_begin);
#endif
  for (long k = 0; k < count && !emu::failed; ++k) {
    long i = order_of_blocks[k];
#ifndef EMU_RACES
    make(i);
#endif
    emu::run_block(*blocks[i], order, seed + unsigned(k));
    most = std::max(most, blocks[i]->static_bytes + long(shared));
#ifndef EMU_RACES
    blocks[i].reset();
#endif
  }
#ifdef EMU_RACES
  emu::after(&emu::launch_order);
#endif
  _mm_setcsr(mode);
  return emu::failed ? -1 : most;
}
EMU_EXPORT const char* emu_message() { return emu::message; }

#include "language.h"
