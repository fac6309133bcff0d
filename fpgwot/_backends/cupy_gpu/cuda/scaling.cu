// One fused read of the kernel matrix K: sweep, newton, cg. A thread block takes the ROWS rows of a work item and all columns; a
// thread keeps its COLS columns of GROUP rows in registers, from the row products to the column sums. COLS = 0 is for more
// columns than that: K is read a second time, from the cache, and the column sums are kept in `part`.

template <typename real, int COLS> struct Shape {
  static constexpr int held = COLS * (int)sizeof(real) / 4;  // registers of a row
  static constexpr int GROUP = held > 8 ? 1 : held > 4 ? 2 : 4;
};

// part_j = sum_i a_i K_ij with a_i = rule(i, sum_j K_ij x_j), over the rows i0 <= i < i1. All threads of the block call it; the
// rule is asked by the first lanes of warp 0. FIXED is the number of threads where it is known: then addresses are offsets, and cost
// no registers.
template <typename real, int COLS, int FIXED, class Rule>
__device__ void fused_read(const real* K, const real* x, real* part, i64 i0, i64 i1, i64 m, int mb, Rule& rule) {
  constexpr int GROUP = Shape<real, COLS>::GROUP, KEPT = COLS ? COLS : 1;
  __shared__ double products[GROUP][32];
  __shared__ real factor[GROUP];
  const int t = threadIdx.x, T = FIXED ? FIXED : blockDim.x, warps = T / LANES;
  real sum[KEPT] = {}, k[GROUP][KEPT];
  if constexpr (COLS == 0)
    for (int j = t; j < mb; j += T) part[j] = 0;
  for (i64 i = i0; i < i1; i += GROUP) {
    double dot[GROUP] = {};
    if constexpr (COLS > 0) {
      real d[GROUP] = {};
#pragma unroll
      for (int c = 0; c < KEPT; c++) {
        const int j = t + c * T;
        const real xj = j < mb ? x[j] : (real)0;
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
          k[g][c] = j < mb && i + g < i1 ? K[(i + g) * m + j] : (real)0;
          d[g] = madd(k[g][c], xj, d[g]);
        }
      }
#pragma unroll
      for (int g = 0; g < GROUP; g++) dot[g] = d[g];
    } else {
      for (int j = t; j < mb; j += T)
#pragma unroll
        for (int g = 0; g < GROUP; g++)
          if (i + g < i1) dot[g] += (double)K[(i + g) * m + j] * x[j];
    }
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
      dot[g] = warp_sum(dot[g]);
      if (t % LANES == 0) products[g][t / LANES] = dot[g];
    }
    __syncthreads();
    if (t < GROUP) {
      double product = 0.0;
      for (int w = 0; w < warps; w++) product += products[t][w];
      factor[t] = i + t < i1 ? rule(i + t, product) : (real)0;
    }
    __syncthreads();
    if constexpr (COLS > 0) {
#pragma unroll
      for (int g = 0; g < GROUP; g++)
#pragma unroll
        for (int c = 0; c < KEPT; c++) sum[c] = madd(factor[g], k[g][c], sum[c]);
    } else {
      for (int j = t; j < mb; j += T) {
        real add = part[j];
#pragma unroll
        for (int g = 0; g < GROUP; g++)
          if (i + g < i1) add = madd(factor[g], K[(i + g) * m + j], add);
        part[j] = add;
      }
    }
  }
  if constexpr (COLS > 0) {
#pragma unroll
    for (int c = 0; c < KEPT; c++) {
      const int j = t + c * T;
      if (j < mb) part[j] = sum[c];
    }
  }
}

// ----------------------------------------------------------------------------------------------------------------------- sweep

// v = exp(y), and y as a factor of the rows; for cg the same of the direction.
template <typename real>
__global__ void __launch_bounds__(256)
column_factors(double* R, double* C, double* S, const i64* size, real* v, const bool* on, i64 n, i64 m) {
  const i64 b = blockIdx.y, j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (on[b] && j < size[2 * b + 1]) v[b * m + j] = (real)exp(State(R, C, S, b, n, m).col(ix::Y)[j]);
}

template <typename real, int COLS, int FIXED>
__global__ void __launch_bounds__(512, 1)
sweep_rows(const real* K, double* R, double* C, double* S, const i64* size, const real* v, real* part, double* part_s,
           const bool* on, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x / blocks, item = blockIdx.x, i0 = (blockIdx.x % blocks) * (i64)ix::ROWS, i1 = min(i0 + ix::ROWS, size[2 * b]);
  if (!on[b] || i0 >= i1) return;
  RowUpdate<real> rule(State(R, C, S, b, n, m));
  fused_read<real, COLS, FIXED>(K + b * n * m, v + b * m, part + item * m, i0, i1, m, (int)size[2 * b + 1], rule);
  if (threadIdx.x < LANES) {
    const double price = warp_sum(rule.price), mass = warp_sum(rule.mass), lacking = warp_sum(rule.lacking);
    if (threadIdx.x == 0) part_s[3 * item] = price, part_s[3 * item + 1] = mass, part_s[3 * item + 2] = lacking;
  }
}

