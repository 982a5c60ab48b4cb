"""Settings that hold for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Wall-clock limits would make results depend on what else the machine is doing.
# The gate (CI=true) draws the same examples each time: it judges the change and not the dice. Other runs look further.
settings.register_profile("muslin", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True,
                          derandomize=bool(os.environ.get("CI")))
settings.load_profile("muslin")
