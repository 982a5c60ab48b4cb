"""On a real node: a hundred pods at once, beside Debian's bridge plugin; policy changes; memory and idle CPU.

    K8S_BIN=DIRECTORY .venv/bin/python bench/kubelet.py [--quick] [--pods N] [--rounds N]

Needs what `make test-kubernetes` needs, and is left out where that is missing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[1])
os.execv(sys.executable, [sys.executable, "-m", "bench.support.kubelet", *sys.argv[1:]])
