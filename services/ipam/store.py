"""Records in etcd: JSON, one value a key, readable with etcdctl.

=====================  =====================================================
key (muslin.etcd.keys)  value
=====================  =====================================================
pools/NAME             `pools.Pool`
blocks/CIDR            `blocks.Block`
affinities/NODE/CIDR   `Affinity`; written together with the block it is of
handles/ATTACHMENT     `handles.Handle`; written together with its block
pool-generation        `Generation`; rewritten with every pool that is made
nodes/NODE             `Node`; rewritten with every block that it claims, says if it is drained
reservations           `reservations.Reservations`
config                 `config.Config`
barrier                empty; rewritten to learn how current the mirror is
=====================  =====================================================
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from muslin.errors import Corrupt, InvalidArgument
from muslin.etcd import keys
from services.ipam import pools
from services.ipam.blocks import Block
from services.ipam.handles import Handle
from services.ipam.pools import Pool

Record = TypeVar("Record", bound=msgspec.Struct)

TRANSACTION_LIMIT = 128
"""Operations that etcd takes in one transaction (its --max-txn-ops default), of each of its three lists."""


class Affinity(msgspec.Struct, frozen=True):
    """That a node assigns from a block."""

    pool: str


class Generation(msgspec.Struct, frozen=True):
    """Two pools that overlap could be made at once, as each is written under a key of its own. Both write this one."""

    newest: str
    """Name of the pool that was made last."""


class Node(msgspec.Struct, frozen=True):
    """Two processes could claim a block each for one node, and pass its limit together. Both write this."""

    newest: str
    """CIDR of the block that was claimed last."""
    draining: bool = False
    """Whether it gets nothing new."""


def encode(record: msgspec.Struct) -> bytes:
    """A record as stored."""
    return _ENCODER.encode(record)


_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[type[msgspec.Struct], msgspec.json.Decoder[msgspec.Struct]] = {}


def decode(kind: type[Record], key: str, value: bytes) -> Record:
    """A stored record.

    Raises:
        Corrupt: the value is damaged, or is not what its key says.
    """
    decoder = _DECODERS.get(kind) or _DECODERS.setdefault(kind, msgspec.json.Decoder(kind))
    try:
        record = decoder.decode(value)
        assert isinstance(record, kind)
        if isinstance(record, Pool):
            pools.make(record.name, record.cidr, record.block_size)  # what it is made of may be damaged
            pools.check(record)
        described = key_of(record)
    except (msgspec.MsgspecError, UnicodeDecodeError, InvalidArgument) as problem:
        raise Corrupt(f"record {key} does not decode: {problem}") from None
    if described not in (None, key):
        raise Corrupt(f"record {key} describes {described}: it was copied or damaged")
    return record


def key_of(record: msgspec.Struct) -> str | None:
    """The key that a record itself says it belongs under; None if it does not say."""
    if isinstance(record, Block):
        return keys.block(record.cidr)
    if isinstance(record, Handle):
        return keys.handle(record.network, record.container_id, record.ifname)
    return keys.pool(record.name) if isinstance(record, Pool) else None


def handle_key(identity: str) -> str:
    """The key of the handle with an identity. Raises InvalidArgument if it can not be one."""
    if identity.count("/") == 2 and "//" not in identity and identity[0] != "/" != identity[-1]:
        return keys.IPAM_HANDLES + identity  # what the rest comes to
    parts = identity.split("/", 2)
    if len(parts) != 3:
        raise InvalidArgument(f"attachment {identity!r} is not of the form network/container/interface")
    return keys.handle(*parts)
