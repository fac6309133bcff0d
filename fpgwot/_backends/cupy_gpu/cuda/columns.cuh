// Moves of the column potentials by one thread block: Anderson mixing and the trial point of a line search.

// Store a log scaling, within its cap and within what a float can hold.
__device__ __forceinline__ double within(double y, double room) { return fmin(fmax(fmin(y, room), -ix::DRIFT), ix::DRIFT); }

// Solve the leading k x k symmetric positive system in place: x <- A^-1 x.
__device__ void solve_small(double (*A)[ix::MEMORY], double* x, int k) {
  for (int i = 0; i < k; i++)
    for (int r = i + 1; r < k; r++) {
      const double factor = A[r][i] / A[i][i];
      for (int c = i; c < k; c++) A[r][c] -= factor * A[i][c];
      x[r] -= factor * x[i];
    }
  for (int i = k - 1; i >= 0; i--) {
    for (int c = i + 1; c < k; c++) x[i] -= A[i][c] * x[c];
    x[i] /= A[i][i];
  }
}

// The products <d_i, d_l>, i >= l, into A and <d_i, D_k> into w, of the differences d_i = D_k - D_i of k + 1 residuals D of length m + 1.
// A pass over the residuals with all sums in registers, for long vectors; or, for short ones, a warp for each product.
template <bool SHORT>
__device__ void anderson_products(const double* D, i64 m, int k, double (*A)[ix::MEMORY], double* w) {
  constexpr int MEMORY = ix::MEMORY, PAIRS = MEMORY * (MEMORY + 1) / 2;
  const double* last = D + k * (m + 1);
  if constexpr (SHORT) {
    const int lane = threadIdx.x % LANES;
    for (int pair = threadIdx.x / LANES; pair < k * (MEMORY + 1); pair += blockDim.x / LANES) {
      const int i = pair / (MEMORY + 1), l = pair % (MEMORY + 1);  // l = MEMORY stands for D_k itself
      if (l > i && l < MEMORY) continue;
      const double *one = D + i * (m + 1), *other = D + l * (m + 1);
      double sum = 0.0;
      for (i64 j = lane; j <= m; j += LANES) sum += (last[j] - one[j]) * (l < MEMORY ? last[j] - other[j] : last[j]);
      sum = warp_sum(sum);
      if (lane > 0) continue;
      if (l < MEMORY) A[i][l] = A[l][i] = sum;
      else w[i] = sum;
    }
    __syncthreads();
  } else {
    double x[PAIRS + MEMORY] = {};
    for (i64 j = threadIdx.x; j <= m; j += blockDim.x) {
      double d[MEMORY];
#pragma unroll
      for (int i = 0; i < MEMORY; i++) d[i] = i < k ? last[j] - D[i * (m + 1) + j] : 0.0;
#pragma unroll
      for (int i = 0; i < MEMORY; i++) {
        x[PAIRS + i] += d[i] * last[j];
#pragma unroll
        for (int l = 0; l <= i; l++) x[i * (i + 1) / 2 + l] += d[i] * d[l];
      }
    }
    block_sum(x);
    if (threadIdx.x) return;
#pragma unroll
    for (int i = 0; i < MEMORY; i++) {
      w[i] = x[PAIRS + i];
#pragma unroll
      for (int l = 0; l <= i; l++) A[i][l] = A[l][i] = x[i * (i + 1) / 2 + l];
    }
  }
}

