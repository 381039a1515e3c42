#!/bin/sh
# Whether a server does its work: a replica has its master, a node its cluster, a sentinel its quorum.
#
# The environment is that of entrypoint.sh.
set -eu

: "${PORT:?}" "${TLS:=no}" "${TLS_DIR:=/run/tls}" "${SECRETS:=/run/secrets}" "${CLI:=valkey-cli}"
REDISCLI_AUTH=$(cat "$SECRETS/cache_admin_password")
export REDISCLI_AUTH
secure=
[ "$TLS" = no ] || secure="--tls --cacert $TLS_DIR/ca.crt"

ask() {
  # shellcheck disable=SC2086 # several words, or none
  "$CLI" $secure -h 127.0.0.1 -p "$PORT" "$@" | tr -d '\r'
}

case ${1:-} in
  server) ask info replication | grep -Eqx 'role:master|master_link_status:up' ;;
  # A node that knows nobody yet is ready to be made part of a cluster.
  cluster) ask cluster info | grep -Eqx 'cluster_state:ok|cluster_known_nodes:1' ;;
  sentinel) ask sentinel ckquorum mymaster | grep -q '^OK' ;;
  *) exit 64 ;;
esac
