#!/bin/sh
# Fills ${NAME} in the settings file that the command is given, then runs the command: /tmp/settings/x.json is made from
# /settings/x.json. Passwords are no names to fill in: the settings name their files.
set -eu
for argument in "$@"; do
  case $argument in
    /tmp/settings/*.json)
      mkdir -p /tmp/settings
      python -c 'import os, string, sys; sys.stdout.write(string.Template(sys.stdin.read()).substitute(os.environ))' \
        <"/settings/$(basename "$argument")" >"$argument"
      ;;
  esac
done
exec "$@"