// y <- combination of the last images with least residual; `restart` keeps the newest image only and takes it. X holds the images and
// then their residuals.
template <bool SHORT> __device__ void anderson_step(const State& s, double* X, i64 mb, bool restart) {
  constexpr int MEMORY = ix::MEMORY;
  __shared__ double A[MEMORY][MEMORY];
  __shared__ double w[MEMORY];
  const i64 m = s.m;
  double *D = X + (MEMORY + 1) * (m + 1), *y = s.col(ix::Y);
  const double cap = s.vals[ix::CAP2], *g = s.col(ix::G);
  int k = (int)s.vals[ix::USED];
  __syncthreads();  // before thread 0 moves on and changes it
  if (restart) {  // the mixed point was worse than the image: go back to the image
    for (i64 j = threadIdx.x; j <= m; j += blockDim.x) {
      const double x = X[(k - 1) * (m + 1) + j];
      X[j] = x, D[j] = D[(k - 1) * (m + 1) + j];
      if (j < mb) y[j] = within(x, cap - g[j]);
      else if (j == m) y[j] = within(x, ix::DRIFT);
    }
    if (threadIdx.x == 0) s.vals[ix::USED] = 1.0;
    return;
  }
  if (k < 0) {  // images of the last kernel: what counts is how they differ, so the newest of them moves to this one's place
    k = -k - 1;
    for (i64 j = threadIdx.x; j <= m; j += blockDim.x) {
      const double image = s.col(ix::IMAGE)[j] - X[k * (m + 1) + j], change = s.col(ix::IMAGE)[j] - y[j] - D[k * (m + 1) + j];
      for (int i = 0; i < k; i++) X[i * (m + 1) + j] += image, D[i * (m + 1) + j] += change;
    }
  }
  const bool full = k == MEMORY + 1;
  if (full) k = MEMORY;
  for (i64 j = threadIdx.x; j <= m; j += blockDim.x) {
    if (full)
      for (int i = 0; i < MEMORY; i++)
        X[i * (m + 1) + j] = X[(i + 1) * (m + 1) + j], D[i * (m + 1) + j] = D[(i + 1) * (m + 1) + j];
    X[k * (m + 1) + j] = s.col(ix::IMAGE)[j], D[k * (m + 1) + j] = s.col(ix::IMAGE)[j] - y[j];
  }
  if constexpr (SHORT) __syncthreads();  // else a thread reads what it wrote itself
  anderson_products<SHORT>(D, m, k, A, w);
  if (threadIdx.x == 0) {
    s.vals[ix::USED] = k + 1;
    double trace = 0.0, size = 0.0;
    for (int i = 0; i < k; i++) trace += A[i][i];
    for (int i = 0; i < k; i++) A[i][i] += 1e-10 * trace + Least<double>::value;
    solve_small(A, w, k);
    for (int i = 0; i < k; i++) size += abs(w[i]);
    if (!(size < 1e3))
      for (int i = 0; i < k; i++) w[i] = 0.0;
  }
  __syncthreads();
  for (i64 j = threadIdx.x; j <= m; j += blockDim.x) {
    const double newest = X[k * (m + 1) + j];
    double z = newest;
    for (int i = 0; i < k; i++) z -= w[i] * (newest - X[i * (m + 1) + j]);
    if (j < mb) y[j] = within(z, cap - g[j]);
    else if (j == m) y[j] = within(z, ix::DRIFT);
  }
}

// y = y0 + a clip(step), within the caps; GAIN = <grad phi at y0, y - y0>.
__device__ void trial_step(const State& s, i64 mb, double a) {
  const double cap = s.vals[ix::CAP2];
  double gain[1] = {};
  for (i64 k = threadIdx.x; k <= mb; k += blockDim.x) {
    const i64 j = k < mb ? k : s.m;
    const double step = a * fmin(fmax(s.col(ix::CG_X)[j], -ix::STEP), ix::STEP), y0 = s.col(ix::Y0)[j];
    const double y = within(y0 + step, k < mb ? cap - s.col(ix::G)[j] : ix::DRIFT);
    s.col(ix::Y)[j] = y;
    gain[0] += s.col(ix::GRAD0)[j] * (y - y0);
  }
  block_sum(gain);
  if (threadIdx.x == 0) s.vals[ix::GAIN] = gain[0];
}

// The length to try after one that was refused: where the dual turns, just beyond the kinks of the caps that matter. From its cap on
// a row lacks mass; with r the rate of its potential along the step, the slope falls by p r min(1, r (t - t_kink)).
__device__ double shorter_step(const State& s, i64 nb, double a) {
  const double cap = s.vals[ix::CAP1], slope = s.vals[ix::GAIN] / a;
  if (isinf(cap) || !(slope > 0)) return ix::SHORTER * a;
  double low = 0.0, high = a;
  for (int k = 0; k < ix::BISECTIONS; k++) {
    const double t = (low + high) / 2;
    double bent[1] = {};
    for (i64 i = threadIdx.x; i < nb; i += blockDim.x) {
      const double way = cap - s.row(ix::F0)[i], lacks = s.row(ix::LOG_P)[i] - log(fmax(s.row(ix::ROW)[i], Least<double>::value));
      if (!(way > 0 && lacks > ix::LACKING && s.row(ix::F)[i] + s.row(ix::LU)[i] >= cap - ix::AT_CAP)) continue;
      const double rate = (way + lacks) / a;  // the log of what a row lacks is how much further f would have gone
      bent[0] += s.row(ix::P)[i] * rate * fmin(1.0, fmax(rate * t - way, 0.0));
    }
    block_sum(bent);
    if (slope * (1 - t) - bent[0] > 0) low = t;
    else high = t;
  }
  return fmin(high, ix::SHORTER * a);
}
