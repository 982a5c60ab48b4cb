"""Muslin as pods of deploy/overlays/single on a real node: CPU at rest, memory, and how long installing takes.

    K8S_BIN=DIRECTORY MUSLIN_IMAGES=ARCHIVE .venv/bin/python bench/deployed.py [--quick] [--pods N]

Needs what `make test-kubernetes` needs, and is left out where that is missing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[1])
os.execv(sys.executable, [sys.executable, "-m", "bench.support.deployed", *sys.argv[1:]])
