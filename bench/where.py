"""Where the milliseconds of an ADD go, from the logs of the real path.

    .venv/bin/python bench/where.py [--quick] [--n ROUNDS]

Needs root. What is measured is in bench/support/.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[1])
os.execv(sys.executable, [sys.executable, "-m", "bench.support.where", *sys.argv[1:]])
