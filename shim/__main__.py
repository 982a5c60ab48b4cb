"""Run the plugin from the source tree: `python -m shim`."""

from __future__ import annotations

from shim.main import main

main()
