"""Leaving tests out where what they need can not be had."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

__all__ = ["skip_loudly"]


def skip_loudly(config: pytest.Config, items: Sequence[pytest.Item], what: str, lacking: str) -> None:
    """Skip the tests of something for the lack of something else, and say so in a line of its own."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"\nNOT RUN: the {len(items)} tests {what} need {lacking}", red=True)
    for item in items:
        item.add_marker(pytest.mark.skip(reason=f"needs {lacking}"))
