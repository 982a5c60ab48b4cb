"""Addresses from muslin-ipam, in turn with bare transactions on the same etcd, in one run.

    .venv/bin/python bench/ipam.py [--quick]

Real processes: etcd, muslin-ipam on its unix socket, and this one asking. What is measured is in bench/support/.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[1])
os.execv(sys.executable, [sys.executable, "-m", "bench.support.ipam", *sys.argv[1:]])
