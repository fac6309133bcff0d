// Products with temporal structures: C X for X (B, n, lines) with AXIS 0, X C for X (B, lines, n) with AXIS 1. A line is cut into
// segments of SEGMENT points. `scan_segments` sums up each segment from both of its ends, `scan_carries` runs along the segments, and
// `scan_lines` does the points of each segment from what comes in at its ends. Nothing but additions of what is positive where X
// and the weights are: no digit cancels. Along the columns (AXIS 1) a tile passes through shared memory, so that reads are long.
constexpr int SEGMENT = 32, TILE = 64;  // points of a segment; threads, a line each

// Sums over the points passed so far, as seen from a place that moves on by gaps: of x and distance x (Distance), squared distance x
// (Square), of ratios x (Decay). `value` is what they add to the product; a and b are scale, or weight and offset.
struct Distance {
  static constexpr int NUMBERS = 2, DIRECTIONS = 2;
  double v[2] = {};  // sum x, sum distance x
  static __device__ double none() { return 0.0; }
  static __device__ double longer(double reach, double gap) { return reach + gap; }
  __device__ void move(double gap) { v[1] += gap * v[0]; }
  __device__ void add(double x) { v[0] += x; }
  __device__ double value(double a, double) const { return a * v[1]; }
};
struct Square {
  static constexpr int NUMBERS = 3, DIRECTIONS = 2;
  double v[3] = {};
  static __device__ double none() { return 0.0; }
  static __device__ double longer(double reach, double gap) { return reach + gap; }
  __device__ void move(double gap) {
    v[2] += gap * (2.0 * v[1] + gap * v[0]);
    v[1] += gap * v[0];
  }
  __device__ void add(double x) { v[0] += x; }
  __device__ double value(double a, double) const { return a * v[2]; }
};
struct Decay {
  static constexpr int NUMBERS = 2, DIRECTIONS = 2;
  double v[2] = {};  // sum x, sum ratio x
  static __device__ double none() { return 1.0; }
  static __device__ double longer(double reach, double ratio) { return reach * ratio; }
  __device__ void move(double ratio) { v[1] *= ratio; }
  __device__ void add(double x) { v[0] += x, v[1] += x; }
  __device__ double value(double a, double b) const { return b * v[0] + a * v[1]; }
};
struct Total {
  static constexpr int NUMBERS = 1, DIRECTIONS = 1;
  double v[1] = {};
  static __device__ double none() { return 0.0; }
  static __device__ double longer(double reach, double) { return reach; }
  __device__ void move(double) {}
  __device__ void add(double x) { v[0] += x; }
};

// The points start ... start + SEGMENT - 1 of this thread's line, 0 beyond the ends. With AXIS 1 they are read through `tile`, and all
// threads of the block must make the object.
template <typename real, int AXIS> struct Points {
  const real *x, (*tile)[TILE + 1];
  i64 start, n, lines, line;
  __device__ Points(const real* X, i64 start_, i64 n_, i64 first, i64 lines_, real (*shared)[TILE + 1])
      : x(X), tile(shared), start(start_), n(n_), lines(lines_), line(first + threadIdx.x) {
    if constexpr (AXIS == 1) {
      __syncthreads();  // the last use of the tile is over
      for (int k = threadIdx.x; k < SEGMENT * TILE; k += TILE) {
        const i64 i = start + k % SEGMENT, l = first + k / SEGMENT;
        shared[k % SEGMENT][k / SEGMENT] = l < lines && i >= 0 && i < n ? X[l * n + i] : (real)0;
      }
      __syncthreads();
    }
  }
  __device__ __forceinline__ real operator[](int e) const {
    if constexpr (AXIS == 1) return tile[e][threadIdx.x];
    return line < lines && start + e >= 0 && start + e < n ? x[(start + e) * lines + line] : (real)0;
  }
};
// Where the products of those points go: with AXIS 1 to a second tile, written by `finish`.
template <typename real, int AXIS> struct Products {
  real *y, (*tile)[TILE + 1];
  i64 start, n, first, lines;
  __device__ Products(real* Y, i64 start_, i64 n_, i64 first_, i64 lines_, real (*shared)[TILE + 1])
      : y(Y), tile(shared), start(start_), n(n_), first(first_), lines(lines_) {}
  __device__ __forceinline__ real& operator[](int e) const {
    if constexpr (AXIS == 1) return tile[e][threadIdx.x];
    return y[(start + e) * lines + first + threadIdx.x];
  }
  __device__ void finish() const {
    if constexpr (AXIS == 1) {
      __syncthreads();
      for (int k = threadIdx.x; k < SEGMENT * TILE; k += TILE) {
        const i64 i = start + k % SEGMENT, l = first + k / SEGMENT;
        if (l < lines && i < n) y[l * n + i] = tile[k % SEGMENT][k / SEGMENT];
      }
    }
  }
};

