// The pieces of sweep, newton and cg that do not depend on how K is read: what a row and a column do, and the numbers of a problem.

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

// Column side of a sweep: what the columns add to the dual, the residual and the mass of the image; the largest violation.
struct ColumnUpdate {
  State s;
  double t, rho, cap, yh, price, residual, image, violation;
  bool fixed;
  __device__ ColumnUpdate(const State& s_)
      : s(s_), t(s_.price(ix::TAU2)), rho(exponent(t)), cap(s_.vals[ix::CAP2]), yh(s_.of_mass(ix::Y)), price(0), residual(0),
        image(0), violation(0), fixed(s_.fixed()) {}
  // ku is e' K, the mass factor included; the Sinkhorn image makes the column sum right at this mass factor
  __device__ void operator()(i64 j, double ku, double vj) {
    const double col = ku * vj, q = s.col(ix::Q)[j], g = s.col(ix::G)[j], pot = g + s.col(ix::Y)[j];
    const double log_ku = log(fmax(ku, Least<double>::value));
    const double y = fmin(update(s.col(ix::LOG_Q)[j], log_ku, g, rho, cap), ix::DRIFT);
    s.col(ix::IMAGE)[j] = y, s.col(ix::COL)[j] = col;
    if (fixed) image += exp(log_ku - yh + y);
    double grad = 0.0;
    if (isinf(t)) {
      grad = q - col;
      price += q * pot;
      if (isinf(cap)) {
        residual += abs(grad), violation = fmax(violation, abs(grad) / q);
      } else {
        residual += abs(fmin(0.0, pot + grad / fmax(col, Least<double>::value)) - pot) * col;
        violation = fmax(violation, -grad / q);
      }
    } else if (t > 0) {
      grad = q * exp(-pot / t) - col;
      price -= t * q * expm1(-pot / t);
      residual += abs(grad);
    }
    s.col(ix::GRAD)[j] = grad;
  }
};

// The numbers of a sweep from its sums over rows and columns; by one thread.
__device__ void store_sweep(const State& s, double price, double mass, double residual, double image_mass, double violation) {
  double image = 0.0, grad = 0.0;
  if (s.fixed()) {
    const double q = s.of_mass(ix::Q);
    image = log(q) - log(fmax(image_mass, Least<double>::value));
    grad = q - mass;
    price += q * (s.of_mass(ix::G) + s.of_mass(ix::Y));
    residual += abs(grad);
    violation = fmax(violation, abs(grad) / q);
  }
  s.of_mass(ix::IMAGE) = image, s.of_mass(ix::GRAD) = grad;
  s.vals[ix::PHI] = price - mass, s.vals[ix::RES] = residual, s.vals[ix::VIOL] = violation, s.vals[ix::MASS] = mass;
}

// Numbers that the decisions of `inner.py` are made by, and those decisions.
struct Numbers {
  double phi, residual, violation;
  __device__ Numbers(const double* vals) : phi(vals[ix::PHI]), residual(vals[ix::RES]), violation(vals[ix::VIOL]) {}
  __device__ bool finished(double target, double feasible) const { return residual <= target && violation <= feasible; }
  __device__ bool fallen(double before, double slack) const { return !(phi >= before - slack * abs(before)); }
  __device__ bool refused(const Numbers& start, double gain, double slack) const {
    const bool enough = phi >= start.phi + loop::ENOUGH * gain || abs(phi - start.phi) < slack * fmax(1.0, abs(start.phi));
    return !(isfinite(phi) && enough);
  }
};

// Sum over the blocks of rows of a column.
template <typename real> __device__ __forceinline__ double column_sum(const real* part, i64 b, i64 blocks, i64 used, i64 m, i64 j) {
  double sum = 0.0;
  for (i64 k = 0; k < used; k++) sum += part[(b * blocks + k) * m + j];
  return sum;
}

// The conjugate gradients of a problem are over: kernels that were queued in advance return.
__device__ __forceinline__ bool done(const double* S, i64 b) { return S[b * ix::NUMBERS + ix::DONE] != 0.0; }

// Weight of a row in the Newton system, 0 where its potential is held.
__device__ __forceinline__ double row_weight(const State& s, i64 i) {
  const double t = s.price(ix::TAU1), row = fmax(s.row(ix::ROW)[i], Least<double>::value);
  const bool free = t > 0 && (isinf(s.vals[ix::CAP1]) || s.row(ix::F)[i] + s.row(ix::LU)[i] < -ix::AT_CAP);
  if (!free) return 0.0;
  return isinf(t) ? 1.0 / row : 1.0 / (row * (1.0 + 1.0 / t));
}

