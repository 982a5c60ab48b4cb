"""What the static build has in the place of importlib: modules that are there, and those compiled in. Nothing is found.

The interpreter's own takes part of every start, for a search of files that the plugin never has. The names are those
that the interpreter calls (Python/pylifecycle.c, init_importlib; Python/import.c, import_find_and_load).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


class _Spec:
    """What a module is made from: the interpreter asks for no more than its name."""

    name = ""


_given: list[Any] = []  # sys.modules and the module _imp
_spec = _Spec()


def _install(sys: Any, imp: Any) -> None:
    """The interpreter is up."""
    _given[:] = sys.modules, imp


def _find_and_load(name: str, import_: Any) -> ModuleType:
    """A module that is compiled in."""
    modules, imp = _given
    _spec.name = name
    module: ModuleType | None = imp.create_builtin(_spec)
    if module is None:
        raise ModuleNotFoundError(f"{name} is not compiled in")
    modules[name] = module
    imp.exec_builtin(module)
    return module
