"""One thread for each worker: there are as many as cores, and small arrays gain nothing from more."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # read when numpy and torch are first imported
