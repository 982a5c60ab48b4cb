"""Policy: whole clusters in the core and as deployed, 1,000 subscriptions, the kernel, packets.

    .venv/bin/python bench/policy.py [--quick] [--only SECTION]... [--plot FILE.svg]

Real processes: etcd, muslin-endpoint, muslin-policy; with root also nf_tables and pods in namespaces of their own. What
is measured is in bench/support/policy*.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[1])
os.execv(sys.executable, [sys.executable, "-m", "bench.support.policy", *sys.argv[1:]])
