// The gradient, the sums of the outer loop, roughness, spread: a warp takes SIDE rows at a time, lanes run along the columns.

// G = wl M + bias + r 1' + 1 c' - 4 wq A in place of A, with the sums LIN ... KL of `_protocol` for each block of rows.
template <typename real>
__global__ void __launch_bounds__(256)
gradient(real* A, const real* M, i64 M_layers, const real* bias, i64 bias_layers, const real* T, const real* T0, const real* L,
         double* R, double* C, double* S, const double* r, const double* c, const double* wl, const double* wq,
         const bool* first, const i64* size, const bool* on, double* part, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x / blocks;
  const i64 block = blockIdx.x % blocks;
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  double* sums = part + (b * blocks + block) * ix::SUMS;
  double x[ix::SUMS] = {};
  const i64 nb = size[2 * b], mb = size[2 * b + 1], i0 = block * ix::ROWS + warp * SIDE;
  if (on[b]) {
    const State s(R, C, S, b, n, m);
    const real w_lin = (real)wl[b], w_quad = (real)(4 * wq[b]), ie = (real)s.inverse_eps();
    const bool start = first[b];
    const double *g = s.col(ix::G), h = s.of_mass(ix::G);
    double f[SIDE], row[SIDE];
#pragma unroll
    for (int k = 0; k < SIDE; k++) {
      const i64 i = min(i0 + k, n - 1);
      f[k] = s.row(ix::F)[i], row[k] = r[b * n + i];
    }
    for (i64 j = lane; j < mb; j += LANES) {
      const double gj = g[j] + h, cj = c[b * m + j];
#pragma unroll
      for (int k = 0; k < SIDE; k++) {
        const i64 i = i0 + k, at = (b * n + i) * m + j;
        if (i >= nb) continue;
        const real a = A[at], t = T[at];
        x[ix::CROSS] += (double)a * t;
        real G = madd(-w_quad, a, (real)(row[k] + cj));
        if (M_layers) {
          const real y = M[(b % M_layers * n + i) * m + j];
          G = madd(w_lin, y, G);
          x[ix::LIN] += (double)y * t;
        }
        if (bias_layers) {
          const real y = bias[(b % bias_layers * n + i) * m + j];
          G += y;
          x[ix::BIAS] += (double)y * t;
        }
        A[at] = G;
        if (start) {  // there is no T0 yet
          x[ix::ENT] += t > 0 ? t * loga(t) : (real)0;
          continue;
        }
        const real ell = L[at], t0 = T0[at], pot = (real)(f[k] + gj);
        const real lt = madd(-ie, ell, pot), d = t - t0, dl = lt - loga(t0);  // log of the plan, from the cost that made it
        x[ix::ENT] += t > 0 ? t * lt : (real)0;
        x[ix::FIXED] += abs(expo(min(madd(-ie, G, pot), (real)50)) - t);
        x[ix::BEND] += (G - ell) * d;
        x[ix::BREG] += d != 0 ? d * dl : (real)0;
        x[ix::KL] += t0 > 0 ? d - t0 * dl : t;
      }
    }
  }
  block_sum(x);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int k = 0; k < ix::SUMS; k++) sums[k] = x[k];
  }
}

// The sums of the outer loop over the blocks of each problem.
__global__ void __launch_bounds__(256) gradient_sums(const double* part, i64 blocks, double* out) {
  add_blocks<ix::SUMS>(part + (i64)blockIdx.x * blocks * ix::SUMS, blocks, out + (i64)blockIdx.x * ix::SUMS);
}

// G += weight (L T + T L') with the Laplacians L of the paths through rows and columns; <T, L T + T L'> for each block of rows.
template <typename real>
__global__ void __launch_bounds__(256)
roughness(const real* T, real* G, const double* weight, const i64* size, const bool* on, double* part, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x / blocks;
  const i64 block = blockIdx.x % blocks;
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  const i64 nb = size[2 * b], mb = size[2 * b + 1];
  double x[1] = {};
  if (on[b]) {
    const real w = (real)weight[b];
    for (int k = 0; k < SIDE; k++) {
      const i64 i = block * ix::ROWS + warp * SIDE + k;
      if (i >= nb) break;
      const i64 at = (b * n + i) * m, above = i > 0 ? at - m : at, below = i < nb - 1 ? at + m : at;  // beyond an end: the row itself
      for (i64 j = lane; j < mb; j += LANES) {
        const i64 left = j > 0 ? j - 1 : j, right = j < mb - 1 ? j + 1 : j;
        const real t = T[at + j], d = 4 * t - T[above + j] - T[below + j] - T[at + left] - T[at + right];
        G[at + j] += w * d;
        x[0] += (double)d * t;
      }
    }
  }
  block_sum(x);
  if (threadIdx.x == 0) part[b * blocks + block] = x[0];
}

// Mean over the rows of (mean - minimum) of the allowed entries of a cost, for each block of rows times its share.
template <typename real>
__global__ void __launch_bounds__(256) spread(const real* cost, const i64* size, double* part, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x / blocks;
  const i64 block = blockIdx.x % blocks;
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  const i64 nb = size[2 * b], mb = size[2 * b + 1];
  double total[1] = {};
  for (int k = 0; k < SIDE; k++) {
    const i64 i = block * ix::ROWS + warp * SIDE + k;
    if (i >= nb) break;
    const real* row = cost + (b * n + i) * m;
    double low = 1e300, sum = 0.0, count = 0.0;
    for (i64 j = lane; j < mb; j += LANES) {
      const double x = row[j];
      if (x < ix::FORBIDDEN_FROM) low = fmin(low, x), sum += x, count += 1.0;
    }
    low = -warp_max(-low), sum = warp_sum(sum), count = warp_sum(count);
    if (lane == 0 && count > 0.0) total[0] += sum / count - low;
  }
  block_sum(total);
  if (threadIdx.x == 0) part[b * blocks + block] = total[0] / max(nb, (i64)1);
}

// One sum over the blocks of each problem.
__global__ void __launch_bounds__(256) block_sums(const double* part, i64 blocks, double* out) {
  add_blocks<1>(part + (i64)blockIdx.x * blocks, blocks, out + blockIdx.x);
}
