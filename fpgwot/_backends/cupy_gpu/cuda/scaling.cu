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

// Exact row update; what the rows add to the dual, the mass and the residual.
template <typename real> struct RowUpdate {
  State s;
  double t, rho, cap, yh, price, mass, lacking;
  __device__ RowUpdate(const State& s_)
      : s(s_), t(s_.price(ix::TAU1)), rho(exponent(t)), cap(s_.vals[ix::CAP1]), yh(s_.of_mass(ix::Y)), price(0), mass(0), lacking(0) {}
  __device__ real operator()(i64 i, double product) {
    const double kv = fmax(product, Least<double>::value), f = s.row(ix::F)[i], p = s.row(ix::P)[i];
    double lu = update(s.row(ix::LOG_P)[i], log(kv) + yh, f, rho, cap);
    const bool cut = lu + yh > ix::DRIFT;
    if (cut) lu = ix::DRIFT - yh;
    const double e = exp(lu + yh), row = e * kv;
    s.row(ix::LU)[i] = lu, s.row(ix::E)[i] = e, s.row(ix::ROW)[i] = row;
    mass += row;
    if (cut && isinf(t) && f + lu < cap) lacking += abs(p - row);  // not the exact row update: say so
    if (isinf(t)) price += p * (f + lu);
    else if (t > 0) price -= t * p * expm1(-(f + lu) / t);
    return (real)e;
  }
};

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

// Sum over the blocks of rows of a column.
template <typename real> __device__ __forceinline__ double column_sum(const real* part, i64 b, i64 blocks, i64 used, i64 m, i64 j) {
  double sum = 0.0;
  for (i64 k = 0; k < used; k++) sum += part[(b * blocks + k) * m + j];
  return sum;
}

