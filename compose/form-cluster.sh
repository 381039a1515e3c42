#!/bin/sh
# Makes one cluster of the nodes in NODES (host:port, separated by spaces), a replica for each master; does nothing when
# they are one already. The environment is that of entrypoint.sh.
set -eu

: "${NODES:?}" "${TLS:=no}" "${TLS_DIR:=/run/tls}" "${SECRETS:=/run/secrets}" "${CLI:=valkey-cli}"
REDISCLI_AUTH=$(cat "$SECRETS/cache_admin_password")
export REDISCLI_AUTH
secure=
[ "$TLS" = no ] || secure="--tls --cacert $TLS_DIR/ca.crt"

# Nodes meet by address: a node does not look names up.
addresses=
for node in $NODES; do
  addresses="$addresses $(getent hosts "${node%:*}" | awk '{ print $1; exit }'):${node##*:}"
done
# shellcheck disable=SC2086 # one word for each address
set -- $addresses

# shellcheck disable=SC2086 # several words, or none
if "$CLI" $secure -h "${1%:*}" -p "${1##*:}" cluster info | tr -d '\r' | grep -qx 'cluster_known_nodes:1'; then
  exec "$CLI" $secure --cluster create "$@" --cluster-replicas 1 --cluster-yes
fi
echo "the nodes are a cluster already"
