"""The versions of the CNI specification that are served."""

from __future__ import annotations

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Oldest first. None is ever dropped: a DEL is replayed with the configuration of its ADD, however old."""

DEFAULT = "0.1.0"
"""What a configuration without cniVersion means (specification 0.1.0, "Network Configuration")."""

CURRENT = SUPPORTED[-1]
