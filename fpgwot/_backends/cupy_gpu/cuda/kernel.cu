// Building the kernel matrix, and the plan from it.

// log sum_i exp(f_i + h - L_ij/eps) of each column and block of rows, as a maximum and a sum; one thread a column.
template <typename real>
__global__ void __launch_bounds__(256)
column_logsums(const real* L, double* R, double* C, double* S, const i64* size, const bool* on, real* high, real* total, i64 blocks,
               i64 n, i64 m) {
  const i64 b = blockIdx.x / blocks, j = (i64)blockIdx.y * blockDim.x + threadIdx.x;
  const i64 block = blockIdx.x % blocks;
  const i64 nb = size[2 * b], mb = size[2 * b + 1], i0 = block * ix::ROWS, i1 = min(i0 + ix::ROWS, nb);
  if (!on[b] || j >= mb || i0 >= nb) return;
  const State s(R, C, S, b, n, m);
  const real ie = (real)s.inverse_eps(), lowest = (real)-1e30;
  const double h = s.of_mass(ix::G), *f = s.row(ix::F);
  real top = lowest, sum = 0;
  for (i64 i = i0; i < i1; i++) {
    const real x = max(madd(-ie, L[(b * n + i) * m + j], (real)(f[i] + h)), lowest), d = x - top, e = expo(-abs(d));
    sum = d > 0 ? madd(sum, e, (real)1) : sum + e;
    top = max(top, x);
  }
  high[(b * blocks + block) * m + j] = top;
  total[(b * blocks + block) * m + j] = sum;
}

template <typename real>
__global__ void __launch_bounds__(256, 1)
column_logsums_join(const real* high, const real* total, double* R, double* C, double* S, const i64* size, const bool* on,
                    double* out, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x, j = (i64)blockIdx.y * blockDim.x + threadIdx.x;
  if (j >= m) return;
  if (!on[b] || j >= size[2 * b + 1]) {
    out[b * m + j] = 0.0;
    return;
  }
  const i64 used = (size[2 * b] + ix::ROWS - 1) / ix::ROWS;
  double top = -1e30, sum = 0.0;
  for (i64 k = 0; k < used; k++) top = fmax(top, (double)high[(b * blocks + k) * m + j]);
  for (i64 k = 0; k < used; k++) sum += total[(b * blocks + k) * m + j] * exp(high[(b * blocks + k) * m + j] - top);
  out[b * m + j] = top + log(sum) + State(R, C, S, b, n, m).col(ix::G)[j];
}

// L += beta (G - L), T0 += beta (T - T0) (fresh: L = G, T0 = T), then K = exp(f + g + h - L/eps) in place of T. A lane reads again
// only what it wrote itself.
template <typename real>
__global__ void __launch_bounds__(256)
kernel_matrix(real* L, const real* G, real* T, real* T0, double* R, double* C, double* S, const i64* size, const double* beta,
              const bool* fresh, const bool* on, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x / blocks;
  const i64 block = blockIdx.x % blocks;
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  if (!on[b]) return;
  const State s(R, C, S, b, n, m);
  const i64 nb = size[2 * b], mb = size[2 * b + 1], i0 = block * ix::ROWS + warp * SIDE;
  const real ie = (real)s.inverse_eps(), step = (real)beta[b], lowest = (real)-1e30;
  const bool whole = fresh[b] || beta[b] == 1.0;
  const double *g = s.col(ix::G), h = s.of_mass(ix::G);
  real top[SIDE];
  double sum[SIDE], f[SIDE];
#pragma unroll
  for (int k = 0; k < SIDE; k++) top[k] = lowest, sum[k] = 0.0, f[k] = i0 + k < nb ? s.row(ix::F)[i0 + k] : 0.0;
  for (i64 j = lane; j < mb; j += LANES) {
    const double gj = g[j] + h;
#pragma unroll
    for (int k = 0; k < SIDE; k++) {
      if (i0 + k >= nb) continue;
      const i64 at = (b * n + i0 + k) * m + j;
      real ell = G[at], t0 = T[at];
      if (!whole) {
        const real l0 = L[at], p0 = T0[at];
        ell = madd(step, ell - l0, l0), t0 = max(madd(step, t0 - p0, p0), (real)0);  // a long step may pass 0
      }
      L[at] = ell, T0[at] = t0;
      const real x = max(madd(-ie, ell, (real)(f[k] + gj)), lowest), d = x - top[k], e = expo(-abs(d));
      sum[k] = d > 0 ? sum[k] * e + 1.0 : sum[k] + e;
      top[k] = max(top[k], x);
      T[at] = x;
    }
  }
  __syncwarp();  // every lane has read f
  double change[SIDE];
  real scale[SIDE];
#pragma unroll
  for (int k = 0; k < SIDE; k++) {
    const double all = warp_max((double)top[k]), total = warp_sum(sum[k] * exp(top[k] - all));
    const i64 i = min(i0 + k, n - 1);
    change[k] = update(s.row(ix::LOG_P)[i], all + log(total), f[k], exponent(s.price(ix::TAU1)), s.vals[ix::CAP1]);
    top[k] = (real)all, scale[k] = (real)exp(fmin(change[k] + all, ix::DRIFT));
  }
  for (i64 j = lane; j < mb; j += LANES) {
#pragma unroll
    for (int k = 0; k < SIDE; k++) {
      if (i0 + k >= nb) continue;
      const i64 at = (b * n + i0 + k) * m + j;
      T[at] = expo(T[at] - top[k]) * scale[k];
    }
  }
  if (lane == 0) {
#pragma unroll
    for (int k = 0; k < SIDE; k++)
      if (i0 + k < nb) s.row(ix::F)[i0 + k] = f[k] + change[k];
  }
  if (block == 0)
    for (i64 j = threadIdx.x; j <= m; j += blockDim.x) s.col(ix::Y)[j] = 0.0;
}

// T = e K v in place of K; f, g, h absorb the scalings.
template <typename real>
__global__ void __launch_bounds__(256)
plan(real* K, double* R, double* C, double* S, const i64* size, const real* v, const bool* on, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x / blocks;
  const i64 block = blockIdx.x % blocks;
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  if (!on[b]) return;
  const State s(R, C, S, b, n, m);
  const i64 nb = size[2 * b], mb = size[2 * b + 1], i0 = block * ix::ROWS + warp * SIDE;
  for (i64 j = lane; j < mb; j += LANES) {
    const real vj = v[b * m + j];
#pragma unroll
    for (int k = 0; k < SIDE; k++) {
      if (i0 + k >= nb) continue;
      const i64 at = (b * n + i0 + k) * m + j;
      K[at] = min((real)s.row(ix::E)[i0 + k] * K[at] * vj, (real)ix::LARGEST);
    }
  }
  if (lane < SIDE && i0 + lane < nb) {
    s.row(ix::F)[i0 + lane] += s.row(ix::LU)[i0 + lane];
    s.row(ix::LU)[i0 + lane] = 0.0;
  }
  if (block) return;
  for (i64 j = threadIdx.x; j <= m; j += blockDim.x) s.col(ix::G)[j] += s.col(ix::Y)[j], s.col(ix::Y)[j] = 0.0;
  if (threadIdx.x == 0) s.vals[ix::USED] = -abs(s.vals[ix::USED]);  // images that mixing holds become those of the last kernel
}