// Free columns, diagonal preconditioner, right-hand side and direction of the Newton system, by one thread block. squares(j) is
// sum_i w_i T_ij^2, each thread brings its share of sum_i w_i row_i^2.
template <class Squares> __device__ void newton_system(const State& s, i64 mb, double row_squares, Squares squares) {
  const double t = s.price(ix::TAU2), mass = s.vals[ix::MASS];
  const bool capped = !isinf(s.vals[ix::CAP2]);
  const double shift = 0.03 * fmin(1.0, s.vals[ix::RES] / fmax(mass, Least<double>::value));
  double x[3] = {0.0, 0.0, row_squares};  // of the right-hand side, of d, of the squares
  for (i64 j = threadIdx.x; j < mb; j += blockDim.x) {
    const double col = s.col(ix::COL)[j], pot = s.col(ix::G)[j] + s.col(ix::Y)[j], grad = s.col(ix::GRAD)[j];
    const bool free = t > 0 && fabs(s.col(ix::Y)[j]) < ix::DRIFT && !(capped && pot >= -ix::AT_CAP && grad > 0);
    double d = isinf(t) ? col : t > 0 ? col + (grad + col) / t : 0.0;
    d = free && d > 0 ? d : 0.0;
    s.col(ix::DIAG)[j] = d;
    s.col(ix::PRE)[j] = fmax(d * (1.0 + shift) - squares(j), 1e-6 * d);
    s.col(ix::CG_R)[j] = d > 0 ? grad : 0.0;
    x[0] += s.col(ix::CG_R)[j], x[1] += d;
  }
  block_sum(x);
  // with every marginal hard a constant moves between rows and columns at no change: keep it out of the system
  const bool drop = isinf(s.price(ix::TAU1)) && isinf(t) && !s.fixed() && !capped && isinf(s.vals[ix::CAP1]) && x[1] > 0;
  const double mean = drop ? x[0] / x[1] : 0.0;
  double y[2] = {};  // |r|, <r, z>
  for (i64 k = threadIdx.x; k <= mb; k += blockDim.x) {
    const i64 j = k < mb ? k : s.m;
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
  s.vals[ix::STEPS] = 0.0;
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

// A conjugate gradient step by one thread block: sums(j) is sum_i T_ij t_i with the t of RowProduct, each thread brings its share of
// <row, t>. `product` takes the product of the system with the direction; sums(j) is asked before product[j] is written.
template <class Sums>
__device__ void cg_step(const State& s, i64 mb, double stop, double cross, double* product, Sums sums) {
  const bool fixed = s.fixed();
  const double rz = s.vals[ix::RZ], shift = s.vals[ix::SHIFT], dh = s.of_mass(ix::CG_D);
  double *X = s.col(ix::CG_X), *r = s.col(ix::CG_R), *d = s.col(ix::CG_D);
  double x[3] = {0.0, cross, 0.0};  // <col, d>, <row, t>, curvature
  for (i64 j = threadIdx.x; j < mb; j += blockDim.x) {
    const double diag = s.col(ix::DIAG)[j], col = s.col(ix::COL)[j];
    double y = 0.0;
    if (diag > 0) {
      y = diag * d[j] * (1.0 + shift) - sums(j) + (fixed ? col * dh : 0.0);
      x[0] += col * d[j], x[2] += y * d[j];
    }
    product[j] = y;
  }
  block_sum(x);
  const double bottom = fixed ? x[0] + s.vals[ix::MASS] * dh * (1.0 + shift) - x[1] : 0.0, curve = x[2] + bottom * dh;
  const double a = curve > Least<double>::value ? rz / curve : 0.0;  // flat up to rounding: no step
  double y[2] = {};  // |r|, <r, z>
  for (i64 k = threadIdx.x; k <= mb; k += blockDim.x) {
    const i64 j = k < mb ? k : s.m;
    X[j] += a * d[j];
    r[j] -= a * (k < mb ? product[j] : bottom);
    y[0] += abs(r[j]);
    if (r[j] != 0.0) y[1] += r[j] * r[j] / s.col(ix::PRE)[j];
  }
  block_sum(y);
  const double ratio = y[1] / fmax(rz, Least<double>::value);
  for (i64 k = threadIdx.x; k <= mb; k += blockDim.x) {
    const i64 j = k < mb ? k : s.m;
    d[j] = (r[j] != 0.0 ? r[j] / s.col(ix::PRE)[j] : 0.0) + ratio * d[j];
  }
  if (threadIdx.x) return;
  s.vals[ix::RZ] = y[1], s.vals[ix::STEPS] += 1.0;
  if (y[0] < stop * s.vals[ix::NORM] || !(curve > 0.0)) s.vals[ix::DONE] = 1.0;
}
