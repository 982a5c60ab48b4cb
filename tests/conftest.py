"""Settings that hold for all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# Wall-clock limits would make results depend on what else the machine is doing.
# The gate (CI=true) draws the same examples each time: it judges the change and not the dice. Other runs look further.
settings.register_profile("muslin", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True,
                          derandomize=bool(os.environ.get("CI")))
settings.load_profile("muslin")

# A shell without job control starts what is in the background with Ctrl-C ignored; what that starts inherits it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
