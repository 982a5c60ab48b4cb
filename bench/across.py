"""What pods of two nodes get through to each other, in turn with the same ways made by hand, in one run; needs root.

    .venv/bin/python bench/across.py [--quick]

Real daemons on namespaces that stand for nodes, joined by a bridge. What is measured is in bench/support/.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[1])
os.execv(sys.executable, [sys.executable, "-m", "bench.support.across", *sys.argv[1:]])
