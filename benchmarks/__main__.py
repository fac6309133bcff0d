"""`python -m benchmarks`: threads are pinned before anything that has threads is imported."""

import os
import sys

if "--threads" in sys.argv[:-1]:
    count = sys.argv[sys.argv.index("--threads") + 1]
    if count == "1":
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    os.environ |= dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), count)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# POT looks for these at import, whatever is benchmarked; jax alone takes a second
os.environ |= {"POT_BACKEND_DISABLE_JAX": "1", "POT_BACKEND_DISABLE_TENSORFLOW": "1", "POT_BACKEND_DISABLE_CUPY": "1"}

from .runner import main

main()
