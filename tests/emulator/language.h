// What CUDA C++ adds to C++, and NVRTC's built-in functions that the kernels may use.
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)
#define __CUDA_ARCH__ 900
#define EMU_SITE emu::Site{__FILE__, __LINE__}
#define __syncthreads() ((void)emu::barrier(EMU_SITE, 0, 0))
#define __syncthreads_or(p) emu::barrier(EMU_SITE, 0, (p))
#define __syncthreads_and(p) emu::barrier(EMU_SITE, 1, (p))
#define __syncthreads_count(p) emu::barrier(EMU_SITE, 2, (p))
#define __syncwarp(...) emu::syncwarp(EMU_SITE, ##__VA_ARGS__)
#define __shfl_sync(...) emu::shfl(EMU_SITE, __VA_ARGS__)
#define __shfl_up_sync(...) emu::shfl_up(EMU_SITE, __VA_ARGS__)
#define __shfl_down_sync(...) emu::shfl_down(EMU_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...) emu::shfl_xor(EMU_SITE, __VA_ARGS__)
#define __ballot_sync(...) emu::ballot(EMU_SITE, __VA_ARGS__)
#define __any_sync(...) emu::any(EMU_SITE, __VA_ARGS__)
#define __all_sync(...) emu::all(EMU_SITE, __VA_ARGS__)

#define EMU_VECTORS(T, name, bytes)                                                                          \
  struct alignas(bytes / 2) name##2 { T x, y; };                                                             \
  struct alignas(bytes > 16 ? 16 : bytes) name##4 { T x, y, z, w; };                                         \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                 \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(float, float, 16)
EMU_VECTORS(double, double, 32)
EMU_VECTORS(int, int, 16)
EMU_VECTORS(unsigned, uint, 16)
#undef EMU_VECTORS

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
namespace emu {
template <class A, class B> using Both = std::common_type_t<A, B>;
template <bool is_real> struct Extremes {
  template <class T> static T low(T a, T b) { return b < a ? b : a; }
  template <class T> static T high(T a, T b) { return a < b ? b : a; }
};
template <> struct Extremes<true> {  // fmin and fmax: a NaN loses
  template <class T> static T low(T a, T b) { return std::fmin(a, b); }
  template <class T> static T high(T a, T b) { return std::fmax(a, b); }
};
}  // namespace emu
template <class A, class B> emu::Both<A, B> min(A a, B b) {
  using T = emu::Both<A, B>;
  return emu::Extremes<std::is_floating_point<T>::value>::low(T(a), T(b));
}
template <class A, class B> emu::Both<A, B> max(A a, B b) {
  using T = emu::Both<A, B>;
  return emu::Extremes<std::is_floating_point<T>::value>::high(T(a), T(b));
}

template <class T> T __ldg(const T* at) { return *at; }
template <class T> T __ldcs(const T* at) { return *at; }
template <class T> T __ldcg(const T* at) { return *at; }
template <class T> void __stcs(T* at, T v) { *at = v; }
inline int __float_as_int(float x) { return emu::bits<int>(emu::raw(x)); }
inline unsigned __float_as_uint(float x) { return emu::bits<unsigned>(emu::raw(x)); }
inline float __int_as_float(int x) { return emu::bits<float>(emu::raw(x)); }
inline float __uint_as_float(unsigned x) { return emu::bits<float>(emu::raw(x)); }
inline long long __double_as_longlong(double x) { return emu::bits<long long>(emu::raw(x)); }
inline double __longlong_as_double(long long x) { return emu::bits<double>(emu::raw(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline void __threadfence() {}  // the atomics below are sequentially consistent: a missing fence is not seen here
inline void __threadfence_block() {}

#define EMU_ATOMIC(name, now)                                                                                \
  template <class T, class V> T name(T* at, V value) {                                                       \
    static_assert(std::is_integral<T>::value, "no atomics on floating-point numbers: sums would not repeat");\
    T v = T(value), old = __atomic_load_n(at, __ATOMIC_SEQ_CST);                                             \
    while (!__atomic_compare_exchange_n(at, &old, T(now), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}     \
    return old;                                                                                              \
  }
EMU_ATOMIC(atomicAdd, old + v)
EMU_ATOMIC(atomicOr, old | v)
EMU_ATOMIC(atomicAnd, old& v)
EMU_ATOMIC(atomicMax, old < v ? v : old)
EMU_ATOMIC(atomicMin, v < old ? v : old)
EMU_ATOMIC(atomicExch, (void(old), v))
EMU_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
#undef EMU_ATOMIC
