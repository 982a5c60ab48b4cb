"""Pods that are not known yet, asked for at the API server.

The runtime may start a pod before the watch has told of it. Its labels decide what isolates it and its annotations
which address it gets, so an ADD does not go on without them where there is an API server to ask. What was fetched is
not stored: the one who writes what the API server has does that, and the records of endpoints follow.

Which server: that of this service's options, else, for calls of this machine only, that of the call's configuration,
whose paths are this machine's. (Another machine's could make this process read any file, and call anybody.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path

from muslin.cni.netconf import Kubernetes
from muslin.errors import MuslinError, NotFound, TimedOut, from_status
from muslin.kube import configured, kinds
from muslin.kube.access import Load
from muslin.kube.client import Client
from services.endpoint.kubernetes import converted, pod_of
from services.endpoint.records import Namespace, Pod

log = logging.getLogger(__name__)

_FRESH = 5.0
"""Seconds for which a fetched pod is not fetched again: ipam asks for it, and then this service's own part of ADD."""
_MOST = 3.0
"""Seconds that a fetch may take."""
_CLIENTS = 8
"""API servers of configurations that connections are kept to."""

Key = tuple[Kubernetes, str, str]


class Lookup:
    """Fetches pods. `load` reads the credentials of the service's own options, None if it has none."""

    def __init__(self, load: Load | None = None) -> None:
        self._own = Client(load) if load else None
        self._clients: dict[Kubernetes, Client] = {}
        self._fetched: dict[Key, tuple[float, Pod]] = {}

    @property
    def configured(self) -> bool:
        """Whether there is an API server for all calls."""
        return self._own is not None

    async def aclose(self) -> None:
        """End all connections."""
        for client in (self._own, *self._clients.values()):
            if client is not None:
                await client.aclose()

    async def pod(self, namespace: str, name: str, uid: str, conf: Kubernetes, timeout: float, *, anew: bool = False,
                  ) -> Pod | None:
        """The pod as the API server has it, None if there is no API server. `conf` is empty for calls from elsewhere.

        `anew`: as it is now, not as it was a moment ago.

        Raises:
            NotFound: there is none of that name and uid.
            Unavailable, TimedOut, MuslinError: the API server can not be asked.
        """
        conf = conf if self._own is None else Kubernetes()
        client = await self._client(conf)
        if client is None:
            return None
        key, now = (conf, namespace, name), time.monotonic()
        at, pod = self._fetched.get(key, (0.0, None))
        if anew or pod is None or now - at > _FRESH or (uid and uid != pod.uid):
            pod = await self._fetch(client, namespace, name, min(timeout, _MOST))
            for old in [one for one, (then, _) in self._fetched.items() if now - then > _FRESH]:
                del self._fetched[old]
            self._fetched[key] = now, pod
            log.info("fetched pod=%s/%s uid=%s", namespace, name, pod.uid)
        if uid and pod.uid and uid != pod.uid:
            raise NotFound(f"pod {namespace}/{name} of uid {uid} is gone: the API server has one of uid {pod.uid}")
        return pod

    async def namespace(self, name: str, timeout: float) -> Namespace | None:
        """A namespace, None if there is none, or no API server that this service was told of."""
        if self._own is None:
            return None
        item = await self._own.get(kinds.NAMESPACES, ("", name), min(timeout, _MOST))
        record = converted(kinds.NAMESPACES, item) if item else None
        return record if isinstance(record, Namespace) else None

    async def _fetch(self, client: Client, namespace: str, name: str, timeout: float) -> Pod:
        try:
            async with asyncio.timeout(timeout):
                item = await client.get(kinds.PODS, (namespace, name), timeout)
        except TimeoutError:
            raise TimedOut(f"pod {namespace}/{name} is not known here, and the API server did not answer within "
                              f"{timeout:.1f} s") from None
        except MuslinError as problem:
            raise from_status(problem.status, f"pod {namespace}/{name} is not known here: {problem.message}"
                              ) from problem
        if item is None:
            raise NotFound(f"pod {namespace}/{name} is not there, says the API server")
        return pod_of(item)

    async def _client(self, conf: Kubernetes) -> Client | None:
        if self._own is not None:
            return self._own
        conf = _present(conf)
        if (client := self._clients.get(conf)) is not None:
            return client
        if (load := configured.loader(conf)) is None:
            return None
        while len(self._clients) >= _CLIENTS:
            await self._clients.pop(next(iter(self._clients))).aclose()
        client = self._clients[conf] = Client(load)
        return client


def _present(conf: Kubernetes) -> Kubernetes:
    """Without a kubeconfig that is not there: a configuration may be older than the end of its cluster."""
    if not conf.kubeconfig or Path(conf.kubeconfig).exists():
        return conf
    log.warning("kubernetes.kubeconfig: %s does not exist: no pod is fetched with it", conf.kubeconfig)
    return replace(conf, kubeconfig="")
