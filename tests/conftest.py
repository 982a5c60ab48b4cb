"""Settings that hold for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Wall-clock limits would make results depend on what else the machine is doing.
settings.register_profile("muslin", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("muslin")
