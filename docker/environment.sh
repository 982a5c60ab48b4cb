#!/bin/sh
# environment.sh dependencies DIR   make a virtual environment with all that Muslin needs, at the versions of the lock
# environment.sh certs DIR TARGET   put what making certificates needs beside it, in a directory of its own
# environment.sh muslin DIR         put Muslin itself there, and take out what only installing needed
#
# Steps, so that those before the last are repeated only when the dependencies have changed.
set -eu
directory=$2
pip() { "$directory/bin/python" -m pip --no-cache-dir --disable-pip-version-check --quiet "$@"; }

# names EXPRESSION: the requirements that an expression on pyproject.toml's [project] gives, one a line
names() { python3 -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']
print(*$1, sep='\n')"; }

case $1 in
dependencies)
    python3 -m venv "$directory"
    names 'project["dependencies"] + project["optional-dependencies"].get("tracing", [])' > /tmp/wanted
    pip install --constraint requirements.lock --requirement /tmp/wanted
    ;;
certs)
    names 'project["optional-dependencies"].get("certs", [])' > /tmp/wanted
    mkdir -p "$3"
    pip install --constraint requirements.lock --requirement /tmp/wanted --target "$3"
    ;;
muslin)
    pip install --no-deps .
    "$directory/bin/python" -m compileall -q "$directory/lib"
    pip uninstall --yes pip
    rm -f "$directory"/bin/activate* "$directory"/bin/Activate.ps1
    ;;
esac