// Which problem, segment and lines a block has.
struct Piece {
  i64 b, segment, start, first;
  __device__ Piece(i64 segments, i64 lines) {
    const i64 chunks = (lines + TILE - 1) / TILE, item = blockIdx.x / chunks;
    b = item / segments, segment = item % segments, start = segment * SEGMENT, first = blockIdx.x % chunks * TILE;
  }
};
// Place of a number of a segment's end in `carry`.
__device__ __forceinline__ i64 place(i64 b, int direction, int number, int numbers, i64 segment, i64 segments, i64 lines, i64 line) {
  return (((b * 2 + direction) * numbers + number) * segments + segment) * lines + line;
}

// Both ends of each segment, and reach, the way through it.
template <typename real, class Kind, int AXIS>
__global__ void __launch_bounds__(TILE)
scan_segments(const real* X, const double* gaps, double* carry, double* reach, i64 n, i64 lines, i64 segments) {
  __shared__ real tile[AXIS ? SEGMENT : 1][TILE + 1];
  const Piece p(segments, lines);
  const Points<real, AXIS> x(X + p.b * n * lines, p.start, n, p.first, lines, tile);
  Kind down, up;
  double way = Kind::none();
#pragma unroll 8
  for (int e = 0; e < SEGMENT; e++) {
    if (p.start + e >= n) break;
    const double gap = gaps[p.start + e];
    way = Kind::longer(way, gap);
    down.move(gap), down.add(x[e]);
    Kind one;  // this point as it is seen from before the segment
    one.add(x[e]), one.move(way);
#pragma unroll
    for (int k = 0; k < Kind::NUMBERS; k++) up.v[k] += one.v[k];
  }
  const i64 line = p.first + threadIdx.x;
  if (blockIdx.x == p.segment * ((lines + TILE - 1) / TILE) && threadIdx.x == 0) reach[p.segment] = way;
  if (line >= lines) return;
#pragma unroll
  for (int k = 0; k < Kind::NUMBERS; k++) {
    carry[place(p.b, 0, k, Kind::NUMBERS, p.segment, segments, lines, line)] = down.v[k];
    if (Kind::DIRECTIONS == 2) carry[place(p.b, 1, k, Kind::NUMBERS, p.segment, segments, lines, line)] = up.v[k];
  }
}

// In `carry`, what comes in at each end of a segment takes the place of what goes out at the other.
template <class Kind>
__global__ void __launch_bounds__(TILE) scan_carries(double* carry, const double* reach, i64 problems, i64 lines, i64 segments) {
  const i64 item = (i64)blockIdx.x * blockDim.x + threadIdx.x, b = item / lines, line = item % lines;
  if (b >= problems) return;
  for (int direction = 0; direction < 2; direction++) {
    Kind state;
    for (i64 k = 0; k < segments; k++) {
      const i64 segment = direction ? segments - 1 - k : k;
      Kind out = state;
      state.move(reach[segment]);
#pragma unroll
      for (int v = 0; v < Kind::NUMBERS; v++) {
        double& at = carry[place(b, direction, v, Kind::NUMBERS, segment, segments, lines, line)];
        state.v[v] += at;
        at = out.v[v];
      }
    }
  }
}

