"""Build the CNI plugin, build/cni/muslin: one static file, or a script where there is no compiler.

The modules of shim/ are compiled, stripped of what only people and type checkers need, and packed into one code object
that makes the modules and runs the plugin: nothing is searched for or opened when the plugin starts.
"""

from __future__ import annotations

import _socket
import argparse
import ast
import marshal
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "shim"
OUTPUT = ROOT / "build/cni/muslin"
ENTRY = "shim.main"
OLDEST = (3, 11)
PACKAGES = "apt-get install gcc libpython3-dev"

_BOOT = f"""
import sys
for name, parent, child, code in "MODULES":
    module = sys.modules[name] = type(sys)(name)
    if parent:
        setattr(sys.modules[parent], child, module)
    exec(code, module.__dict__)
sys.modules["{ENTRY}"].main()
"""

# What the C program of the static build sees to. A module that is a file of its own is found without a search.
_SCRIPT_BOOT = """
import gc, sys
gc.disable()
sys.path[:] = {search}
"""

# The whole program rides on the first line, as an option, so that the interpreter never reads the rest of the file as
# source: the packed modules follow the line as they are, and the start costs no more than that of an empty script.
_FIRST_LINE = ('#!{interpreter} -IScimport marshal,sys;'
               'exec(marshal.loads(open(sys.argv[1],"rb").read().split(b"\\n",1)[1]))\n')
_LONGEST_FIRST_LINE = 255  # bytes that Linux reads of it (since 5.1, BINPRM_BUF_SIZE)


class CanNotBuild(Exception):
    """The message says what is missing and how to get it."""


class _Strip(ast.NodeTransformer):
    """Removes annotations, and imports made only for them; docstrings go when compiling."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "__future__" else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            argument.annotation = None
        return self.generic_visit(node)


def modules() -> Iterator[tuple[str, ast.Module]]:
    """The modules of the shim, each after those it imports."""
    waiting = {_name(path): _Strip().visit(ast.parse(path.read_text(encoding="utf-8")))
               for path in sorted(SOURCES.glob("*.py")) if path.name != "__main__.py"}
    while waiting:
        name = next(name for name, tree in waiting.items() if not _needs(tree) & waiting.keys() - {name})
        yield name, waiting.pop(name)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def _needs(tree: ast.Module) -> set[str]:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {str(node.module) for node in imports} | {f"{node.module}.{a.name}" for node in imports for a in node.names}


def pack(before: str = "") -> bytes:
    """The whole shim, with some source to run before it, as one marshalled code object.

    It is for interpreters of this one's minor version.
    """
    packed = []
    for name, tree in modules():
        path = name.replace(".", "/") + ".py"
        code = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=2)
        parent, _, child = name.rpartition(".")
        packed.append((name, parent, child, code))
    boot = compile(before + _BOOT, "boot", "exec", dont_inherit=True, optimize=2)
    return marshal.dumps(boot.replace(co_consts=tuple(tuple(packed) if c == "MODULES" else c for c in boot.co_consts)))


def script() -> bytes:
    """The plugin as a script for the interpreter that runs this, called by its real path.

    Raises:
        CanNotBuild: that path can not stand in the first line of a script.
    """
    interpreter = os.path.realpath(sys.executable)
    origin = getattr(_socket, "__file__", None)
    first = os.fsencode(_FIRST_LINE.format(interpreter=interpreter))
    if len(first) > _LONGEST_FIRST_LINE or any(character.isspace() for character in interpreter):
        raise CanNotBuild(f"the interpreter's path {interpreter!r} can not stand in the first line of a script; make "
                          "the virtual environment with an interpreter at a shorter path without spaces")
    return first + pack(_SCRIPT_BOOT.format(search=[str(Path(origin).parent)] if origin else []))


class Toolchain:
    """A compiler, a static library of the interpreter with its headers, and an interpreter of the same version."""

    def __init__(self, compiler: str, headers: Path, library: Path, interpreter: str) -> None:
        self.compiler = compiler
        self.headers = headers
        self.library = library
        self.interpreter = interpreter


def toolchain(include: Path = Path("/usr/include")) -> Toolchain:
    """What a static build needs; `include` is where the system's headers are.

    Raises:
        CanNotBuild: something is missing.
    """
    compiler = shutil.which("gcc")
    if not compiler:
        raise CanNotBuild(f"there is no gcc: {PACKAGES}")
    for headers in sorted(include.glob("python3.*"), key=lambda path: path.name != _version()):
        name = headers.name
        library = Path(_output(compiler, f"-print-file-name=lib{name}.a"))
        interpreter = sys.executable if name == _version() else shutil.which(f"/usr/bin/{name}")
        if (headers / "Python.h").exists() and library.is_absolute() and interpreter and _is_served(name):
            return Toolchain(compiler, headers, library, interpreter)
    raise CanNotBuild("there is no static library of Python 3.11 or later with its headers and an interpreter of the "
                      f"same version: {PACKAGES}")


def pack_importer() -> bytes:
    """What the static build has in the place of importlib, marshalled."""
    tree = _Strip().visit(ast.parse((SOURCES / "build/importer.py").read_text(encoding="utf-8")))
    return marshal.dumps(compile(ast.fix_missing_locations(tree), "shim/build/importer.py", "exec", dont_inherit=True,
                                 optimize=2))


def _version() -> str:
    return "python{}.{}".format(*sys.version_info)


def _is_served(name: str) -> bool:
    major, minor = name.removeprefix("python").split(".")[:2]
    return minor.isdigit() and (int(major), int(minor)) >= OLDEST


def _output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def static(tools: Toolchain) -> bytes:
    """The plugin as a static executable.

    Raises:
        CanNotBuild: the compiler or linker failed; the message has what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        packed = {"program": pack, "importer": pack_importer}
        if tools.interpreter == sys.executable:
            arrays = {name: each() for name, each in packed.items()}
        else:
            arrays = {name: subprocess.run([tools.interpreter, "-I", __file__, "--pack", name], check=True,
                                           capture_output=True).stdout for name in packed}
        Path(folder, "program.h").write_text("".join(
            f"static const unsigned char {name}[] = {{{','.join(map(str, content))}}};\n"
            for name, content in arrays.items()))
        made = Path(folder, "muslin")
        command = [tools.compiler, "-O2", "-static", "-no-pie", "-s", f"-I{tools.headers}", f"-I{folder}",
                   str(SOURCES / "build/main.c"), "-o", str(made), str(tools.library), "-lm"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "warning" not in line]
            raise CanNotBuild("\n".join(["the static build failed:", " ".join(command), *said[:20]]))
        return made.read_bytes()


