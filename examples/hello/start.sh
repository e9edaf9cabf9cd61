#!/bin/sh
# Writes the page of this instance, then serves it until told to stop.
set -eu

mkdir -p /srv
sed -e "s/@VERSION@/$(cat VERSION)/" -e "s/@INSTANCE@/$(hostname)/" -e "s/@BUILT_AT@/$(cat built-at)/" \
  index.html > /srv/index.html

httpd -f -p "${PORT:-8080}" -h /srv &
server=$!
trap 'kill "$server"' TERM INT
echo "hello, version $(cat VERSION), listens on port ${PORT:-8080}"
wait "$server" || true
