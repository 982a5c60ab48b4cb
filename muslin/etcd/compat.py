"""Make python-etcd3 importable under current protobuf.

python-etcd3 0.12.0 ships gRPC code made by a protoc of 2019, which protobuf 4 and later refuse to load ("Descriptors
cannot be created directly"). `muslin.etcd.stubs` is the same code made anew from the same descriptors
(scripts/protos.py). It is put into `sys.modules` in the place of `etcd3.etcdrpc` before python-etcd3 looks for it.
The other way out, protobuf's pure Python implementation, is fifty times slower and would slow every service.

Import the package from here: `from muslin.etcd.compat import etcd3`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from muslin.etcd.stubs import auth_pb2, kv_pb2, rpc_pb2, rpc_pb2_grpc

__all__ = ["etcd3"]

_NAME = "etcd3.etcdrpc"


def _register() -> Any:
    """Import python-etcd3 on our stubs. Raises ImportError if somebody imported it before, on its own."""
    registered = sys.modules.get(_NAME)
    if registered is None:
        module = ModuleType(_NAME, "The stubs of muslin.etcd.stubs under the name that python-etcd3 imports.")
        module.__path__ = []
        # python-etcd3's own package re-exports messages and stubs flat, and names their modules too.
        for source in (rpc_pb2, rpc_pb2_grpc):
            vars(module).update({name: value for name, value in vars(source).items() if not name.startswith("_")})
        for source in (auth_pb2, kv_pb2, rpc_pb2, rpc_pb2_grpc):
            short = source.__name__.rpartition(".")[2]
            setattr(module, short, source)
            sys.modules[f"{_NAME}.{short}"] = source
        sys.modules[_NAME] = module
    elif registered.rpc_pb2 is not rpc_pb2:
        raise ImportError("etcd3 was imported directly: import it through muslin.etcd.compat")
    import etcd3
    return etcd3


etcd3 = _register()