// The numbers of a sweep from the sums over blocks of rows (part_s) and over chunks of columns (part_c).
__device__ void finish_sweep(const State& s, const double* part_s, i64 used, const double* part_c, i64 chunks) {
  double x[6] = {}, violation = 0.0;
  for (i64 k = threadIdx.x; k < used; k += blockDim.x) x[0] += part_s[3 * k], x[1] += part_s[3 * k + 1], x[2] += part_s[3 * k + 2];
  for (i64 k = threadIdx.x; k < chunks; k += blockDim.x) {
    x[3] += part_c[4 * k], x[4] += part_c[4 * k + 1], x[5] += part_c[4 * k + 2];
    violation = fmax(violation, part_c[4 * k + 3]);
  }
  block_sum(x);
  violation = block_max(violation);
  if (threadIdx.x == 0) store_sweep(s, x[0] + x[3], x[1], x[2] + x[4], x[5], violation);
}

// Column side of a sweep; the numbers too where one chunk holds all columns.
template <typename real>
__global__ void __launch_bounds__(512)
sweep_columns(double* R, double* C, double* S, const i64* size, const real* v, const real* part, const double* part_s, double* part_c,
              const bool* on, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.y, j = (i64)blockIdx.x * blockDim.x + threadIdx.x, mb = size[2 * b + 1];
  if (!on[b]) return;
  const State s(R, C, S, b, n, m);
  const i64 used = (size[2 * b] + ix::ROWS - 1) / ix::ROWS;
  ColumnUpdate columns(s);
  if (j < mb) columns(j, column_sum(part, b, blocks, used, m, j), v[b * m + j]);
  double x[3] = {columns.price, columns.residual, columns.image};
  block_sum(x);
  const double violation = block_max(columns.violation);
  double* mine = part_c + (b * gridDim.x + blockIdx.x) * 4;
  if (threadIdx.x == 0) mine[0] = x[0], mine[1] = x[1], mine[2] = x[2], mine[3] = violation;
  if (gridDim.x > 1) return;
  __syncthreads();
  finish_sweep(s, part_s + b * blocks * 3, used, mine, 1);
}

__global__ void __launch_bounds__(256)
sweep_numbers(double* R, double* C, double* S, const i64* size, const double* part_s, const double* part_c, i64 chunks,
              const bool* on, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x;
  if (!on[b]) return;
  finish_sweep(State(R, C, S, b, n, m), part_s + b * blocks * 3, (size[2 * b] + ix::ROWS - 1) / ix::ROWS, part_c + b * chunks * 4, chunks);
}

// ------------------------------------------------------------------------------------------------- mixed sweeps without the host

// Before a mixed sweep: who is done is struck off `work` (the first one is for all), the others remember their dual. `counts` holds the
// mixed sweeps and the passes of each problem, `given` its target and largest violation.
__global__ void __launch_bounds__(256)
mix_begin(const double* S, const double* given, bool* work, double* old, i64* counts, i64 problems) {
  const i64 b = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (b >= problems || !work[b]) return;
  const Numbers out(S + b * ix::NUMBERS);
  if (counts[2 * b] > 0 && out.finished(given[2 * b], given[2 * b + 1])) {
    work[b] = false;
    return;
  }
  old[b] = out.phi, counts[2 * b]++, counts[2 * b + 1]++;
}

// After it: whose dual fell goes back to the last image, and is swept again.
__global__ void __launch_bounds__(256)
mix_check(const double* S, const bool* work, const double* old, double slack, bool* worse, i64* counts, i64 problems) {
  const i64 b = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (b >= problems) return;
  worse[b] = work[b] && Numbers(S + b * ix::NUMBERS).fallen(old[b], slack);
  if (worse[b]) counts[2 * b + 1]++;
}

// --------------------------------------------------------------------------------------------------------------- Newton and cg

// Sums over the blocks of rows, for newton_columns and cg_columns (`of_cg`), where there are many of them.
template <typename real>
__global__ void __launch_bounds__(256)
fold(const real* part, const double* S, const i64* size, const bool* on, i64 of_cg, double* folded, i64 blocks, i64 m) {
  const i64 b = blockIdx.y, j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (!on[b] || (of_cg && done(S, b))) return;
  if (j < size[2 * b + 1]) folded[b * (m + 1) + j] = column_sum(part, b, blocks, (size[2 * b] + ix::ROWS - 1) / ix::ROWS, m, j);
}

