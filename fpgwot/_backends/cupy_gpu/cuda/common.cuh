// What every kernel uses. The names ix:: (places in the packed arrays, ROWS, DRIFT, ...) come from `_protocol.py`, written in front
// by the host. A work item is (problem b, block of ROWS rows); b uses the first size[b] rows and columns. Sums are float64, added
// in a fixed order: lanes of a warp by butterfly, warps of a block by number, blocks by number.
typedef long long i64;
constexpr unsigned ALL = 0xffffffffu;
constexpr int LANES = 32, WARPS = 8, SIDE = ix::ROWS / WARPS;  // SIDE rows of a work item run side by side in one warp
static_assert(ix::ROWS == 32, "a work item has a row for each lane");

template <typename real> struct Least;  // below it a logarithm is cut
template <> struct Least<float> { static constexpr float value = 1e-37f; };
template <> struct Least<double> { static constexpr double value = 1e-300; };

__device__ __forceinline__ float expo(float x) { return exp2f(x * 1.44269504f); }
__device__ __forceinline__ double expo(double x) { return exp(x); }
__device__ __forceinline__ float loga(float x) { return logf(fmaxf(x, Least<float>::value)); }
__device__ __forceinline__ double loga(double x) { return log(fmax(x, Least<double>::value)); }

// a x + y in one rounding, on the CPU as on the GPU.
__device__ __forceinline__ float madd(float a, float x, float y) { return fmaf(a, x, y); }
__device__ __forceinline__ double madd(double a, double x, double y) { return fma(a, x, y); }

// Exponent tau/(tau + eps) of a side; t = tau/eps.
__device__ __forceinline__ double exponent(double t) { return isinf(t) ? 1.0 : t / (1.0 + t); }

// Change of a potential whose kernel sum (with the potential in it) is exp(lse).
__device__ __forceinline__ double update(double log_weight, double lse, double potential, double rho, double cap) {
  return rho < 1.0 ? fmin(rho * (log_weight - lse + potential), cap) - potential : fmin(log_weight - lse, cap - potential);
}

__device__ __forceinline__ double warp_sum(double x) {
  for (int o = LANES / 2; o; o >>= 1) x += __shfl_xor_sync(ALL, x, o);
  return x;
}
__device__ __forceinline__ double warp_max(double x) {
  for (int o = LANES / 2; o; o >>= 1) x = fmax(x, __shfl_xor_sync(ALL, x, o));
  return x;
}

// Every thread gets the sums over the block; all threads must call it.
template <int N> __device__ void block_sum(double (&x)[N]) {
  __shared__ double warps[32][N];
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, count = blockDim.x / LANES;
#pragma unroll
  for (int k = 0; k < N; k++) x[k] = warp_sum(x[k]);
  __syncthreads();  // the last use of `warps` is over
  if (lane == 0) {
#pragma unroll
    for (int k = 0; k < N; k++) warps[warp][k] = x[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < N; k++) {
    double total = 0.0;
    for (int w = 0; w < count; w++) total += warps[w][k];
    x[k] = total;
  }
}
__device__ double block_max(double x) {
  __shared__ double high[32];
  const int count = blockDim.x / LANES;
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % LANES == 0) high[threadIdx.x / LANES] = x;
  __syncthreads();
  double top = high[0];
  for (int w = 1; w < count; w++) top = fmax(top, high[w]);
  return top;
}

// The vectors of one problem.
struct State {
  double *rows, *cols, *vals;
  i64 n, m;
  __device__ State(double* R, double* C, double* S, i64 b, i64 n_, i64 m_)
      : rows(R + b * ix::ROW_VECTORS * n_), cols(C + b * ix::COLUMN_VECTORS * (m_ + 1)), vals(S + b * ix::NUMBERS), n(n_), m(m_) {}
  __device__ double* row(int name) const { return rows + name * n; }
  __device__ double* col(int name) const { return cols + name * (m + 1); }
  __device__ double& of_mass(int name) const { return cols[name * (m + 1) + m]; }
  __device__ double inverse_eps() const { return 1.0 / vals[ix::EPS]; }
  __device__ double price(int side) const { return vals[side] / vals[ix::EPS]; }  // tau/eps of TAU1, TAU2
  __device__ bool fixed() const { return !isnan(of_mass(ix::Q)); }
};

// Sums over the blocks of rows of one problem, N numbers each, by one thread block.
template <int N> __device__ void add_blocks(const double* part, i64 blocks, double* out) {
  double x[N] = {};
  for (i64 block = threadIdx.x; block < blocks; block += blockDim.x) {
#pragma unroll
    for (int k = 0; k < N; k++) x[k] += part[block * N + k];
  }
  block_sum(x);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int k = 0; k < N; k++) out[k] = x[k];
  }
}
