#!/bin/sh
# Runs the monitor, or says whether it answers: `run` or `health`.
#
# Passwords and the token are files, so that neither `docker inspect` nor a rendered model shows them. Only this process
# and its child have them in their environment.
set -eu

: "${SECRETS:=/run/secrets}" "${METRICS_PORT:=9091}" "${WEBUI_PORT:=8082}" "${NOVACRON_CACHE_NAMESPACE:=}"

# Usage: secret FILE VARIABLE: prints what a secret holds.
secret() {
  found=$(cat "$SECRETS/$1" 2>/dev/null || true)
  if [ -z "$found" ]; then
    echo "$2 is empty: set it in .env" >&2
    exit 64
  fi
  printf %s "$found"
}

case ${1:-} in
  run)
    if [ -z "$NOVACRON_CACHE_NAMESPACE" ]; then
      echo "CACHE_NAMESPACE is empty: set it in .env to the namespace of the application" >&2
      exit 64
    fi
    NOVACRON_CACHE_REDIS__PASSWORD=$(secret cache_password CACHE_PASSWORD)
    NOVACRON_CACHE_MONITOR__TOKEN=$(secret cache_monitor_token CACHE_MONITOR_TOKEN)
    export NOVACRON_CACHE_REDIS__PASSWORD NOVACRON_CACHE_MONITOR__TOKEN METRICS_PORT WEBUI_PORT
    exec novacron-cache monitor --log-json
    ;;
  health)
    # Whether the monitor answers, not whether the cache is well: that is what it is asked for.
    exec python3 - "$SECRETS/cache_monitor_token" "$METRICS_PORT" <<'PYTHON'
import sys
from http.client import HTTPConnection
from pathlib import Path

token = Path(sys.argv[1]).read_text().strip()
connection = HTTPConnection("127.0.0.1", int(sys.argv[2]), timeout=2.5)
connection.request("GET", "/health", headers={"Authorization": f"Bearer {token}"})
sys.exit(connection.getresponse().status not in (200, 503))
PYTHON
    ;;
  *) exit 64 ;;
esac
