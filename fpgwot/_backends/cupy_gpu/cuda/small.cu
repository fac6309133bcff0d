// The whole inner solve of a small problem by one thread block, in one launch: the text of `ascend` in `inner.py` for a single
// problem, as Numba's compiled loop does it on the CPU. A decision is a number that every thread reads, so all go the same way.
// K is copied to shared memory where it fits, else read through the caches.

// The primitives of the inner solve on one problem. All threads call them, and find what the others wrote when they return.
template <typename real> struct Small {
  State s;
  const real* K;
  i64 pitch;  // from a row of K to the next
  int nb, mb, width, groups;  // threads take columns, `groups` of them share the rows of one
  double *hist, *product, *part;
  real *v, *vd, *factor;

  // part <- the sums over rows of each group: sum <- add(i, j, sum), in one precision over ROWS rows as in the other kernels.
  template <class Add> __device__ void add_rows(Add add) {
    for (int item = threadIdx.x; item < groups * width; item += blockDim.x) {
      const int group = item / width, j = item % width;
      if (j >= mb) continue;
      double total = 0.0;
      for (int i0 = group; i0 < nb; i0 += groups * ix::ROWS) {
        real sum = 0;
        for (int i = i0; i < min(nb, i0 + groups * ix::ROWS); i += groups) sum = add(i, j, sum);
        total += sum;
      }
      part[group * mb + j] = total;
    }
    __syncthreads();
  }
  __device__ double column(i64 j) const {
    double sum = 0.0;
    for (int group = 0; group < groups; group++) sum += part[group * mb + j];
    return sum;
  }

  // factor_i = rule(i, sum_j K_ij x_j), and the sums of factor_i K_ij over the rows of each group.
  template <class Rule> __device__ void read(const real* x, Rule& rule) {
    const int lane = threadIdx.x % LANES;
    for (int i = threadIdx.x / LANES; i < nb; i += blockDim.x / LANES) {
      real sum = 0;
      for (int j = lane; j < mb; j += LANES) sum = madd(K[i * pitch + j], x[j], sum);
      const double all = warp_sum((double)sum);
      if (lane == 0) product[i] = all;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < nb; i += blockDim.x) factor[i] = rule(i, product[i]);
    __syncthreads();
    add_rows([=](int i, int j, real sum) { return madd(factor[i], K[i * pitch + j], sum); });
  }

  __device__ __noinline__ Numbers sweep() {
    for (int j = threadIdx.x; j < mb; j += blockDim.x) v[j] = (real)exp(s.col(ix::Y)[j]);
    __syncthreads();
    RowUpdate<real> rows(s);
    read(v, rows);
    ColumnUpdate columns(s);
    for (int j = threadIdx.x; j < mb; j += blockDim.x) columns(j, column(j), v[j]);
    double x[6] = {rows.price, rows.mass, rows.lacking, columns.price, columns.residual, columns.image};
    block_sum(x);
    const double violation = block_max(columns.violation);
    if (threadIdx.x == 0) store_sweep(s, x[0] + x[3], x[1], x[2] + x[4], x[5], violation);
    __syncthreads();
    return Numbers(s.vals);
  }
  __device__ void forget() {
    if (threadIdx.x == 0) s.vals[ix::USED] = 0.0;
    __syncthreads();
  }
  __device__ __noinline__ void anderson(bool restart) {
    anderson_step<true>(s, hist, mb, restart);
    __syncthreads();
  }
  __device__ __noinline__ void newton() {
    double squares = 0.0;
    for (int i = threadIdx.x; i < nb; i += blockDim.x) {
      const double weight = row_weight(s, i), row = fmax(s.row(ix::ROW)[i], Least<double>::value);
      s.row(ix::W)[i] = weight, factor[i] = (real)weight, squares += weight * row * row;
      s.row(ix::F0)[i] = s.row(ix::F)[i] + s.row(ix::LU)[i];
    }
    __syncthreads();
    add_rows([=](int i, int j, real sum) {
      const real t = (real)s.row(ix::E)[i] * K[i * pitch + j] * v[j];
      return madd(factor[i] * t, t, sum);
    });
    newton_system(s, mb, squares, [=](i64 j) { return column(j); });
    __syncthreads();
  }
  __device__ __noinline__ bool cg() {
    for (int j = threadIdx.x; j < mb; j += blockDim.x) vd[j] = s.col(ix::DIAG)[j] > 0 ? (real)(v[j] * s.col(ix::CG_D)[j]) : (real)0;
    __syncthreads();
    RowProduct<real> rows(s);
    read(vd, rows);
    cg_step(s, mb, loop::CG_STOP, rows.cross, part, [=](i64 j) { return v[j] * column(j); });  // a thread reads column j and writes part[j]
    __syncthreads();
    return s.vals[ix::DONE] == 0.0;
  }
  __device__ __noinline__ double trial(double a) {
    trial_step(s, mb, a);
    __syncthreads();
    return s.vals[ix::GAIN];
  }
  __device__ __noinline__ double shorten(double a) { return shorter_step(s, nb, a); }
};

