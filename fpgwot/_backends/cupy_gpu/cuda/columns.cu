// Sums over marginals, Anderson mixing and the trial point of a line search: vectors only, one thread block a problem.

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

// y <- combination of the last images with least residual; `restart` keeps the newest image only and takes it.
__global__ void __launch_bounds__(256)
anderson(double* R, double* C, double* S, const i64* size, double* hist, const bool* restart, const bool* on, i64 n, i64 m) {
  constexpr int MEMORY = ix::MEMORY, PAIRS = MEMORY * (MEMORY + 1) / 2;
  __shared__ double A[MEMORY][MEMORY];
  __shared__ double w[MEMORY];
  const i64 b = blockIdx.x, mb = size[2 * b + 1];
  if (!on[b]) return;
  const State s(R, C, S, b, n, m);
  double *X = hist + b * 2 * (MEMORY + 1) * (m + 1), *D = X + (MEMORY + 1) * (m + 1), *y = s.col(ix::Y);
  const double cap = s.vals[ix::CAP2], *g = s.col(ix::G);
  int k = (int)s.vals[ix::USED];
  __syncthreads();  // before thread 0 moves on and changes it
  if (restart[b]) {  // the mixed point was worse than the image: go back to the image
    for (i64 j = threadIdx.x; j <= m; j += blockDim.x) {
      const double x = X[(k - 1) * (m + 1) + j];
      X[j] = x, D[j] = D[(k - 1) * (m + 1) + j];
      if (j < mb) y[j] = within(x, cap - g[j]);
      else if (j == m) y[j] = within(x, ix::DRIFT);
    }
    if (threadIdx.x == 0) s.vals[ix::USED] = 1.0;
    return;
  }
  const bool full = k == MEMORY + 1;
  if (full) k = MEMORY;
  double x[PAIRS + MEMORY] = {};  // the products <d_i, d_l>, i >= l, and <d_i, D_k> of the differences d_i = D_k - D_i
  for (i64 j = threadIdx.x; j <= m; j += blockDim.x) {
    if (full)
      for (int i = 0; i < MEMORY; i++)
        X[i * (m + 1) + j] = X[(i + 1) * (m + 1) + j], D[i * (m + 1) + j] = D[(i + 1) * (m + 1) + j];
    const double last = s.col(ix::IMAGE)[j] - y[j];
    X[k * (m + 1) + j] = s.col(ix::IMAGE)[j], D[k * (m + 1) + j] = last;
    double d[MEMORY];
#pragma unroll
    for (int i = 0; i < MEMORY; i++) d[i] = i < k ? last - D[i * (m + 1) + j] : 0.0;
#pragma unroll
    for (int i = 0; i < MEMORY; i++) {
      x[PAIRS + i] += d[i] * last;
#pragma unroll
      for (int l = 0; l <= i; l++) x[i * (i + 1) / 2 + l] += d[i] * d[l];
    }
  }
  block_sum(x);
  if (threadIdx.x == 0) {
    s.vals[ix::USED] = k + 1;
    double trace = 0.0, size = 0.0;
#pragma unroll
    for (int i = 0; i < MEMORY; i++) {
      w[i] = x[PAIRS + i];
#pragma unroll
      for (int l = 0; l <= i; l++) A[i][l] = A[l][i] = x[i * (i + 1) / 2 + l];
      trace += A[i][i];
    }
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
__global__ void __launch_bounds__(256)
trial(double* R, double* C, double* S, const i64* size, const double* a, const bool* on, i64 n, i64 m) {
  const i64 b = blockIdx.x, mb = size[2 * b + 1];
  if (!on[b]) return;
  const State s(R, C, S, b, n, m);
  const double cap = s.vals[ix::CAP2];
  double gain[1] = {};
  for (i64 k = threadIdx.x; k <= mb; k += blockDim.x) {
    const i64 j = k < mb ? k : m;
    const double step = a[b] * fmin(fmax(s.col(ix::CG_X)[j], -ix::STEP), ix::STEP), y0 = s.col(ix::Y0)[j];
    const double y = within(y0 + step, k < mb ? cap - s.col(ix::G)[j] : ix::DRIFT);
    s.col(ix::Y)[j] = y;
    gain[0] += s.col(ix::GRAD0)[j] * (y - y0);
  }
  block_sum(gain);
  if (threadIdx.x == 0) s.vals[ix::GAIN] = gain[0];
}

// KL price of a marginal, and its Bregman divergences.
__device__ __forceinline__ void add_side(double x, double x0, double weight, double tau, double (&sums)[ix::MARGINAL_SUMS]) {
  const double log_x = log(fmax(x, Least<double>::value)), log_0 = log(fmax(x0, Least<double>::value));
  sums[ix::PRICE] += tau * (x * (log_x - log(fmax(weight, Least<double>::value))) - x + weight);
  sums[ix::BOTH] += tau * (x - x0) * (log_x - log_0);
  sums[ix::FORWARD] += tau * (x - x0 - x0 * (log_x - log_0));
}

// The sums TOTAL ... LACK of `_protocol` over the marginals of T and T0; s1 and s2 count where `squares`.
__global__ void __launch_bounds__(256)
marginal_sums(const double* mu, const double* nu, const double* mu0, const double* nu0, const double* s1, const double* s2,
              i64 squares, const double* r, const double* c, double* R, double* C, double* S, const i64* size, double* out, i64 n,
              i64 m) {
  const i64 b = blockIdx.x, nb = size[2 * b], mb = size[2 * b + 1];
  const State s(R, C, S, b, n, m);
  const double tau1 = s.vals[ix::TAU1], tau2 = s.vals[ix::TAU2];
  double x[ix::MARGINAL_SUMS] = {};
  for (i64 k = threadIdx.x; k < nb; k += blockDim.x) {
    const i64 i = b * n + k;
    x[ix::TOTAL] += mu[i];
    x[ix::REFERENCE] += r[i] * mu[i];
    if (squares) x[ix::SQUARES] += s1[i] * mu[i];
    if (tau1 > 0 && !isinf(tau1)) add_side(mu[i], mu0[i], s.row(ix::P)[k], tau1, x);
  }
  for (i64 k = threadIdx.x; k < mb; k += blockDim.x) {
    const i64 j = b * m + k;
    x[ix::REFERENCE] += c[j] * nu[j];
    if (squares) x[ix::SQUARES] += s2[j] * nu[j];
    if (tau2 > 0 && !isinf(tau2)) add_side(nu[j], nu0[j], s.col(ix::Q)[k], tau2, x);
    if (isinf(tau2)) x[ix::LACK] += s.col(ix::G)[k] * s.col(ix::GRAD)[k];
  }
  block_sum(x);
  if (threadIdx.x) return;
  if (s.fixed()) x[ix::LACK] += s.of_mass(ix::G) * s.of_mass(ix::GRAD);
#pragma unroll
  for (int k = 0; k < ix::MARGINAL_SUMS; k++) out[b * ix::MARGINAL_SUMS + k] = x[k];
}
