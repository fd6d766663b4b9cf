#!/bin/bash
# Open MPI's remote shell into a virtual host: rsh.sh HOST COMMAND (hosts.sh).
host=$1
shift
exec nsenter -t "$(<"$world/$host.pid")" --net --uts --ipc --pid --mount --wd=/ /bin/sh -c "$*"