// Free rows w, and sum_i w_i T_ij^2 of each column and block of rows; one thread a column.
template <typename real>
__global__ void __launch_bounds__(256)
newton_rows(const real* K, double* R, double* C, double* S, const i64* size, const real* v, real* part, double* part_s,
            const bool* on, i64 blocks, i64 n, i64 m) {
  __shared__ real w[ix::ROWS];
  __shared__ real e[ix::ROWS];
  const i64 b = blockIdx.x / blocks, item = blockIdx.x, i0 = (blockIdx.x % blocks) * (i64)ix::ROWS, i1 = min(i0 + ix::ROWS, size[2 * b]);
  if (!on[b] || i0 >= i1) return;
  const State s(R, C, S, b, n, m);
  if (threadIdx.x < ix::ROWS) {
    const i64 i = i0 + threadIdx.x;
    double weight = 0.0, square = 0.0;
    if (i < i1) {
      const double row = fmax(s.row(ix::ROW)[i], Least<double>::value);
      weight = row_weight(s, i);
      square = weight * row * row;
      e[threadIdx.x] = (real)s.row(ix::E)[i];
      if (blockIdx.y == 0) s.row(ix::W)[i] = weight, s.row(ix::F0)[i] = s.row(ix::F)[i] + s.row(ix::LU)[i];
    }
    w[threadIdx.x] = (real)weight;
    square = warp_sum(square);
    if (threadIdx.x == 0 && blockIdx.y == 0) part_s[item] = square;
  }
  __syncthreads();
  const i64 j = (i64)blockIdx.y * blockDim.x + threadIdx.x;
  if (j >= size[2 * b + 1]) return;
  const real vj = v[b * m + j];
  real sum = 0;
  for (i64 i = i0; i < i1; i++) {
    const real t = e[i - i0] * K[(b * n + i) * m + j] * vj;
    sum = madd(w[i - i0] * t, t, sum);
  }
  part[item * m + j] = sum;
}

// The Newton system; one thread block a problem. `folded` holds the column sums where `is_folded`, else they are made from `part`.
template <typename real>
__global__ void __launch_bounds__(256, 3)
newton_columns(double* R, double* C, double* S, const i64* size, const real* part, const double* part_s, const double* folded,
               i64 is_folded, const bool* on, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x;
  if (!on[b]) return;
  const i64 used = (size[2 * b] + ix::ROWS - 1) / ix::ROWS;
  double row_squares = 0.0;
  for (i64 k = threadIdx.x; k < used; k += blockDim.x) row_squares += part_s[b * blocks + k];
  newton_system(State(R, C, S, b, n, m), size[2 * b + 1], row_squares, [=](i64 j) {
    return is_folded ? folded[b * (m + 1) + j] : column_sum(part, b, blocks, used, m, j);
  });
}

// v d of the free columns, what the rows of a cg step are multiplied with.
template <typename real>
__global__ void __launch_bounds__(256)
direction_factors(double* R, double* C, double* S, const i64* size, const real* v, real* vd, const bool* on, i64 n, i64 m) {
  const i64 b = blockIdx.y, j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (!on[b] || done(S, b) || j >= size[2 * b + 1]) return;
  const State s(R, C, S, b, n, m);
  vd[b * m + j] = s.col(ix::DIAG)[j] > 0 ? (real)(v[b * m + j] * s.col(ix::CG_D)[j]) : (real)0;
}

template <typename real, int COLS, int FIXED>
__global__ void __launch_bounds__(512, 1)
cg_rows(const real* K, double* R, double* C, double* S, const i64* size, const real* vd, real* part, double* part_s, const bool* on,
        i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x / blocks, item = blockIdx.x, i0 = (blockIdx.x % blocks) * (i64)ix::ROWS, i1 = min(i0 + ix::ROWS, size[2 * b]);
  if (!on[b] || done(S, b) || i0 >= i1) return;
  RowProduct<real> rule(State(R, C, S, b, n, m));
  fused_read<real, COLS, FIXED>(K + b * n * m, vd + b * m, part + item * m, i0, i1, m, (int)size[2 * b + 1], rule);
  if (threadIdx.x < LANES) {
    const double cross = warp_sum(rule.cross);
    if (threadIdx.x == 0) part_s[item] = cross;
  }
}

// Columns of a cg step; one thread block a problem. `folded` (B, m + 1) holds the column sums where `is_folded`.
template <typename real>
__global__ void __launch_bounds__(512, 1)
cg_columns(double* R, double* C, double* S, const i64* size, const real* v, const real* part, const double* part_s, double* folded,
           i64 is_folded, double stop, const bool* on, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x;
  if (!on[b] || done(S, b)) return;
  const i64 used = (size[2 * b] + ix::ROWS - 1) / ix::ROWS;
  double cross = 0.0, *product = folded + b * (m + 1);
  for (i64 k = threadIdx.x; k < used; k += blockDim.x) cross += part_s[b * blocks + k];
  cg_step(State(R, C, S, b, n, m), size[2 * b + 1], stop, cross, product, [=](i64 j) {
    return v[b * m + j] * (is_folded ? product[j] : column_sum(part, b, blocks, used, m, j));
  });
}
