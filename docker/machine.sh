#!/bin/sh
# machine.sh COMMAND...: one container as one machine. The command is a service of the machine: it is started again when
# it ends, and its end is not the machine's, whose pods live on. Run it as process 1's child (docker's init).
stopping=
trap 'stopping=yes; kill -TERM "$service" 2>/dev/null' TERM INT
while [ -z "$stopping" ]; do
    "$@" &
    service=$!
    while kill -0 "$service" 2>/dev/null; do wait "$service"; done
    [ -n "$stopping" ] || sleep 0.2
done
