#!/bin/sh
# environment.sh dependencies DIR   make a virtual environment with all that Muslin needs, at the versions of the lock
# environment.sh muslin DIR         put Muslin itself there, and take out what only installing needed
#
# Two steps, so that the first is repeated only when the dependencies have changed.
set -eu
directory=$2
pip() { "$directory/bin/python" -m pip --no-cache-dir --disable-pip-version-check --quiet "$@"; }

case $1 in
dependencies)
    python3 -m venv "$directory"
    python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["dependencies"], sep="\n")' > /tmp/dependencies
    pip install --constraint requirements.lock --requirement /tmp/dependencies
    rm /tmp/dependencies
    ;;
muslin)
    pip install --no-deps .
    "$directory/bin/python" -m compileall -q "$directory/lib"
    pip uninstall --yes pip
    rm -f "$directory"/bin/activate* "$directory"/bin/Activate.ps1
    ;;
esac