// Reads of K; `spent` as in `inner.py`.
template <typename real>
__device__ i64 ascend(Small<real>& problem, double target, double feasible, i64 newton_steps, double slack, i64 m, double& spent) {
  const i64 price = loop::PRICE + m / loop::COLUMNS;
  i64 passes = 1;
  Numbers out = problem.sweep();
  for (int k = 0; k < loop::SWEEPS; k++) {
    if (k > 0 && out.finished(target, feasible)) return passes;
    const double before = out.phi;
    problem.anderson(false);
    out = problem.sweep(), passes++;
    if (out.fallen(before, slack)) {  // the mixed point is below the last image: take that one
      problem.anderson(true);
      out = problem.sweep(), passes++;
    }
  }
  if (!out.finished(target, feasible)) spent += loop::MIXED;
  for (i64 step = 0; step < newton_steps; step++) {
    if (out.finished(target, feasible)) return passes;
    problem.newton(), passes++;
    if (spent > loop::EARLY * price) spent = 0.0;  // a factor would be bought now: there is none here
    bool running = problem.s.vals[ix::DONE] == 0.0;
    for (int k = 0; k < loop::CG_STEPS && running; k++) {
      running = problem.cg(), passes++;
      if (k >= loop::FREE_STEPS) spent += 1.0;
    }
    const Numbers start = out;
    double a = 1.0;
    bool search = true;
    for (int tries = 0; tries < loop::BACKTRACKS && search; tries++) {
      const double gain = problem.trial(a);
      out = problem.sweep(), passes++;
      search = out.refused(start, gain, slack);
      if (search) a = problem.shorten(a);
    }
    if (search) {  // back to the start of the line search: the Sinkhorn step below always raises the dual
      problem.trial(0.0);
      problem.sweep(), passes++;
    }
    problem.forget();  // mixing without a memory is the Sinkhorn step
    problem.anderson(false);
    out = problem.sweep(), passes++;
  }
  return passes;
}

// `given` holds the target, the largest violation and `spent` of each problem, `out` takes its reads of K and `spent`. Shared memory:
// HEAD bytes for the problem; product (n), part (threads or m) in float64; v, vd (m), factor (n) and where `in_shared` K in the
// matrix's type.
constexpr int HEAD = 128;
template <typename real>
__global__ void __launch_bounds__(256, 2)
small(const real* K, double* R, double* C, double* S, const i64* size, real* v, double* hist, const double* given, i64 newton_steps,
      double slack, const bool* on, double* out, i64 in_shared, i64 n, i64 m) {
  static_assert(sizeof(Small<real>) <= HEAD, "the host makes room for it");
  extern __shared__ __align__(16) unsigned char memory[];
  const i64 b = blockIdx.x;
  const int T = blockDim.x, nb = (int)size[2 * b], mb = (int)size[2 * b + 1], width = (mb + LANES - 1) / LANES * LANES;
  double spent = given[3 * b + 2];
  if (!on[b]) {
    if (threadIdx.x == 0) out[2 * b] = 0.0, out[2 * b + 1] = spent;
    return;
  }
  Small<real>& problem = *(Small<real>*)memory;  // a copy for each thread would lie in its local memory
  double *product = (double*)(memory + HEAD), *part = product + n;
  real *mine = (real*)(part + max((i64)T, m)), *factor = mine + 2 * m, *copy = factor + n;
  const real* given_K = K + b * n * m;
  if (threadIdx.x == 0)
    problem = {State(R, C, S, b, n, m), in_shared ? copy : given_K, in_shared ? mb : m, nb, mb, width, max(1, T / width),
               hist + b * 2 * (ix::MEMORY + 1) * (m + 1), product, part, mine, mine + m, factor};
  if (in_shared)
    for (int i = threadIdx.x / LANES; i < nb; i += T / LANES)
      for (int j = threadIdx.x % LANES; j < mb; j += LANES) copy[(i64)i * mb + j] = given_K[i * m + j];
  __syncthreads();
  const i64 passes = ascend(problem, given[3 * b], given[3 * b + 1], newton_steps, slack, m, spent);
  for (int j = threadIdx.x; j < mb; j += T) v[b * m + j] = problem.v[j];  // `plan` needs it
  if (threadIdx.x == 0) out[2 * b] = (double)passes, out[2 * b + 1] = spent;
}
