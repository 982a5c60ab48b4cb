"""How much to judge: little with everything else, more when asked."""

from __future__ import annotations

import os

VARIABLE = "MUSLIN_JUDGE_CLUSTERS"
"""Number of random clusters, instead of the few that each test has by itself."""

SEED = "MUSLIN_JUDGE_SEED"
"""Of the first cluster; each further one has the next number."""


def seeds(few: int) -> range:
    """Seeds of the clusters to judge."""
    first = int(os.environ.get(SEED, "1"))
    return range(first, first + int(os.environ.get(VARIABLE, few)))