def install(content: bytes, output: Path) -> None:
    """Put an executable in its place in one step: a runtime may be starting the old one at this moment.

    Raises:
        CanNotBuild: it does not run, as with an interpreter that starts otherwise than those we know.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o755)
            os.fsync(file.fileno())
        done = subprocess.run([temporary], input=b"", env={"CNI_COMMAND": "VERSION"}, check=False, capture_output=True)
        if done.returncode or b"supportedVersions" not in done.stdout:
            raise CanNotBuild(f"what was built does not run: exit {done.returncode}: {done.stderr.decode()}")
        temporary.rename(output)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(output.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def build(mode: str, output: Path) -> str:
    """Build the plugin as "static", "script" or, by what is there, "auto"; returns what it is and why, for people.

    Raises:
        CanNotBuild: what was asked for can not be had here.
    """
    if mode == "script":
        install(script(), output)
        return f"a script for {os.path.realpath(sys.executable)}, as asked for"
    try:
        tools = toolchain()
        install(static(tools), output)
    except CanNotBuild as problem:
        if mode == "static":
            raise
        install(script(), output)
        return (f"a script for {os.path.realpath(sys.executable)}, and not one static file, which starts in half the "
                f"time: {problem}")
    return f"one static file, with the interpreter of {tools.library.resolve()} inside"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build Muslin's CNI plugin.")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--auto", dest="mode", action="store_const", const="auto",
                      help="one static file where gcc and the library are there, else a script")
    mode.add_argument("--static", dest="mode", action="store_const", const="static",
                      help="one static file with the interpreter inside; needs no Python on the host")
    mode.add_argument("--script", dest="mode", action="store_const", const="script",
                      help="a script for this interpreter")
    mode.add_argument("--pack", choices=("program", "importer"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: build/cni/muslin")
    options = parser.parse_args()
    if options.pack:  # by the interpreter of the library that we link, when it is not our own
        sys.stdout.buffer.write(pack() if options.pack == "program" else pack_importer())
        return 0
    try:
        what = build(options.mode, options.output)
    except CanNotBuild as problem:
        print(f"build_shim: {problem}", file=sys.stderr)
        return 1
    print(f"{options.output}: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
