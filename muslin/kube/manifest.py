"""Files and directories of Kubernetes YAML into one checked set of objects.

::

    manifest = load(["examples/three-tier"])
    manifest.require_namespaces(())
    manifest.pods, manifest.namespaces, manifest.nodes, manifest.policies

Everything is read and checked before anything is returned: who applies a Manifest applies all of it or nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from muslin.errors import InvalidArgument, IOFailure, NotFound
from muslin.kube.document import documents
from muslin.kube.field import Field
from muslin.kube.objects import DEFAULT_NAMESPACE, Namespace, NetworkPolicy, Node, Object, Pod
from muslin.kube.reader import read

__all__ = ["Manifest", "load", "merged", "parse", "text_of"]

SUFFIXES = (".yaml", ".yml", ".json")
"""Files of a directory that are read; a file named by itself may be called anything."""
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A set of objects without duplicates."""

    objects: tuple[Object, ...]

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """In the order of the files."""
        return tuple(item for item in self.objects if isinstance(item, Namespace))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """In the order of the files."""
        return tuple(item for item in self.objects if isinstance(item, Node))

    @property
    def pods(self) -> tuple[Pod, ...]:
        """In the order of the files."""
        return tuple(item for item in self.objects if isinstance(item, Pod))

    @property
    def policies(self) -> tuple[NetworkPolicy, ...]:
        """In the order of the files."""
        return tuple(item for item in self.objects if isinstance(item, NetworkPolicy))

    def require_namespaces(self, existing: Collection[str]) -> None:
        """Raise InvalidArgument for an object whose namespace is neither declared here nor one of ``existing``."""
        known = {DEFAULT_NAMESPACE, *existing, *(item.name for item in self.namespaces)}
        for item in self.objects:
            if item.namespace and item.namespace not in known:
                raise InvalidArgument(
                    f"{item.origin.place}: metadata.namespace: {item.kind} {item.name} is in namespace "
                    f"{item.namespace!r}, which is not declared; add a Namespace of that name")


def parse(text: str, file: str) -> list[Object]:
    """The objects of one YAML text; ``file`` names it in errors. Raises InvalidArgument."""
    return [item for document in documents(text, file) for item in read(Field(document, document.root))]


def load(paths: Sequence[str]) -> Manifest:
    """The objects of files and directories, ``-`` being standard input.

    A directory stands for its files with one of the SUFFIXES, sorted by name, and not for its directories.

    Raises:
        NotFound: a path does not exist, or a directory holds no manifest.
        IOFailure: a file can not be read.
        InvalidArgument: something in a file is not right, or an object is there twice.
    """
    return merged(item for path in paths for file in _files(path) for item in parse(text_of(file), file))


def merged(items: Iterable[Object]) -> Manifest:
    """One set of objects. Raises InvalidArgument if one is there twice."""
    objects: dict[tuple[str, str, str], Object] = {}
    for item in items:
        key = item.kind, item.namespace, item.name
        if first := objects.get(key):
            name = f"{item.namespace}/{item.name}" if item.namespace else item.name
            raise InvalidArgument(f"{item.origin.place}: metadata.name: {item.kind} {name} is there already "
                                  f"({first.origin.place}); remove one")
        objects[key] = item
    return Manifest(tuple(objects.values()))


def _files(path: str) -> list[str]:
    if path == STDIN:
        return [path]
    place = Path(path)
    if place.is_dir():
        found = sorted(str(file) for file in place.iterdir() if file.suffix in SUFFIXES and file.is_file())
        if not found:
            raise NotFound(f"{path}: no file here ends in {', '.join(SUFFIXES)}")
        return found
    if not place.exists():
        raise NotFound(f"{path}: no such file or directory")
    return [path]


def text_of(file: str) -> str:
    """The text of a file, or of standard input. Raises IOFailure, and InvalidArgument if it is not UTF-8."""
    try:
        raw = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise IOFailure(f"{file}: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[:error.start].count(b"\n") + 1
        raise InvalidArgument(f"{file}, line {line}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
