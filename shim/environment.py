"""The environment that a runtime calls a plugin with (CNI specification 1.1, section 2, "Parameters")."""

from __future__ import annotations

from shim.errors import INVALID_ENVIRONMENT, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
}
_ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_IDENTIFIER = _ALPHANUMERIC | frozenset("_.-")


class Environment:
    """The variables, checked for the command.

    Attributes:
        command: One of COMMANDS.
        container_id, netns, ifname, args, path: CNI_CONTAINERID and so on; "" if not given.
        traceparent: TRACEPARENT as libcni passes it on, unchecked.
    """

    __slots__ = ("args", "command", "container_id", "ifname", "netns", "path", "traceparent")

    def __init__(self, command: str, container_id: str = "", netns: str = "", ifname: str = "", args: str = "",
                 path: str = "", traceparent: str = "") -> None:
        self.command = command
        self.container_id = container_id
        self.netns = netns
        self.ifname = ifname
        self.args = args
        self.path = path
        self.traceparent = traceparent


def read(environ: Mapping[bytes, bytes]) -> Environment:
    """Take the CNI variables out of a process environment.

    Raises:
        CniError: INVALID_ENVIRONMENT, naming the variable.
    """
    command = _text(environ, "CNI_COMMAND")
    if not command:
        raise _problem("CNI_COMMAND is not set; this is a CNI plugin, to be called by a container runtime")
    if command not in COMMANDS:
        raise _problem(f"CNI_COMMAND {command!r} is not one of {', '.join(COMMANDS)}")
    needed = _REQUIRED.get(command, ())
    missing = [name for name in needed if not environ.get(name.encode())]
    if missing:
        raise _problem(f"{', '.join(missing)} must be set for {command}")
    if not needed:  # GC, STATUS and VERSION are about no attachment: what is left in the environment is ignored
        return Environment(command, path=_text(environ, "CNI_PATH"), traceparent=_trace(environ))
    found = Environment(
        command,
        container_id=_text(environ, "CNI_CONTAINERID"),
        netns=_text(environ, "CNI_NETNS"),
        ifname=_text(environ, "CNI_IFNAME"),
        args=_text(environ, "CNI_ARGS"),
        path=_text(environ, "CNI_PATH"),
        traceparent=_trace(environ),
    )
    if found.container_id[0] not in _ALPHANUMERIC or not _IDENTIFIER.issuperset(found.container_id):
        raise _problem(f"CNI_CONTAINERID {found.container_id!r} must be letters, digits, '_', '.' and '-', and start "
                       "with a letter or digit")
    if fault := _fault_of_interface(found.ifname):
        raise _problem(f"CNI_IFNAME {found.ifname!r} {fault}")
    return found


def _fault_of_interface(name: str) -> str:
    """What keeps this from being a name of a network interface, "" if nothing does (Linux, dev_valid_name)."""
    if len(name.encode()) > 15:
        return "is longer than 15 bytes"
    if name in (".", ".."):
        return "is not a name"
    if any(character in "/:" or character.isspace() for character in name):
        return "must not have '/', ':' or white space in it"
    return ""


def _text(environ: Mapping[bytes, bytes], name: str) -> str:
    try:
        return environ.get(name.encode(), b"").decode()
    except UnicodeDecodeError:
        raise _problem(f"{name} is not UTF-8") from None


def _trace(environ: Mapping[bytes, bytes]) -> str:
    """TRACEPARENT; what is not ASCII can not be valid, and is no reason to fail."""
    value = environ.get(b"TRACEPARENT", b"")
    return value.decode() if value.isascii() else ""


def _problem(message: str) -> CniError:
    return CniError(INVALID_ENVIRONMENT, message)
