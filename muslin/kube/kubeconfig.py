"""kubeconfig files, as kubectl and kubelet read them.

Source: Kubernetes documentation, "Organizing Cluster Access Using kubeconfig Files". Of one file the current context
counts. Paths in it are relative to its directory; what is in the file itself goes before what it names another file
for, but for tokens, where it is the other way round, as in Kubernetes' own client.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

from muslin.errors import InvalidArgument, Unsupported
from muslin.kube.access import Access, Load, content, secret, token
from muslin.kube.document import documents
from muslin.kube.field import Field

__all__ = ["load", "loader"]

_REFUSED = {
    "exec": "programs that make credentials are not run",
    "auth-provider": "providers of credentials are not supported",
    "username": "names and passwords are not supported",
    "password": "names and passwords are not supported",
    "as": "impersonation is not supported",
    "as-uid": "impersonation is not supported",
    "as-groups": "impersonation is not supported",
}
_INSTEAD = "use client-certificate and client-key, token or tokenFile, such as those of a service account"


def loader(path: Path) -> Load:
    """Reads a kubeconfig, each time anew."""
    return lambda: load(path)


def load(path: Path) -> Access:
    """The current context of a kubeconfig.

    Raises:
        NotFound, IOFailure, InvalidArgument, Unsupported: naming the file, the line and the field.
    """
    try:
        text = content(path, "kubeconfig").decode()
    except UnicodeDecodeError:
        raise InvalidArgument(f"kubeconfig: {path} is not text in UTF-8") from None
    found = documents(text, f"kubeconfig {path}")
    if len(found) != 1:
        raise InvalidArgument(f"kubeconfig {path}: must hold one document, holds {len(found) or 'none'}")
    return _Reader(Field(found[0], found[0].root), path).access()


class _Reader:
    def __init__(self, root: Field, path: Path) -> None:
        self.root, self.path = root, path
        self.source = f"kubeconfig {path}"

    def access(self) -> Access:
        top = self.root.mapping()
        for name, expected in (("apiVersion", "v1"), ("kind", "Config")):
            if name in top and top[name].string() != expected:
                raise top[name].error(f"{top[name].string()!r} is not supported; a kubeconfig says {expected}")
        context = self.named("contexts", self.current(top), "context")
        cluster_name = context.require("cluster", "name one of clusters").string()
        cluster = self.named("clusters", cluster_name, "cluster").mapping()
        user_field = context.mapping().get("user")
        name = user_field.string() if user_field else ""
        user = self.named("users", name, "user").mapping() if name else {}
        for field, why in _REFUSED.items():
            if field in user and user[field].node.value not in ("", (), {}):
                raise Unsupported(f"{user[field].error(f'{why}; {_INSTEAD}').message}")
        if "server" not in cluster:
            raise InvalidArgument(f"{self.source}: cluster {cluster_name!r} has no server; write it as "
                                  "https://host:6443")
        if "proxy-url" in cluster and cluster["proxy-url"].string():
            raise Unsupported(cluster["proxy-url"].error("proxies are not supported; name the API server itself"
                                                         ).message)
        insecure = "insecure-skip-tls-verify" in cluster and cluster["insecure-skip-tls-verify"].boolean()
        return Access(
            cluster["server"].string().rstrip("/"), self.source,
            ca=b"" if insecure else self.bytes_of(cluster, "certificate-authority"),
            server_name=cluster["tls-server-name"].string() if "tls-server-name" in cluster else "",
            insecure=insecure,
            certificate=self.bytes_of(user, "client-certificate"), key=self.bytes_of(user, "client-key"),
            token=self.token(user))

    def current(self, top: Mapping[str, Field]) -> str:
        """The name of the current context; of a file with one context that need not be said."""
        if "current-context" in top and (name := top["current-context"].string()):
            return name
        contexts = list(top["contexts"].items()) if "contexts" in top else []
        if len(contexts) != 1:
            raise InvalidArgument(f"{self.source}: current-context: missing; name one of contexts")
        return contexts[0].require("name", "every context has a name").string()

    def named(self, listed: str, name: str, what: str) -> Field:
        """The entry of that name in one of the three lists."""
        top = self.root.mapping()
        names = []
        for entry in top[listed].items() if listed in top else ():
            names.append(entry.require("name", f"every {what} has a name").string())
            if names[-1] == name:
                return entry.require(what, f"{what} {name!r} has nothing in it")
        there = ", ".join(map(repr, names[:12])) or "none"
        raise InvalidArgument(f"{self.source}: {listed}: there is no {what} {name!r}; there is {there}")

    def bytes_of(self, fields: Mapping[str, Field], name: str) -> bytes:
        """What is given in the file itself, else in another file; empty if neither."""
        inline = fields.get(f"{name}-data")
        if inline is not None and (text := inline.string()):
            try:
                return base64.b64decode("".join(text.split()), validate=True)
            except binascii.Error as problem:
                raise inline.error(f"not base64: {problem}") from None
        if name in fields and (given := fields[name].string()):
            return content(self.path.parent / given, f"{self.source}: {fields[name].path}")
        return b""

    def token(self, user: Mapping[str, Field]) -> str:
        if "tokenFile" in user and (file := user["tokenFile"].string()):
            return secret(self.path.parent / file, f"{self.source}: {user['tokenFile'].path}")
        if "token" in user:
            what, given = f"{self.source}: {user['token'].path}", user["token"].node.value
            if not isinstance(given, str):  # said without showing it
                raise InvalidArgument(f"{what}: must be a string; quote it")
            return token(given.strip(), what) if given else ""
        return ""
