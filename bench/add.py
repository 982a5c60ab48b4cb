"""ADD and DEL of the shim, in turn with other CNI plugins, in one run.

    .venv/bin/python bench/add.py [--quick] [--n ROUNDS]

Needs root. What is measured is in bench/support/.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[1])
os.execv(sys.executable, [sys.executable, "-m", "bench.support.add", *sys.argv[1:]])
