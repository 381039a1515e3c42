#!/bin/sh
# Starts one server of the Compose files: `server`, `cluster` or `sentinel`.
#
# The files in conf/ are mounted read-only and hold no secret. This script adds what only the container knows: the
# passwords (from files, so that neither the command line nor `docker inspect` shows them), its own name, and who the
# master is now. Servers write what they learn into their configuration, so each gets one of its own beside its data.
#
#   PORT           the port to listen on
#   NAME           the name by which the others reach this server; by default that of the container
#   MASTER         the host:port of the first master; not for servers of a cluster
#   SENTINELS      the host:port of the sentinels, separated by spaces
#   TLS            `yes` to speak TLS and nothing else
set -eu
umask 077

role=${1:-}
: "${PORT:?}" "${NAME:=$(hostname)}" "${MASTER:=}" "${SENTINELS:=}" "${TLS:=no}" "${TLS_DIR:=/run/tls}"
: "${CONF:=/etc/novacron-cache}" "${RUN:=/run/novacron-cache}" "${SECRETS:=/run/secrets}" "${DATA:=/data}"
: "${SERVER:=valkey-server}" "${CLI:=valkey-cli}" "${BIND:=* -::*}"

admin=$(cat "$SECRETS/cache_admin_password")
application=$(cat "$SECRETS/cache_password")
: "${admin:?CACHE_ADMIN_PASSWORD is empty: set it in .env}" "${application:?CACHE_PASSWORD is empty: set it in .env}"
case $admin$application in
  *[!A-Za-z0-9._~+/=-]*)
    echo "passwords may hold letters, digits and ._~+/=- only" >&2
    exit 64
    ;;
esac

digest() {
  printf %s "$1" | sha256sum | cut -d' ' -f1
}

# Usage: users FILE: switches the users of a file on, with the digests of their passwords.
users() {
  sed -e "s/^user default off resetpass /user default on resetpass #$(digest "$admin") /" \
    -e "s/^user cache off resetpass /user cache on resetpass #$(digest "$application") /" "$1" >"$RUN/users.acl"
}

# Usage: ask HOST:PORT COMMAND...
ask() {
  address=$1
  shift
  secure=
  [ "$TLS" = no ] || secure="--tls --cacert $TLS_DIR/ca.crt"
  # shellcheck disable=SC2086 # several words, or none
  REDISCLI_AUTH=$admin timeout 2 "$CLI" $secure -h "${address%:*}" -p "${address##*:}" "$@" 2>/dev/null
}

# Prints the host:port of the master: as a sentinel says; else as it was when this server stopped; else the first one.
master() {
  for sentinel in $SENTINELS; do
    found=$(ask "$sentinel" sentinel get-master-addr-by-name mymaster | paste -s -d: -) || continue
    case $found in
      ?*:[0-9]*)
        echo "$found"
        return
        ;;
    esac
  done
  if [ -s "$DATA/server.conf" ]; then
    found=$(sed -n 's/^replicaof \(.*\) \([0-9]*\)$/\1:\2/p' "$DATA/server.conf" | tr -d '"')
    echo "${found:-$NAME:$PORT}"
  else
    echo "$MASTER"
  fi
}

# Prints what every server is told, a line for each option.
common() {
  if [ "$TLS" = no ]; then
    echo "port $PORT"
  else
    printf 'port 0\ntls-port %s\ninclude %s/tls.conf\n' "$PORT" "$CONF"
  fi
  printf 'bind %s\naclfile %s/users.acl\ndir %s\n' "$BIND" "$RUN" "$DATA"
}

case $role in
  server)
    users "$CONF/users.acl"
    now=$(master)
    {
      printf 'include %s/node.conf\ninclude %s/replicated.conf\n' "$CONF" "$CONF"
      common
      printf 'masteruser default\nmasterauth "%s"\n' "$admin"
      printf 'replica-announce-ip %s\nreplica-announce-port %s\n' "$NAME" "$PORT"
      [ "$now" = "$NAME:$PORT" ] || echo "replicaof ${now%:*} ${now##*:}"
    } >"$DATA/server.conf.new"
    mv "$DATA/server.conf.new" "$DATA/server.conf"
    exec "$SERVER" "$DATA/server.conf"
    ;;
  cluster)
    users "$CONF/users.acl"
    {
      printf 'include %s/node.conf\ninclude %s/cluster.conf\n' "$CONF" "$CONF"
      common
      printf 'masteruser default\nmasterauth "%s"\n' "$admin"
      echo "cluster-announce-hostname $NAME"
      # A certificate names servers, not addresses.
      [ "$TLS" = no ] || printf 'tls-cluster yes\ncluster-preferred-endpoint-type hostname\n'
    } >"$DATA/server.conf"
    exec "$SERVER" "$DATA/server.conf"
    ;;
  sentinel)
    users "$CONF/sentinel-users.acl"
    {
      if [ -s "$DATA/sentinel.conf" ]; then
        # What it learned stays; what it is told may have changed since.
        grep -Ev '^(include|port|bind|aclfile|dir|tls-[a-z-]+|sentinel (auth|sentinel)-(user|pass)) ' \
          "$DATA/sentinel.conf"
      else
        sed -e "s/^sentinel monitor mymaster .*/sentinel monitor mymaster ${MASTER%:*} ${MASTER##*:} 2/" \
          -e '/^port /d' -e '/^bind /d' "$CONF/sentinel.conf"
        printf 'sentinel announce-hostnames yes\nsentinel announce-ip %s\nsentinel announce-port %s\n' "$NAME" "$PORT"
      fi
      common
      printf 'sentinel auth-user mymaster default\nsentinel auth-pass mymaster %s\n' "$admin"
      printf 'sentinel sentinel-user default\nsentinel sentinel-pass %s\n' "$admin"
    } >"$DATA/sentinel.conf.new"
    mv "$DATA/sentinel.conf.new" "$DATA/sentinel.conf"
    exec "$SERVER" "$DATA/sentinel.conf" --sentinel
    ;;
  *)
    echo "unknown role '$role': expected server, cluster or sentinel" >&2
    exit 64
    ;;
esac
