"""`muslin install`: the plugin and its configuration where a container runtime looks for them.

A runtime may exec the plugin or read the configuration at any moment, and the machine may lose power at any other. So a
file is written under a temporary name, synced, renamed and its directory synced; and the configuration, which makes
the runtime use the plugin, comes last and goes first.

What is ours is known by a record beside the plugin, `.<name>.muslin`: paths, and digests of what was written there. A
file that somebody else put or changed there is left alone, unless that is asked for.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muslin.errors import AlreadyExists, Conflict, Corrupt, FailedPrecondition, InvalidArgument, IOFailure, NotFound

__all__ = ["Places", "install", "install_configuration", "install_plugin", "uninstall"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_RUN_SECONDS = 60.0
_PLUGIN_MODE, _CONFIGURATION_MODE = 0o755, 0o600
_CONFIGURATIONS = (".conf", ".conflist", ".json")
"""What runtimes read (libcni, ConfFiles)."""


@dataclass(frozen=True)
class Places:
    """Where a runtime looks: the plugins' directory, that of configurations, and the name that it calls the plugin."""

    bin: Path
    conf: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument(f"--name {self.name!r} must match {_NAME.pattern}")

    @property
    def plugin(self) -> Path:
        """The plugin."""
        return self.bin / self.name

    @property
    def record(self) -> Path:
        """What we have written."""
        return self.bin / f".{self.name}.muslin"


