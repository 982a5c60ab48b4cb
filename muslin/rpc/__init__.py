"""How services serve and call: one way to start one, one way to reach one."""

from __future__ import annotations

from muslin.rpc.app import App, Part, Readiness
from muslin.rpc.client import channel, translated
from muslin.rpc.deadline import remaining
from muslin.rpc.identity import bound_to, is_local, node_of, require_own
from muslin.rpc.options import options
from muslin.rpc.server import serve

__all__ = ["App", "Part", "Readiness", "bound_to", "channel", "is_local", "node_of", "options", "remaining",
           "require_own", "serve", "translated"]