template <typename real, class Kind, int AXIS>
__global__ void __launch_bounds__(TILE)
scan_lines(const real* X, const double* gaps, const double* carry, double a, double b, real* Y, i64 n, i64 lines, i64 segments) {
  __shared__ real tile[AXIS ? SEGMENT : 1][TILE + 1];
  __shared__ real result[AXIS ? SEGMENT : 1][TILE + 1];
  const Piece p(segments, lines);
  const Points<real, AXIS> x(X + p.b * n * lines, p.start, n, p.first, lines, tile);
  const Products<real, AXIS> y(Y + p.b * n * lines, p.start, n, p.first, lines, result);
  const int points = (int)min((i64)SEGMENT, n - p.start);
  const i64 line = p.first + threadIdx.x;
  if (line < lines) {
    Kind down, up;
#pragma unroll
    for (int k = 0; k < Kind::NUMBERS; k++) {
      down.v[k] = carry[place(p.b, 0, k, Kind::NUMBERS, p.segment, segments, lines, line)];
      up.v[k] = carry[place(p.b, 1, k, Kind::NUMBERS, p.segment, segments, lines, line)];
    }
#pragma unroll 4
    for (int e = points - 1; e >= 0; e--) {
      y[e] = (real)up.value(a, b);
      up.add(x[e]), up.move(gaps[p.start + e]);
    }
#pragma unroll 4
    for (int e = 0; e < points; e++) {
      down.move(gaps[p.start + e]), down.add(x[e]);
      y[e] = (real)(y[e] + down.value(a, b));
    }
  }
  y.finish();
}

// Symmetric Toeplitz band with one weight `off` beside the diagonal, `on` more on it: the window sum of the first point of a segment from
// the sums of whole segments, the next by what comes in and goes out.
template <typename real, int AXIS>
__global__ void __launch_bounds__(TILE)
toeplitz_window(const real* X, const double* carry, double on, double off, i64 width, real* Y, i64 n, i64 lines, i64 segments) {
  __shared__ real tile[AXIS ? SEGMENT : 1][TILE + 1];
  __shared__ real result[AXIS ? SEGMENT : 1][TILE + 1];
  const Piece p(segments, lines);
  const real* mine = X + p.b * n * lines;
  const Products<real, AXIS> y(Y + p.b * n * lines, p.start, n, p.first, lines, result);
  const int points = (int)min((i64)SEGMENT, n - p.start);
  const i64 line = p.first + threadIdx.x, step = AXIS ? 1 : lines, at = AXIS ? line * n : line;
  {
    const Points<real, AXIS> ahead(mine, p.start + width, n, p.first, lines, tile);
    if (line < lines)
      for (int e = 0; e < points; e++) y[e] = ahead[e];
  }
  const Points<real, AXIS> behind(mine, p.start - width - 1, n, p.first, lines, tile);
  if (line < lines)
    for (int e = 0; e < points; e++) y[e] -= behind[e];
  const Points<real, AXIS> x(mine, p.start, n, p.first, lines, tile);
  if (line < lines) {
    double sum = 0.0;
    const i64 high = min(p.start + width, n - 1);
    for (i64 i = max(p.start - width, (i64)0); i <= high;) {
      const bool whole = i % SEGMENT == 0 && i + SEGMENT - 1 <= high;
      sum += whole ? carry[place(p.b, 0, 0, Total::NUMBERS, i / SEGMENT, segments, lines, line)] : (double)mine[at + i * step];
      i += whole ? SEGMENT : 1;
    }
    for (int e = 0; e < points; e++) {
      if (e) sum += y[e];
      y[e] = (real)(off * sum + on * x[e]);
    }
  }
  y.finish();
}

// Symmetric Toeplitz band entry by entry, for narrow ones; one thread a product.
template <typename real, int AXIS>
__global__ void __launch_bounds__(256)
toeplitz_band(const real* X, const double* weights, i64 width, real* Y, i64 rows, i64 cols) {
  const i64 chunks = (cols + blockDim.x - 1) / blockDim.x, row = blockIdx.x / chunks, j = blockIdx.x % chunks * blockDim.x + threadIdx.x;
  if (j >= cols) return;
  const i64 i = AXIS ? j : row % rows, n = AXIS ? cols : rows, step = AXIS ? 1 : cols;  // row counts through all problems
  const real* x = X + row * cols + j - i * step;
  double sum = 0.0;
  for (i64 k = max(i - width, (i64)0); k <= min(i + width, n - 1); k++) sum += weights[k > i ? k - i : i - k] * x[k * step];
  Y[row * cols + j] = (real)sum;
}