// The numbers of a sweep from the sums over blocks of rows (part_s) and over chunks of columns (part_c).
__device__ void finish_sweep(const State& s, const double* part_s, i64 used, const double* part_c, i64 chunks) {
  double x[6] = {}, viol = 0.0;
  for (i64 k = threadIdx.x; k < used; k += blockDim.x) x[0] += part_s[3 * k], x[1] += part_s[3 * k + 1], x[2] += part_s[3 * k + 2];
  for (i64 k = threadIdx.x; k < chunks; k += blockDim.x) {
    x[3] += part_c[4 * k], x[4] += part_c[4 * k + 1], x[5] += part_c[4 * k + 2];
    viol = fmax(viol, part_c[4 * k + 3]);
  }
  block_sum(x);
  viol = block_max(viol);
  if (threadIdx.x) return;
  double phi = x[0] + x[3], mass = x[1], res = x[2] + x[4], image = 0.0, grad = 0.0;
  if (s.fixed()) {
    const double q = s.of_mass(ix::Q);
    image = log(q) - log(fmax(x[5], Least<double>::value));
    grad = q - mass;
    phi += q * (s.of_mass(ix::G) + s.of_mass(ix::Y));
    res += abs(grad);
    viol = fmax(viol, abs(grad) / q);
  }
  s.of_mass(ix::IMAGE) = image, s.of_mass(ix::GRAD) = grad;
  s.vals[ix::PHI] = phi - mass, s.vals[ix::RES] = res, s.vals[ix::VIOL] = viol, s.vals[ix::MASS] = mass;
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
  const double t = s.price(ix::TAU2), cap = s.vals[ix::CAP2], yh = s.of_mass(ix::Y);
  double x[3] = {}, viol = 0.0;  // dual, residual, mass of the image
  if (j < mb) {
    // ku holds e' K, the mass factor included; the Sinkhorn image makes the column sum right at this mass factor
    const double ku = column_sum(part, b, blocks, used, m, j), col = ku * v[b * m + j], q = s.col(ix::Q)[j];
    const double g = s.col(ix::G)[j], pot = g + s.col(ix::Y)[j], log_ku = log(fmax(ku, Least<double>::value));
    const double y = fmin(update(s.col(ix::LOG_Q)[j], log_ku, g, exponent(t), cap), ix::DRIFT);
    s.col(ix::IMAGE)[j] = y, s.col(ix::COL)[j] = col;
    if (s.fixed()) x[2] = exp(log_ku - yh + y);
    double grad = 0.0;
    if (isinf(t)) {
      grad = q - col;
      x[0] = q * pot;
      if (isinf(cap)) {
        x[1] = abs(grad), viol = abs(grad) / q;
      } else {
        x[1] = abs(fmin(0.0, pot + grad / fmax(col, Least<double>::value)) - pot) * col, viol = -grad / q;
      }
    } else if (t > 0) {
      grad = q * exp(-pot / t) - col;
      x[0] = -t * q * expm1(-pot / t);
      x[1] = abs(grad);
    }
    s.col(ix::GRAD)[j] = grad;
  }
  block_sum(x);
  viol = block_max(viol);
  double* mine = part_c + (b * gridDim.x + blockIdx.x) * 4;
  if (threadIdx.x == 0) mine[0] = x[0], mine[1] = x[1], mine[2] = x[2], mine[3] = viol;
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

// --------------------------------------------------------------------------------------------------------------- Newton and cg

// Sums over the blocks of rows, for finish_newton and finish_cg, where there are many of them.
template <typename real>
__global__ void __launch_bounds__(256)
fold(const real* part, const i64* size, const bool* on, double* folded, i64 blocks, i64 m) {
  const i64 b = blockIdx.y, j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (on[b] && j < size[2 * b + 1]) folded[b * (m + 1) + j] = column_sum(part, b, blocks, (size[2 * b] + ix::ROWS - 1) / ix::ROWS, m, j);
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
      const double t = s.price(ix::TAU1), row = fmax(s.row(ix::ROW)[i], Least<double>::value);
      const bool free = t > 0 && (isinf(s.vals[ix::CAP1]) || s.row(ix::F)[i] + s.row(ix::LU)[i] < -1e-13);
      if (free) weight = isinf(t) ? 1.0 / row : 1.0 / (row * (1.0 + 1.0 / t));
      square = weight * row * row;
      e[threadIdx.x] = (real)s.row(ix::E)[i];
      if (blockIdx.y == 0) s.row(ix::W)[i] = weight;
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

// Free columns, diagonal preconditioner, right-hand side and direction; one thread block a problem. `folded` holds the column sums
// where `is_folded`, else they are made from `part`.
template <typename real>
__global__ void __launch_bounds__(256)
newton_columns(double* R, double* C, double* S, const i64* size, const real* part, const double* part_s, const double* folded,
               i64 is_folded, const bool* on, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x, mb = size[2 * b + 1];
  if (!on[b]) return;
  const State s(R, C, S, b, n, m);
  const i64 used = (size[2 * b] + ix::ROWS - 1) / ix::ROWS;
  const double t = s.price(ix::TAU2), mass = s.vals[ix::MASS];
  const bool capped = !isinf(s.vals[ix::CAP2]);
  const double shift = 0.03 * fmin(1.0, s.vals[ix::RES] / fmax(mass, Least<double>::value));
  double x[3] = {};  // of the right-hand side, of d, of the squares
  for (i64 k = threadIdx.x; k < used; k += blockDim.x) x[2] += part_s[b * blocks + k];
  for (i64 j = threadIdx.x; j < mb; j += blockDim.x) {
    const double col = s.col(ix::COL)[j], pot = s.col(ix::G)[j] + s.col(ix::Y)[j], grad = s.col(ix::GRAD)[j];
    const bool free = t > 0 && !(capped && pot >= -1e-13 && grad > 0);
    double d = isinf(t) ? col : t > 0 ? col + (grad + col) / t : 0.0;
    d = free && d > 0 ? d : 0.0;
    const double square = is_folded ? folded[b * (m + 1) + j] : column_sum(part, b, blocks, used, m, j);
    s.col(ix::DIAG)[j] = d;
    s.col(ix::PRE)[j] = fmax(d * (1.0 + shift) - square, 1e-6 * d);
    s.col(ix::CG_R)[j] = d > 0 ? grad : 0.0;
    x[0] += s.col(ix::CG_R)[j], x[1] += d;
  }
  block_sum(x);
  // with every marginal hard a constant moves between rows and columns at no change: keep it out of the system
  const bool drop = isinf(s.price(ix::TAU1)) && isinf(t) && !s.fixed() && !capped && isinf(s.vals[ix::CAP1]) && x[1] > 0;
  const double mean = drop ? x[0] / x[1] : 0.0;
  double y[2] = {};  // |r|, <r, z>
  for (i64 k = threadIdx.x; k <= mb; k += blockDim.x) {
    const i64 j = k < mb ? k : m;
    double r, pre;
    if (k < mb) {
      r = s.col(ix::CG_R)[j] - s.col(ix::DIAG)[j] * mean, pre = s.col(ix::PRE)[j];
    } else {
      r = s.of_mass(ix::GRAD), pre = fmax(mass * (1.0 + shift) - x[2], 1e-6 * mass);
      s.of_mass(ix::PRE) = pre;
    }
    const double z = r != 0.0 ? r / pre : 0.0;
    s.col(ix::CG_R)[j] = r, s.col(ix::CG_D)[j] = z, s.col(ix::CG_X)[j] = 0.0;
    s.col(ix::Y0)[j] = s.col(ix::Y)[j], s.col(ix::GRAD0)[j] = s.col(ix::GRAD)[j];
    y[0] += abs(r), y[1] += r * z;
  }
  block_sum(y);
  if (threadIdx.x) return;
  s.vals[ix::NORM] = y[0], s.vals[ix::RZ] = y[1], s.vals[ix::SHIFT] = shift, s.vals[ix::DONE] = y[0] > 0 ? 0.0 : 1.0;
}

// v d of the free columns, what the rows of a cg step are multiplied with.
template <typename real>
__global__ void __launch_bounds__(256)
direction_factors(double* R, double* C, double* S, const i64* size, const real* v, real* vd, const bool* on, i64 n, i64 m) {
  const i64 b = blockIdx.y, j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (!on[b] || j >= size[2 * b + 1]) return;
  const State s(R, C, S, b, n, m);
  vd[b * m + j] = s.col(ix::DIAG)[j] > 0 ? (real)(v[b * m + j] * s.col(ix::CG_D)[j]) : (real)0;
}

// t = w (T d + row d_h): the rows of the Schur complement.
template <typename real> struct RowProduct {
  State s;
  double dh, cross;
  __device__ RowProduct(const State& s_) : s(s_), dh(s_.of_mass(ix::CG_D)), cross(0) {}
  __device__ real operator()(i64 i, double product) {
    const double e = s.row(ix::E)[i], row = s.row(ix::ROW)[i], t = s.row(ix::W)[i] * (e * product + row * dh);
    cross += row * t;
    return (real)(e * t);
  }
};

template <typename real, int COLS, int FIXED>
__global__ void __launch_bounds__(512, 1)
cg_rows(const real* K, double* R, double* C, double* S, const i64* size, const real* vd, real* part, double* part_s, const bool* on,
        i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x / blocks, item = blockIdx.x, i0 = (blockIdx.x % blocks) * (i64)ix::ROWS, i1 = min(i0 + ix::ROWS, size[2 * b]);
  if (!on[b] || i0 >= i1) return;
  RowProduct<real> rule(State(R, C, S, b, n, m));
  fused_read<real, COLS, FIXED>(K + b * n * m, vd + b * m, part + item * m, i0, i1, m, (int)size[2 * b + 1], rule);
  if (threadIdx.x < LANES) {
    const double cross = warp_sum(rule.cross);
    if (threadIdx.x == 0) part_s[item] = cross;
  }
}

// Columns of a cg step; one thread block a problem. `folded` (B, m + 1) takes the product of the system with the direction.
template <typename real>
__global__ void __launch_bounds__(512, 1)
cg_columns(double* R, double* C, double* S, const i64* size, const real* v, const real* part, const double* part_s, double* folded,
           i64 is_folded, double stop, const bool* on, i64 blocks, i64 n, i64 m) {
  const i64 b = blockIdx.x, mb = size[2 * b + 1];
  if (!on[b]) return;
  const State s(R, C, S, b, n, m);
  const i64 used = (size[2 * b] + ix::ROWS - 1) / ix::ROWS;
  const bool fixed = s.fixed();
  const double rz = s.vals[ix::RZ], shift = s.vals[ix::SHIFT], dh = s.of_mass(ix::CG_D);
  double *product = folded + b * (m + 1), *X = s.col(ix::CG_X), *r = s.col(ix::CG_R), *d = s.col(ix::CG_D);
  double x[3] = {};  // <col, d>, <row, t>, curvature
  for (i64 k = threadIdx.x; k < used; k += blockDim.x) x[1] += part_s[b * blocks + k];
  for (i64 j = threadIdx.x; j < mb; j += blockDim.x) {
    const double diag = s.col(ix::DIAG)[j], col = s.col(ix::COL)[j];
    double y = 0.0;
    if (diag > 0) {
      const double ku = is_folded ? product[j] : column_sum(part, b, blocks, used, m, j);
      y = diag * d[j] * (1.0 + shift) - v[b * m + j] * ku + (fixed ? col * dh : 0.0);
      x[0] += col * d[j], x[2] += y * d[j];
    }
    product[j] = y;
  }
  block_sum(x);
  const double bottom = fixed ? x[0] + s.vals[ix::MASS] * dh * (1.0 + shift) - x[1] : 0.0, curve = x[2] + bottom * dh;
  const double a = rz / fmax(curve, Least<double>::value);
  double y[2] = {};  // |r|, <r, z>
  for (i64 k = threadIdx.x; k <= mb; k += blockDim.x) {
    const i64 j = k < mb ? k : m;
    X[j] += a * d[j];
    r[j] -= a * (k < mb ? product[j] : bottom);
    y[0] += abs(r[j]);
    if (r[j] != 0.0) y[1] += r[j] * r[j] / s.col(ix::PRE)[j];
  }
  block_sum(y);
  const double ratio = y[1] / fmax(rz, Least<double>::value);
  for (i64 k = threadIdx.x; k <= mb; k += blockDim.x) {
    const i64 j = k < mb ? k : m;
    d[j] = (r[j] != 0.0 ? r[j] / s.col(ix::PRE)[j] : 0.0) + ratio * d[j];
  }
  if (threadIdx.x) return;
  s.vals[ix::RZ] = y[1];
  if (y[0] < stop * s.vals[ix::NORM] || !(curve > 0.0)) s.vals[ix::DONE] = 1.0;
}
