"""Users, roles and authentication in etcd: what is there is made what it should be, and nothing else is touched.

A user's password is random and kept nowhere: users prove who they are by their certificate, whose common name is the
user (etcd's --client-cert-auth).
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from muslin.errors import FailedPrecondition, MuslinError, Unavailable
from muslin.etcd import keys, wire
from muslin.etcd.cluster import REQUIRE_LEADER, Cluster
from muslin.etcd.failures import translate
from muslin.etcd.members import Members
from muslin.etcd.stubs import auth_pb2
from muslin.etcd.stubs import rpc_pb2 as pb
from muslin.etcd.stubs import rpc_pb2_grpc as rpc
from muslin.tls import Certificates

__all__ = ["PREFIXES", "set_up"]

PREFIXES: Mapping[str, str] = {"ipam": keys.IPAM, "endpoint": keys.ENDPOINT, "policy": keys.POLICY}
"""Each user, which has a role of the same name, and the keys that this may read and write."""

_ROOT = "root"
_TIMEOUT = 10.0
"""Seconds for one request, and for the first connection: it is asked at a cluster's birth."""


async def set_up(members: Members) -> list[str]:
    """Have the users, their roles, and authentication required; what was done, one line for each change.

    May be repeated; once authentication is required it needs the certificate of `root`.

    Raises:
        FailedPrecondition: `members` has no TLS: then anybody could say that it is anybody.
        Denied: authentication is required already, and the certificate is not that of `root`.
        Unavailable, TimedOut: etcd does not answer. What was done stays; repeat it.
    """
    if members.tls is None:
        raise FailedPrecondition("etcd knows users by their certificates: give --etcd-cert, --etcd-key and --etcd-ca")
    cluster = Cluster(members.endpoints, Certificates(members.tls))
    try:
        connection = await cluster.connection(_TIMEOUT)
        return await _Auth(rpc.AuthStub(connection.channel), str(connection.address)).run()
    finally:
        await cluster.aclose()


class _Auth:
    def __init__(self, stub: Any, address: str) -> None:
        self._stub, self._address = stub, address
        self._done: list[str] = []

    async def run(self) -> list[str]:
        await self._role(_ROOT, None)
        await self._user(_ROOT)
        for name, prefix in PREFIXES.items():
            await self._role(name, prefix)
            await self._user(name)
        # Asking for what is so already changes nothing, and etcd 3.4 has no way of asking whether it is.
        await self._ask(self._stub.AuthEnable, pb.AuthEnableRequest(), "enable authentication")
        return self._done

    async def _role(self, name: str, prefix: str | None) -> None:
        if name not in (await self._ask(self._stub.RoleList, pb.AuthRoleListRequest(), "list roles")).roles:
            await self._ask(self._stub.RoleAdd, pb.AuthRoleAddRequest(name=name), f"add role {name}")
            self._done.append(f"role {name}: made")
        if prefix is None:
            return  # root's needs no permissions
        wanted = _permission(prefix)
        found = (await self._ask(self._stub.RoleGet, pb.AuthRoleGetRequest(role=name), f"get role {name}")).perm
        for extra in found:
            if extra != wanted:
                await self._ask(self._stub.RoleRevokePermission, pb.AuthRoleRevokePermissionRequest(
                    role=name, key=extra.key, range_end=extra.range_end), f"revoke a permission of role {name}")
                self._done.append(f"role {name}: no longer for {extra.key.decode(errors='replace')}")
        if wanted not in found:
            await self._ask(self._stub.RoleGrantPermission,
                            pb.AuthRoleGrantPermissionRequest(name=name, perm=wanted), f"grant role {name}")
            self._done.append(f"role {name}: reads and writes {prefix}")

    async def _user(self, name: str) -> None:
        if name not in (await self._ask(self._stub.UserList, pb.AuthUserListRequest(), "list users")).users:
            await self._ask(self._stub.UserAdd, pb.AuthUserAddRequest(name=name, password=secrets.token_urlsafe(32)),
                            f"add user {name}")
            self._done.append(f"user {name}: made")
        roles: Sequence[str] = (await self._ask(self._stub.UserGet, pb.AuthUserGetRequest(name=name),
                                                f"get user {name}")).roles
        for extra in roles:
            if extra != name:
                await self._ask(self._stub.UserRevokeRole, pb.AuthUserRevokeRoleRequest(name=name, role=extra),
                                f"revoke role {extra} of user {name}")
                self._done.append(f"user {name}: no longer has role {extra}")
        if name not in roles:
            await self._ask(self._stub.UserGrantRole, pb.AuthUserGrantRoleRequest(user=name, role=name),
                            f"grant user {name} its role")
            self._done.append(f"user {name}: has role {name}")

    async def _ask(self, method: Callable[..., Awaitable[Any]], request: Any, what: str) -> Any:
        try:
            return await method(request, timeout=_TIMEOUT, metadata=REQUIRE_LEADER)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error, what) from error

    def _translated(self, error: grpc.aio.AioRpcError, what: str) -> MuslinError:
        failure = translate(error, what, self._address, timeout=_TIMEOUT, idempotent=True)
        return Unavailable(f"{failure.message}; repeat it") if isinstance(failure, Unavailable) else failure


def _permission(prefix: str) -> auth_pb2.Permission:
    first, end = wire.prefix_range(prefix)
    return auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=first, range_end=end)
