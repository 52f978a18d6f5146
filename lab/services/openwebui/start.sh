#!/usr/bin/env bash
# Open WebUI's start script, as far as its secret key goes: from the environment, else from the file that is named, else from
# one it makes here, inside the container, which is gone with the container.
cd /app/backend || exit 1
key_file=${WEBUI_SECRET_KEY_FILE:-.webui_secret_key}
PORT=${PORT:-8080}
HOST=${HOST:-0.0.0.0}

if [ -z "$WEBUI_SECRET_KEY" ] && [ -z "$WEBUI_JWT_SECRET_KEY" ]; then
  echo "Loading WEBUI_SECRET_KEY from file, not provided as an environment variable."
  if [ ! -e "$key_file" ]; then
    echo "Generating WEBUI_SECRET_KEY"
    head -c 12 /dev/random | base64 >"$key_file" || exit 1
  fi
  echo "Loading WEBUI_SECRET_KEY from $key_file"
  WEBUI_SECRET_KEY=$(cat "$key_file") || exit 1
fi

export WEBUI_SECRET_KEY HOST PORT PYTHONPATH=/opt/stand-in/lib
exec python3 -S -u -m lab.services.stand_in.openwebui