@dataclass
class Record:
    """Paths that we have written, each with digests of all that may be there by our hand."""

    files: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record; an empty one if there is none.

        Raises:
            Corrupt: it is damaged.
        """
        try:
            files = json.loads(path.read_bytes())["files"]
            return cls({str(name): [str(digest) for digest in digests] for name, digests in files.items()})
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Corrupt(f"{path} is damaged; remove it, and repeat with --force") from None

    def owns(self, path: Path) -> bool:
        """Whether what is there is ours, or nothing is."""
        try:
            return _digest(path.read_bytes()) in self.files.get(str(path), ())
        except FileNotFoundError:
            return True

    def write(self, path: Path) -> None:
        """Store it."""
        _put(path, json.dumps({"files": self.files}, indent=1).encode() + b"\n", 0o644)


def install(places: Places, source: Path, configuration: Path | None, log: Path | None, *, force: bool) -> list[str]:
    """Install the plugin `source`, and a configuration file or one of our own; repeating it changes nothing.

    `log` is the directory of the plugin's log, made if it is not there. Returns what was done, for people.

    Raises:
        NotFound, Corrupt, InvalidArgument: plugin or configuration are not there, or not for each other.
        AlreadyExists: a file of somebody else is there, and `force` is not given.
        FailedPrecondition: the plugin does not run here.
        Conflict: somebody else installs here at this moment.
        OSError: a file can not be written.
    """
    name, config = _configuration(places, configuration)
    target = places.conf / name
    plugin = _read(source, "build it with `make shim`")
    said = _install(places, {places.plugin: (plugin, _PLUGIN_MODE), target: (config, _CONFIGURATION_MODE)}, force=force)
    if log is not None:
        log.mkdir(mode=0o750, parents=True, exist_ok=True)
    return said + _notes(target)


def install_plugin(places: Places, source: Path, *, force: bool) -> list[str]:
    """The plugin alone, beside the configuration that there may be. Raises as install() does."""
    plugin = _read(source, "build it with `make shim`")
    return _install(places, {places.plugin: (plugin, _PLUGIN_MODE)}, force=force, whole=False)


def install_configuration(places: Places, name: str, content: bytes, *, force: bool) -> list[str]:
    """A configuration alone, whose file is called so, once the plugin is there. Raises as install() does."""
    target = places.conf / name
    return _install(places, {target: (content, _CONFIGURATION_MODE)}, force=force, whole=False) + _notes(target)


def _install(places: Places, wanted: Mapping[Path, tuple[bytes, int]], *, force: bool, whole: bool = True) -> list[str]:
    """Have these files, in this order, and of ours no others if they are the whole."""
    for folder in (places.bin, places.conf):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(places.bin):
        record = Record.read(places.record)
        done = {path: _is(path, content, mode) for path, (content, mode) in wanted.items()}
        if not force:
            for path in wanted:
                if not record.owns(path) and path.read_bytes() != wanted[path][0]:
                    raise AlreadyExists(f"{path} is not of our making, or was changed since; --force replaces it")
        old = [Path(path) for path in record.files if Path(path) not in wanted] if whole else []
        # Before a file is there its digest is in the record, so that a run that is cut short can be repeated.
        for path, (content, _) in wanted.items():
            record.files.setdefault(str(path), []).append(_digest(content))
        record.write(places.record)
        said = []
        for path, (content, mode) in wanted.items():
            if not done[path]:
                _put(path, content, mode, check=_runs if path == places.plugin else None)
            said.append(f"{path}: {'unchanged' if done[path] else 'installed'}")
        said += [f"{path}: removed" for path in old if _remove(path, record, force=False)]
        for path in old:
            record.files.pop(str(path))
        record.files |= {str(path): [_digest(content)] for path, (content, _) in wanted.items()}
        record.write(places.record)
    return said


def uninstall(places: Places, *, force: bool) -> list[str]:
    """Remove what was installed, the configuration first. Harmless if there is nothing. Returns what was done.

    Raises:
        AlreadyExists: a file was changed by somebody else since, and `force` is not given; then nothing is removed.
        Corrupt, Conflict, OSError: as install().
    """
    if not places.record.exists():
        return [f"{places.plugin} is not installed"]
    with _locked(places.bin):
        record = Record.read(places.record)
        paths = sorted(map(Path, record.files), key=lambda path: path == places.plugin)  # the plugin last
        changed = [path for path in paths if not record.owns(path)]
        if changed and not force:
            raise AlreadyExists(f"{changed[0]} was changed since it was installed; --force removes it all the same")
        said = [f"{path}: {'removed' if _remove(path, record, force=force) else 'not there'}" for path in paths]
        places.record.unlink()
        _sync(places.bin)
    return said


def _configuration(places: Places, path: Path | None) -> tuple[str, bytes]:
    """File name and content of the configuration.

    Raises:
        NotFound, Corrupt, InvalidArgument: it is not there, is none, or does not call the plugin by its name.
    """
    if path is None:
        plugin = {"type": places.name, "ipam": {"type": "muslin-ipam"}, "policy": {"type": "k8s"}}
        document: dict[str, Any] = {"cniVersion": "1.0.0", "name": "k8s-pod-network", "plugins": [plugin]}
        return f"10-{places.name}.conflist", json.dumps(document, indent=2).encode() + b"\n"
    if path.suffix not in _CONFIGURATIONS:
        raise InvalidArgument(f"{path}: runtimes read files named {', '.join('*' + s for s in _CONFIGURATIONS)} only")
    content = _read(path, "name the configuration with --conf")
    try:
        document = json.loads(content)
        types = [each["type"] for each in document.get("plugins", [document])]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Corrupt(f"{path} is no CNI configuration: a JSON object with `type`, or with a list `plugins` of "
                      "such objects") from None
    if places.name not in types:
        raise InvalidArgument(f"{path} calls {', '.join(map(str, types))}, and the plugin would be installed as "
                              f"{places.name}; name it with --name")
    return path.name, content


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} is not there; {advice}") from None
    except OSError as problem:
        raise IOFailure(f"{path}: {problem.strerror}") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is(path: Path, content: bytes, mode: int) -> bool:
    try:
        return path.read_bytes() == content and path.stat().st_mode & 0o777 == mode
    except FileNotFoundError:
        return False


def _put(path: Path, content: bytes, mode: int, check: Any = None) -> None:
    """Have a file with this content, or the old one, at any moment, and the new one for good when this returns."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # of a run that was cut short: we hold the lock
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        if check:
            check(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _runs(plugin: Path) -> None:
    """Raises FailedPrecondition if it does not run here: built for another machine, a directory mounted noexec."""
    try:
        done = subprocess.run([plugin], input=b"", env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=False,
                              timeout=_RUN_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise FailedPrecondition(f"the plugin does not run in {plugin.parent}: {problem}") from None
    if done.returncode or b"supportedVersions" not in done.stdout:
        raise FailedPrecondition(f"the plugin does not run in {plugin.parent}: exit code {done.returncode}: "
                                 f"{done.stderr.decode(errors='replace').strip()}")


def _remove(path: Path, record: Record, *, force: bool) -> bool:
    """Whether there was a file, which is gone for good now; one that is not ours stays unless forced."""
    if not force and not record.owns(path):
        return False
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    _sync(path.parent)
    return True


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(descriptor)
        if problem.errno == errno.EWOULDBLOCK:
            raise Conflict(f"somebody else installs in {folder} at this moment; try again") from None
        raise
    try:
        yield
    finally:
        os.close(descriptor)


def _notes(target: Path) -> list[str]:
    """What keeps a runtime from using the configuration: it takes the first by name."""
    first = min((p.name for p in target.parent.iterdir() if p.suffix in _CONFIGURATIONS), default=target.name)
    return [f"note: runtimes take the first by name, and {first} comes before {target.name}"] if (
        first < target.name) else []
