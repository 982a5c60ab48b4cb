"""An API server for tests: real HTTP, the protocol of lists and watches, and every way of going wrong on demand.

It knows objects as their users wrote them and nothing of what they mean. Lists come in pages that show one version,
watches are chunked and get bookmarks, history can be forgotten.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from aiohttp import web

from muslin import netns
from tests.support.apiserver_writes import STRATEGIC, Unfit, steps, strategic

Object = dict[str, Any]
Select = Callable[[Object], bool]
Address = tuple[str, str, str]
"""Path of the kind, namespace and name."""

KINDS = {
    "/api/v1/pods": ("v1", "Pod"),
    "/api/v1/namespaces": ("v1", "Namespace"),
    "/api/v1/nodes": ("v1", "Node"),
    "/api/v1/serviceaccounts": ("v1", "ServiceAccount"),
    "/api/v1/events": ("v1", "Event"),
    "/apis/networking.k8s.io/v1/networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy"),
}
CALICO = {
    "/apis/crd.projectcalico.org/v1/networkpolicies": ("crd.projectcalico.org/v1", "NetworkPolicy"),
    "/apis/crd.projectcalico.org/v1/globalnetworkpolicies": ("crd.projectcalico.org/v1", "GlobalNetworkPolicy"),
    "/apis/crd.projectcalico.org/v1/tiers": ("crd.projectcalico.org/v1", "Tier"),
}


class ApiServer:
    """Use as an asynchronous context manager; listens on `url`, on the same port after `down()` and `up()`."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, namespace: Path | None = None) -> None:
        """`namespace` is the network namespace to listen in, on its loopback."""
        self.kinds = dict(KINDS)
        self.version = 1000
        self.tokens: set[str] = set()
        """Bearer tokens that are taken; empty: everybody is let in."""
        self.forbidden: set[str] = set()
        """Paths that nobody may read."""
        self.refusals: list[tuple[int, Mapping[str, str]]] = []
        """Status and headers of the next answers, instead of what was asked for."""
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        """Path and query of each request."""
        self.writes: list[tuple[str, str, Any]] = []
        """Method, path and body of each request that would change something, whatever was answered."""
        self.read_only = False
        """Whether nobody may change anything."""
        self.fail_after_write = 0
        """Of so many of the next changes the answer is lost."""
        self.keeps_pages = True
        """Whether a list can be gone on with."""
        self.slow = 0.0
        """Seconds before each answer."""
        self.answering = asyncio.Event()
        """While it is not set nothing is answered, and open watches are told nothing: connections are half open."""
        self.answering.set()
        self.telling = asyncio.Event()
        """While it is not set watches are told nothing; lists and single objects are answered."""
        self.telling.set()
        self._tls = tls
        self._objects: dict[Address, Object] = {}
        self._history: list[tuple[int, str, str, Object]] = []  # version, path, type, object
        self._forgotten = 0
        self._pages: dict[str, tuple[list[Object], int]] = {}
        self._watches: Counter[str] = Counter()
        self._changed = asyncio.Condition()
        self._raw: dict[str, list[bytes]] = defaultdict(list)
        self._epoch = 0
        self._namespace = namespace
        # Bound and never listened on: the port stays ours while the server is down.
        self._place = self._bound(0)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> ApiServer:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.answering.set()
        self.telling.set()
        await self.down()
        self._place.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._place.getsockname()[1]}"

    async def up(self) -> None:
        application = web.Application()
        for method in ("GET", "POST", "PATCH"):
            application.router.add_route(method, "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.SockSite(self._runner, self._bound(self._place.getsockname()[1]), ssl_context=self._tls).start()

    def _bound(self, port: int) -> socket.socket:
        made = netns.open_socket(self._namespace, socket.AF_INET, socket.SOCK_STREAM
                                 ) if self._namespace else socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("127.0.0.1", port))
        return made

    async def down(self) -> None:
        """End all connections, and take no new ones."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def kubeconfig(self, path: Path, **user: str) -> Path:
        """A kubeconfig for this server."""
        document = {"apiVersion": "v1", "kind": "Config", "current-context": "c",
                    "clusters": [{"name": "k", "cluster": {"server": self.url}}],
                    "users": [{"name": "u", "user": user}],
                    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]}
        path.write_text(json.dumps(document))
        return path

    def events(self, reason: str = "") -> list[Object]:
        """The Events, of one reason or of all."""
        return [item for (path, *_), item in self._objects.items()
                if path == "/api/v1/events" and reason in ("", item["reason"])]

    def one(self, path: str, name: str, namespace: str = "") -> Object:
        """An object as it is."""
        return deepcopy(self._objects[path, namespace, name])

    # What its users do

    async def put(self, path: str, name: str, namespace: str = "", *, metadata: Mapping[str, Any] | None = None,
                  **fields: Any) -> Object:
        """Create or replace an object."""
        address = path, namespace, name
        self.version += 1
        api, kind = self.kinds[path]
        before = self._objects.get(address)
        uid = before["metadata"]["uid"] if before else f"uid-{self.version}"
        item = {"apiVersion": api, "kind": kind, "metadata": {
            "name": name, **({"namespace": namespace} if namespace else {}), "uid": uid,
            "managedFields": [{"manager": "test"}], **(metadata or {}), "resourceVersion": str(self.version)}, **fields}
        self._objects[address] = item
        await self._tell(path, "MODIFIED" if before else "ADDED", item)
        return item

    async def delete(self, path: str, name: str, namespace: str = "") -> None:
        """Delete an object."""
        item = deepcopy(self._objects.pop((path, namespace, name)))
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        await self._tell(path, "DELETED", item)

    async def bookmark(self, path: str) -> None:
        """Tell watches of a kind that time has passed: versions have, elsewhere."""
        self.version += 1
        api, kind = self.kinds[path]
        await self._tell(path, "BOOKMARK", {"apiVersion": api, "kind": kind,
                                            "metadata": {"resourceVersion": str(self.version)}})

    async def inject(self, path: str, line: bytes) -> None:
        """Send a line to the watches of a kind, whatever it is."""
        async with self._changed:
            self._raw[path].append(line)
            self._changed.notify_all()

    async def forget(self) -> None:
        """Keep no history, no pages; end all watches, as a server that was restarted would."""
        self.version += 1
        self._forgotten = self.version
        self._history.clear()
        self._pages.clear()
        await self.end_watches()

    def forget_before(self, version: int) -> None:
        """Keep no history of what was before a version."""
        self._forgotten = version
        self._history = [entry for entry in self._history if entry[0] > version]

    async def watched(self, path: str, count: int = 1, timeout: float = 30.0) -> None:
        """Wait until there are so many watches of a kind."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: self._watches[path] >= count)

    async def end_watches(self) -> None:
        """End all watches."""
        async with self._changed:
            self._epoch += 1
            self._changed.notify_all()

    async def _tell(self, path: str, kind: str, item: Object) -> None:
        async with self._changed:
            self._history.append((self.version, path, kind, deepcopy(item)))
            self._changed.notify_all()

    # What it answers

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path, query = "/" + request.match_info["path"], dict(request.query)
        self.requests.append((path, query))
        if self.slow:
            await asyncio.sleep(self.slow)
        await self.answering.wait()
        if self.tokens and request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _status(401, "Unauthorized")
        if self.refusals:
            code, headers = self.refusals.pop(0)
            return _status(code, "as told", headers)
        if path in self.forbidden:
            return _status(403, f"{path} is forbidden")
        if request.method != "GET":
            return await self._written(request, path)
        kind, select = self._asked_for(path, query)
        if kind in self.kinds:
            return (await self._watched(request, kind, query, select) if "watch" in query
                    else self._listed(kind, query, select))
        if found := self._one(path):
            return found
        return _status(404, "the server could not find the requested resource")

    def _asked_for(self, path: str, query: Mapping[str, str]) -> tuple[str, Select]:
        """The kind that a list or a watch is of, and which of its objects."""
        address = self._address(path)
        kind, namespace = (address[0], address[1]) if address and not address[2] else (path, "")
        field, _, value = query.get("fieldSelector", "").partition("=")

        def selected(item: Object) -> bool:
            found: Any = item
            for name in field.split(".") if field else ():
                found = found.get(name, {})
            return (not namespace or item["metadata"].get("namespace") == namespace) and (not field or found == value)
        return kind, selected

    def _one(self, path: str) -> web.Response | None:
        if (address := self._address(path)) is None:
            return None
        if item := self._objects.get(address):
            return web.json_response(item)
        return _status(404, f"{address[0].rpartition('/')[2]} {address[2]!r} not found")

    def _address(self, path: str) -> Address | None:
        """The object that a path names; of all objects of a kind, or of a namespace, the name is empty."""
        if path in self.kinds:
            return path, "", ""
        head, _, name = path.rpartition("/")
        for kind in self.kinds:
            root, _, plural = kind.rpartition("/")
            if name == plural and head.startswith(f"{root}/namespaces/"):
                return kind, head.removeprefix(f"{root}/namespaces/"), ""
            if head.startswith(f"{root}/namespaces/") and head.endswith(f"/{plural}"):
                return kind, head.removeprefix(f"{root}/namespaces/").removesuffix(f"/{plural}"), name
            if head == kind:
                return kind, "", name
        return None

    async def _written(self, request: web.Request, path: str) -> web.Response:
        body = json.loads(await request.read())
        self.writes.append((request.method, path, body))
        address = self._address(path.removesuffix("/status").removesuffix("/approval"))
        if self.read_only:
            return _status(403, f"{path} is forbidden: it may not be written")
        if address is None:
            return _status(404, "the server could not find the requested resource")
        kind, namespace, name = address
        if request.method == "POST":
            name = body["metadata"]["name"]
            if (kind, namespace, name) in self._objects:
                return _status(409, f"{name!r} already exists")
            after = body
        else:
            if (before := self._objects.get(address)) is None:
                return _status(404, f"{name!r} not found")
            if "metadata" in body and body["metadata"].pop("resourceVersion", before["metadata"]["resourceVersion"]
                                                           ) != before["metadata"]["resourceVersion"]:
                return _status(409, "the object has been modified")
            try:
                after = (strategic if request.content_type == STRATEGIC else steps)(before, body)
            except Unfit as problem:
                return _status(422, str(problem))
            part = "status" if path.endswith(("/status", "/approval")) else "spec" if "status" in before else ""
            if part:  # a request is about the status, or about all else
                after = {**before, part: after.get(part, {})}
        fields = {key: value for key, value in after.items() if key not in ("apiVersion", "kind", "metadata")}
        item = await self.put(kind, name, namespace, metadata={
            key: value for key, value in after["metadata"].items() if key not in ("uid", "resourceVersion")}, **fields)
        if self.fail_after_write:
            self.fail_after_write -= 1
            return _status(503, "the answer is lost")
        return web.json_response(item)

    def _listed(self, path: str, query: Mapping[str, str], select: Select) -> web.Response:
        api, kind = self.kinds[path]
        token = query.get("continue", "")
        if token and (token not in self._pages or not self.keeps_pages):
            return _status(410, "The provided continue parameter is too old")
        if token:
            items, version = self._pages[token]
        else:
            items, version = [deepcopy(item) for (at, *_), item in sorted(self._objects.items()) if at == path
                              and select(item)], self.version
        for item in items:  # as the real one does
            item.pop("apiVersion", None)
            item.pop("kind", None)
        limit = int(query.get("limit", "0")) or len(items)
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if len(items) > limit:
            metadata["continue"] = base64.b64encode(f"{version}/{len(items) - limit}/{path}".encode()).decode()
            metadata["remainingItemCount"] = len(items) - limit
            self._pages[metadata["continue"]] = items[limit:], version
        return web.json_response({"apiVersion": api, "kind": f"{kind}List", "metadata": metadata,
                                  "items": items[:limit]})

    async def _watched(self, request: web.Request, path: str, query: Mapping[str, str],
                       select: Select) -> web.StreamResponse:
        since = int(query["resourceVersion"])
        if since < self._forgotten:
            return _status(410, f"too old resource version: {since} ({self._forgotten})")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        epoch, raw = self._epoch, len(self._raw[path])
        await self._count(path, 1)
        try:
            async with asyncio.timeout(float(query.get("timeoutSeconds", "300"))):
                while epoch == self._epoch:
                    news = [entry for entry in self._history if entry[1] == path and entry[0] > since]
                    for since, _, kind, item in news:  # noqa: B007  where the next look begins
                        if kind == "BOOKMARK" or select(item):
                            await self._send(response, json.dumps({"type": kind, "object": item}).encode())
                    lines = self._raw[path][raw:]
                    for line in lines:
                        await self._send(response, line)
                    raw += len(lines)
                    if not news and not lines:
                        await self._news(path, since, raw, epoch)
        except TimeoutError:
            pass  # as asked
        finally:
            await self._count(path, -1)
        return response

    async def _news(self, path: str, since: int, raw: int, epoch: int) -> None:
        def there() -> bool:
            return (epoch != self._epoch or len(self._raw[path]) > raw
                    or any(where == path and version > since for version, where, *_ in self._history))

        async with self._changed:
            await self._changed.wait_for(there)

    async def _count(self, path: str, difference: int) -> None:
        async with self._changed:
            self._watches[path] += difference
            self._changed.notify_all()

    async def _send(self, response: web.StreamResponse, line: bytes) -> None:
        """A line in two pieces: the network cuts where it likes."""
        await self.answering.wait()
        await self.telling.wait()
        half = len(line) // 2
        await response.write(line[:half])
        await response.write(line[half:] + b"\n")


def _status(code: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
                              "code": code}, status=code, headers=headers)
