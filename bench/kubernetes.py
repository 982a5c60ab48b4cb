"""Following an API server: until all of it is stored, what a change takes, what it costs to do nothing.

    .venv/bin/python bench/kubernetes.py [--quick] [--objects N]

Real processes: etcd, muslin-endpoint, muslin-policy. The API server is a small one in this process, so its time counts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[1])
os.execv(sys.executable, [sys.executable, "-m", "bench.support.kubernetes", *sys.argv[1:]])
