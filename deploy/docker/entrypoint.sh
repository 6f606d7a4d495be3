#!/bin/sh
# Fills ${NAME} in the mounted settings from the environment, so that no password is kept in them, then runs the command.
set -eu
mkdir -p /tmp/settings
for template in /settings/*.json; do
  [ -e "$template" ] || break
  python -c 'import os, string, sys; sys.stdout.write(string.Template(sys.stdin.read()).substitute(os.environ))' \
    <"$template" >"/tmp/settings/$(basename "$template")"
done
exec "$@"
