"""ADD with the services apart (TLS, two replicas each, three etcd members) and beside the node, in turn in one run.

    .venv/bin/python bench/apart.py [--quick] [--n ROUNDS]

Needs root. What is measured is in bench/support/.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[1])
os.execv(sys.executable, [sys.executable, "-m", "bench.support.apart", *sys.argv[1:]])
