"""What can happen to the state that programs are compiled from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from services.policy.model import Attachment, Endpoint, Policy, Profile


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
    """A policy or profile is new or has changed."""

    resource: Policy | Profile


@dataclass(frozen=True, slots=True)
class ResourceGone:
    """A policy or profile is no more; it is named by its id."""

    id: str


Event: TypeAlias = EndpointPut | EndpointGone | ResourcePut | ResourceGone
