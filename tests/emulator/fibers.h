// Fibers, one per CUDA thread: a switch saves the callee-saved registers on the stack of the fiber it leaves.
constexpr size_t STACK = 256 * 1024;  // touched pages only take memory

#if defined(__x86_64__)
extern "C" void emu_switch(void** save, void* load);
asm(R"(
.text
.type emu_switch, @function
emu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
#else
#error "the switch of fibers is written for x86-64 only"
#endif

struct Order {  // of blocks, warps or lanes: 0 forward, 1 backward, 2 random
  int kind, n;
  std::vector<int> shuffled;
  Order(int kind, unsigned seed, int n) : kind(kind), n(n) {
    if (kind != 2) return;
    shuffled.resize(n);
    uint64_t x = seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
    for (int i = 0; i < n; ++i) {
      x ^= x << 13, x ^= x >> 7, x ^= x << 17;
      int k = int(x % (i + 1));
      shuffled[i] = shuffled[k], shuffled[k] = i;
    }
  }
  int operator[](int i) const { return kind == 0 ? i : kind == 1 ? n - 1 - i : shuffled[i]; }
};

void* scheduler;
#ifdef __SANITIZE_ADDRESS__
void* fake;
const void* scheduler_stack;
size_t scheduler_size;
#endif

#ifdef EMU_RACES
char launch_begin, launch_order;  // all that threads do comes after what precedes the launch, and before what follows it
void* scheduler_fiber;
#endif

EMU_QUIET void suspend(State state) {
  self->state = state;
#ifdef EMU_RACES
  before(&launch_order);
  __tsan_switch_to_fiber(scheduler_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef __SANITIZE_ADDRESS__
  void* mine = nullptr;
  __sanitizer_start_switch_fiber(state == DONE ? nullptr : &mine, scheduler_stack, scheduler_size);
#endif
  emu_switch(&self->stack_pointer, scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(mine, &scheduler_stack, &scheduler_size);
#endif
}

EMU_QUIET void enter() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
#ifdef EMU_RACES
  after(&launch_begin);
#endif
  kernel(arguments);
  suspend(DONE);
}

char* stack_of(int t) {
  static std::vector<char*> stacks;
  while (int(stacks.size()) <= t) {
    void* at = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) std::abort();
    mprotect(at, 4096, PROT_NONE);  // a stack that overflows must not run into its neighbour
    stacks.push_back(static_cast<char*>(at));
  }
  return stacks[t];
}

EMU_QUIET void resume(Thread& t, int number) {
  self = &t, threadIdx = t.index;
#ifdef EMU_RACES
  __tsan_switch_to_fiber(t.fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fake, stack_of(number), STACK);
#endif
  emu_switch(&scheduler, t.stack_pointer);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// Prepares the stacks of a block's threads. Blocks that ThreadSanitizer is to tell apart must not share a stack.
void start(Block& b, long number) {
  int n = int(b.threads.size());
  for (int t = 0; t < n; ++t) {
#ifdef EMU_RACES
    int mine = int(number) * n + t;
    static std::vector<void*> fibers;  // dear to make, so they are used again
    while (int(fibers.size()) <= mine) fibers.push_back(__tsan_create_fiber(0));
    char* stack = stack_of(mine);
    b.threads[t].fiber = fibers[mine];
#else
    char* stack = stack_of(t);
#endif
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stack + 4096, STACK - 4096);  // a fiber that a fault abandoned has left its marks
#endif
    void** top = reinterpret_cast<void**>(stack + STACK) - 2;
    top[0] = reinterpret_cast<void*>(&enter), top[1] = nullptr;  // `ret` goes to enter
    std::memset(top - 6, 0, 6 * sizeof(void*));
    b.threads[t].stack_pointer = top - 6;
  }
}

EMU_QUIET void run_block(Block& b, int order, unsigned seed) {
  block = &b, blockIdx = b.index;
  for (;;) {
    for (bool moved = true; moved;) {  // until every thread waits at a barrier or is done
      moved = false;
      Order warps(order, ++seed, b.warps());
      for (int k = 0; k < b.warps(); ++k) {
        int w = warps[k];
        for (bool again = true; again; moved |= again) {
          Order lanes(order, ++seed, b.lanes(w));
          bool ran = false;
          for (int i = 0; i < b.lanes(w); ++i) {
            Thread& t = b.threads[32 * w + lanes[i]];
            if (t.state != RUN) continue;
            ran = true;
            resume(t, 32 * w + lanes[i]);
            if (failed) return;
          }
          again = b.settle(w);
          if (failed) return;
          moved |= ran;
          if (order == 2) break;  // warps overtake one another
        }
      }
    }
    bool over = true;
    for (Thread& t : b.threads) over &= t.state == DONE;
    if (over || !b.meet()) return;
    for (Thread& t : b.threads) t.state = RUN;
  }
}
