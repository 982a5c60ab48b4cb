"""The network configuration on stdin, as far as the shim needs to know it; the services read the rest."""

from __future__ import annotations

from shim import jsontext, log
from shim.errors import DECODING_FAILURE, INCOMPATIBLE_VERSION, INVALID_CONFIGURATION, CniError
from shim.log import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from shim.jsontext import Value

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Versions of the specification, oldest first. None is dropped: a DEL comes with the configuration of its ADD."""

CURRENT = SUPPORTED[-1]
DEFAULT_VERSION = "0.1.0"  # what a configuration without cniVersion means

SERVICES = ("ipam", "policy", "endpoint", "node")
"""The chain, in the order of ADD."""

OUR_IPAM = ("", "calico-ipam", "muslin-ipam")
"""Values of `ipam.type` that mean our own service; every other is the name of a plugin."""

DEFAULT_SOCKET = "/run/muslin/muslin.sock"
DEFAULT_STATE = "/var/lib/muslin"
DEFAULT_TIMEOUT = 30.0
LONGEST_TIMEOUT = 600.0

_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}  # the first version that has the command
_LONGEST_PATH = 107  # bytes in sun_path, less the final zero (unix(7))


class Configuration:
    """What the shim reads.

    Attributes:
        version: cniVersion.
        document: All of it.
        name: The network.
        ipam_type: `ipam.type` if that is another plugin, "" if it is our own service.
        targets: Path of the unix socket of each service.
        timeout: Seconds for the whole call, from `muslin.timeout`.
        state: Path of the directory that deletions are put off in, from `muslin.state_dir`.
        log: From `log_level` and its kin, as Calico names them.
        previous: prevResult.
    """

    __slots__ = ("document", "ipam_type", "log", "name", "previous", "state", "targets", "timeout", "version")

    def __init__(self, version: str, document: Mapping[str, Value], ipam_type: str, targets: Mapping[str, str],
                 timeout: float, state: str, log: Settings) -> None:
        self.version = version
        self.document = document
        self.name = _text(document, "name")
        self.ipam_type = ipam_type
        self.targets = targets
        self.timeout = timeout
        self.state = state
        self.log = log
        self.previous = _mapping(document, "prevResult")


def parse(raw: bytes, command: str) -> Configuration:
    """Read and check a configuration for a command other than VERSION.

    Raises:
        CniError: DECODING_FAILURE if it is not a JSON object, INCOMPATIBLE_VERSION with the supported ones listed, or
            INVALID_CONFIGURATION naming the field.
    """
    document = _document(raw)
    version = _version(document)
    if version not in SUPPORTED:
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion {version!r} is not supported; use one of "
                                             f"{', '.join(SUPPORTED)}")
    if (since := _SINCE.get(command)) and SUPPORTED.index(version) < SUPPORTED.index(since):
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion {version} has no {command}; it needs {since} or later")
    for field in ("name", "type"):
        if not _text(document, field):
            raise _invalid(f"{field} is missing")
    own = _mapping(document, "muslin")
    return Configuration(version, document, _ipam_type(document), _targets(own), _timeout(own), _state(own),
                         _log(document))


def _ipam_type(document: Mapping[str, Value]) -> str:
    kind = _text(_mapping(document, "ipam"), "type", "ipam.")
    if kind in OUR_IPAM:
        return ""
    if "/" in kind or "\0" in kind or kind in (".", "..", document["type"]):
        raise _invalid(f"ipam.type {kind!r} is not the name of a plugin for addresses; leave it out for Muslin's own")
    return kind


def requested_version(raw: bytes) -> str:
    """The version that the input of VERSION is in. Empty input is in the newest (old runtimes give none).

    Raises:
        CniError: as parse() does, but for a version that is not supported: the answer is which ones are.
    """
    return _version(_document(raw)) if raw.strip() else CURRENT


def version_for_error(raw: bytes) -> str:
    """The version that an error about this input is written in: its own, if it has one that is supported."""
    try:
        version = _version(_document(raw))
    except CniError:
        return CURRENT
    return version if version in SUPPORTED else CURRENT


def _document(raw: bytes) -> Mapping[str, Value]:
    if not raw.strip():
        raise CniError(DECODING_FAILURE, "there is no network configuration on stdin")
    try:
        document = jsontext.loads(raw)
    except jsontext.NotJson as problem:
        raise CniError(DECODING_FAILURE, f"the network configuration on stdin is not JSON: {problem}") from None
    if not isinstance(document, dict):
        raise CniError(DECODING_FAILURE, "the network configuration on stdin is not a JSON object but "
                                         f"{_kind(document)}")
    return document


def _version(document: Mapping[str, Value]) -> str:
    return _text(document, "cniVersion") or DEFAULT_VERSION


def _targets(own: Mapping[str, Value]) -> Mapping[str, str]:
    """Every service behind the one socket, unless it has a target of its own."""
    shared = _path("muslin.socket", _text(own, "socket", "muslin.") or DEFAULT_SOCKET)
    named = _mapping(own, "targets", "muslin.")
    if strangers := sorted(set(named) - set(SERVICES)):
        raise _invalid(f"muslin.targets.{strangers[0]} is not a service; those are {', '.join(SERVICES)}")
    return {service: _path(f"muslin.targets.{service}", _text(named, service, "muslin.targets.") or shared)
            for service in SERVICES}


def _path(field: str, target: str) -> str:
    """Path of a socket that is given as a path or, as in gRPC, as `unix:/path` or `unix:///path`."""
    path = target.removeprefix("unix:")
    if path.startswith("///"):
        path = path[2:]
    if not path.startswith("/") or path.startswith("//") or "\0" in path:
        raise _invalid(f"{field} {target!r} must be a unix socket: an absolute path, or unix: and an absolute path")
    try:
        length = len(path.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, written as an escape
        raise _invalid(f"{field} {target!r} is not Unicode text") from None
    if length > _LONGEST_PATH:
        raise _invalid(f"{field} is longer than the {_LONGEST_PATH} bytes that a unix socket may have")
    return path


def _state(own: Mapping[str, Value]) -> str:
    path = _text(own, "state_dir", "muslin.") or DEFAULT_STATE
    if not path.startswith("/") or "\0" in path or not path.isprintable():
        raise _invalid(f"muslin.state_dir {path!r} must be an absolute path")
    return path.rstrip("/")


def _log(document: Mapping[str, Value]) -> Settings:
    """Calico's names; a level that it does not know means the default there, and so here."""
    path = _text(document, "log_file_path") or log.DEFAULT_PATH
    if not path.startswith("/") or "\0" in path:
        raise _invalid(f"log_file_path {path!r} must be an absolute path; /dev/null is for none")
    size = _number(document, "log_file_max_size", log.DEFAULT_SIZE >> 20)
    return Settings(log.LEVELS.get(_text(document, "log_level").lower(), log.INFO), path, int(size * (1 << 20)),
                    int(_number(document, "log_file_max_count", log.DEFAULT_COUNT)))


def _number(document: Mapping[str, Value], field: str, default: float) -> float:
    value = document.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1_000_000:
        raise _invalid(f"{field} must be a number, more than 0 and at most 1000000, not "
                       f"{value if isinstance(value, (int, float)) else _kind(value)}")
    return value


def _timeout(own: Mapping[str, Value]) -> float:
    seconds = own.get("timeout")
    if seconds is None:
        return DEFAULT_TIMEOUT
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise _invalid(f"muslin.timeout must be a number of seconds, not {_kind(seconds)}")
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise _invalid(f"muslin.timeout must be more than 0 and at most {LONGEST_TIMEOUT:.0f} seconds, not {seconds}")
    return float(seconds)


def _text(document: Mapping[str, Value], field: str, where: str = "") -> str:
    value = document.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _invalid(f"{where}{field} must be a string, not {_kind(value)}")
    return value


def _mapping(document: Mapping[str, Value], field: str, where: str = "") -> Mapping[str, Value]:
    value = document.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _invalid(f"{where}{field} must be an object, not {_kind(value)}")
    return value


def _kind(value: Value) -> str:
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number",
            float: "a number"}.get(type(value), "null")


def _invalid(message: str) -> CniError:
    return CniError(INVALID_CONFIGURATION, message)
