"""What the shim itself costs, from exec to exit: both builds, against services that do nothing.

    .venv/bin/python bench/shim.py [--quick]

What is measured is in bench/support/.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[1])
os.execv(sys.executable, [sys.executable, "-m", "bench.support.shim", *sys.argv[1:]])
