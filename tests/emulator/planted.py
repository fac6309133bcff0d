"""One small kernel with a fault of choice, run in a process of its own: `python -m emulator.planted FAULT`."""

from __future__ import annotations

import sys

import numpy as np

from .standin import Standin

# reverses each block of 64 numbers through shared memory
CODE = """
template <class T> __global__ void __launch_bounds__(64) reverse(const T* x, T* out, int n) {
  __shared__ T s[64];
  const int t = threadIdx.x, at = blockIdx.x * 64;
  s[t] = x[at + t];
  __syncthreads();
  T v = s[63 - t];
  v += 0 * __shfl_xor_sync(0xffffffffu, v, 1);
  if (at + t < n) {
    out[at + t] = v;
  }
}
"""
FAULTS = {
    "none": ("", ""),
    "missing barrier": ("  __syncthreads();", "  ;"),
    "overrun of shared memory": ("s[63 - t]", "s[64 - t]"),
    "overrun of an array": ("out[at + t] = v", "out[at + t + 1] = v"),
    "race between blocks": ("out[at + t] = v", "out[t] = v"),
    "divergent barrier": ("  __syncthreads();", "  if (t < 32) __syncthreads();"),
    "two barriers": ("  __syncthreads();", "  if (t < 32) __syncthreads(); else\n__syncthreads();"),
    "lane that has left": ("  v += 0", "  if (t == 40) return;\n  v += 0"),
    "lane outside the mask": ("0xffffffffu", "0x7fffffffu"),
    "shuffle from outside the mask": ("__shfl_xor_sync(0xffffffffu, v, 1)", "(t % 32 < 16 ? __shfl_sync(0xffffu, v, 16) : v)"),
    "unwritten shared memory": ("  s[t] = x[at + t];", "  if (t != 5) s[t] = x[at + t];"),
    "too many threads": ("__launch_bounds__(64)", "__launch_bounds__(32)"),
}


def run(fault: str, order: str = "forward", seed: int = 0) -> np.ndarray:
    """The two reversed halves of 0 ... 127."""
    before, after = FAULTS[fault]
    code = CODE.replace(before, after) if before else CODE
    assert code != CODE or fault == "none"
    cp = Standin(order, seed)
    module = cp.RawModule(code=code, options=("-std=c++17",), name_expressions=["reverse<float>"])
    x, out = cp.arange(128, dtype=np.float32), cp.empty(128, np.float32)
    module.get_function("reverse<float>")((2,), (64,), (x, out, np.int32(128)))
    return out.get()


if __name__ == "__main__":
    sys.stdout.write(f"{run(sys.argv[1]).tolist()}\n")
