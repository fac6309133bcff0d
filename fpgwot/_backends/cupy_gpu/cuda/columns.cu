// Sums over marginals, Anderson mixing and the trial point of a line search: vectors only, one thread block a problem.

// y <- combination of the last images with least residual; `restart` keeps the newest image only and takes it.
__global__ void __launch_bounds__(256, 1)
anderson(double* R, double* C, double* S, const i64* size, double* hist, const bool* restart, const bool* on, i64 n, i64 m) {
  const i64 b = blockIdx.x;
  if (on[b]) anderson_step<false>(State(R, C, S, b, n, m), hist + b * 2 * (ix::MEMORY + 1) * (m + 1), size[2 * b + 1], restart[b]);
}

// y = y0 + a clip(step), within the caps; GAIN = <grad phi at y0, y - y0>.
__global__ void __launch_bounds__(256)
trial(double* R, double* C, double* S, const i64* size, const double* a, const bool* on, i64 n, i64 m) {
  const i64 b = blockIdx.x;
  if (on[b]) trial_step(State(R, C, S, b, n, m), size[2 * b + 1], a[b]);
}

// a <- the length to try after one that was refused.
__global__ void __launch_bounds__(256, 1)
shorten(double* R, double* C, double* S, const i64* size, double* a, const bool* on, i64 n, i64 m) {
  const i64 b = blockIdx.x;
  if (!on[b]) return;
  const double next = shorter_step(State(R, C, S, b, n, m), size[2 * b], a[b]);
  __syncthreads();  // every thread has read a
  if (threadIdx.x == 0) a[b] = next;
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
