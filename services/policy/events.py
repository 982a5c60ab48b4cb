"""What can happen to the state that programs are compiled from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from services.policy.model import Attachment, Endpoint, Resource


@dataclass(frozen=True, slots=True)
class EndpointPut:
    """An endpoint is new or has changed."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class EndpointGone:
    """An endpoint is no more."""

    attachment: Attachment


@dataclass(frozen=True, slots=True)
class ResourcePut:
    """A policy, profile or tier is new or has changed."""

    resource: Resource


@dataclass(frozen=True, slots=True)
class ResourceGone:
    """A policy, profile or tier is no more; it is named by its id."""

    id: str


Event: TypeAlias = EndpointPut | EndpointGone | ResourcePut | ResourceGone
