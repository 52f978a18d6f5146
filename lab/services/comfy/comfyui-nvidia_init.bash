#!/bin/bash
# The stand-in of mmartial/comfyui-nvidia-docker's start-up script: the same user switch, the same checks in the same order
# with the same texts, run by the same bash under `set -e` with the real sudo, usermod and su. What would come from the
# internet (git, pip, the virtual environment's contents) comes from comfy-tools.bash. DOMAIN.md has the contract.

set -e

error_exit() {
  echo "!! ERROR: $*"
  echo "!! Exiting script (ID: $$)"
  exit 1
}

ok_exit() {
  echo "$*"
  echo "++ Exiting script (ID: $$)"
  exit 0
}

source /comfyui-nvidia_config.sh || error_exit "Failed to load config: /comfyui-nvidia_config.sh"
source /opt/stand-in/comfy-tools.bash

whoami=$(whoami)
script=$0
unset_value="VALUE_TO_IGNORE"

printf '\n\n======================================\n'
echo "=================== Starting script (ID: $$)"
echo "== Running $(basename "$script") in $(dirname "$script") as ${whoami}"
echo "  - script_fullname: ${script}"
echo " - started with umask: $(umask)"
umask "${UMASK:-0022}"
echo "=> umask: $(umask)"

write_shared() { # file, value: readable and writable for the user after the switch
  rm -f "$1"
  echo -n "$2" >"$1"
  chmod 777 "$1"
}

memory=/tmp/comfy_init
if [ ! -d $memory ]; then mkdir $memory; chmod 777 $memory; fi

# A value that is not given is what it was when this container first started.
remember() { # variable, default
  local file=$memory/comfy_$3
  if [ -z "${!1+x}" ] && [ -f "$file" ]; then printf -v "$1" '%s' "$(cat "$file")"; fi
  if [ -z "${!1}" ]; then printf -v "$1" '%s' "$2"; fi
  write_shared "$file" "${!1}"
  echo "-- $1: \"${!1}\""
}
remember WANTED_UID 1024 user_uid
remember WANTED_GID 1024 user_gid
remember SECURITY_LEVEL normal security_level
remember ALLOW_GIT_URL_INSTALL false allow_git_url_install
remember ALLOW_PIP_INSTALL false allow_pip_install
remember NETWORK_MODE personal_cloud network_mode
remember BASE_DIRECTORY "$unset_value" base_directory
if [ "$BASE_DIRECTORY" != "$unset_value" ] && [ ! -d "$BASE_DIRECTORY" ]; then
  error_exit "BASE_DIRECTORY requested but not found or not a directory ($BASE_DIRECTORY)"
fi
echo "== Most Environment variables set"

override=$memory/comfy_run.sh
if [ -n "$*" ]; then
  echo "!! Seeing command line override, placing it in $override: $*"
  write_shared $override "$*"
fi

echo "== Extracting base image information"
echo "-- Base image details (from /etc/image_base.txt):"
cat /etc/image_base.txt
COMFYUSER_DIR=$(cat /etc/comfyuser_dir)
echo "-- COMFYUIUSER_DIR: \"${COMFYUSER_DIR}\""
BUILD_BASE=$(cat /etc/build_base.txt)
echo "-- BUILD_BASE: \"${BUILD_BASE}\""

new_gid=$(id -g)
new_uid=$(id -u)
echo "== user ($whoami)"
echo "  uid: $new_uid / WANTED_UID: $WANTED_UID"
echo "  gid: $new_gid / WANTED_GID: $WANTED_GID"

save_env() {
  echo "-- Saving environment variables to $1"
  env | sort >"$1"
  chmod 755 "$1"
}

# Line by line, as the real one: a name that bash cannot hold (a dot in it, or the rest of a value of several lines) ends it.
load_env() {
  echo "-- Loading environment variables from $1 (overwrite existing: true) (ignorelist: $ENV_IGNORELIST) (obfuscate: $ENV_OBFUSCATE_PART)"
  local key value shown part
  while IFS='=' read -r key value; do
    if [[ " $ENV_IGNORELIST " == *" $key "* ]]; then continue; fi
    shown=$value
    for part in $ENV_OBFUSCATE_PART; do
      if [[ "$key" == *"$part"* ]]; then shown="**OBFUSCATED**"; fi
    done
    if [ -z "${!key}" ]; then
      echo "  ++ Setting environment variable $key [$shown]"
    elif [ "${!key}" != "$value" ]; then
      echo "  @@ Overwriting environment variable $key -> [$shown]"
    else
      echo "  == Environment variable $key [$shown] already set and value is unchanged"
      continue
    fi
    export "$key=$value"
  done <"$1"
}

lower() { tr '[:upper:]' '[:lower:]' <<<"$1"; }
FORCE_CHOWN=$(lower "${FORCE_CHOWN:-false}")

if [ "$whoami" == "comfytoo" ]; then
  echo "-- Running as comfytoo, will switch comfy to the desired UID/GID"
  if [ "$FORCE_CHOWN" != "false" ]; then
    echo "-- Force chown mode enabled, will force change directory ownership as comfy user during script rerun (might be slow)"
    sudo touch /etc/comfy_force_chown
  fi
  sudo groupmod -o -g "${WANTED_GID}" comfy || error_exit "Failed to set GID of comfy user"
  sudo usermod -o -u "${WANTED_UID}" comfy || error_exit "Failed to set UID of comfy user"
  sudo chown -R "${WANTED_UID}:${WANTED_GID}" /home/comfy || error_exit "Failed to set owner of /home/comfy"
  sudo chown "${WANTED_UID}:${WANTED_GID}" "${COMFYUSER_DIR}" || error_exit "Failed to set owner of ${COMFYUSER_DIR}"
  save_env /tmp/comfytoo_env.txt
  echo "-- Restarting as comfy user with UID ${WANTED_UID} GID ${WANTED_GID}"
  sudo su comfy "$script" || error_exit "subscript failed"
  ok_exit "Clean exit"
fi

if [ "$WANTED_GID" != "$new_gid" ] || [ "$WANTED_UID" != "$new_uid" ]; then
  error_exit "comfy MUST be running as UID ${WANTED_UID} GID ${WANTED_GID}, current UID ${new_uid} GID ${new_gid}"
fi

printf '\n== Running as comfy\n'
if [ -f /tmp/comfytoo_env.txt ]; then
  echo "-- Loading not already set environment variables from /tmp/comfytoo_env.txt"
  load_env /tmp/comfytoo_env.txt
fi
umask "${UMASK:-0022}"
echo "== umask: $(umask)"

if [ -f $override ]; then
  printf '\n%s\n' "== Running provided command line override from $override"
  sudo chmod +x $override || error_exit "Failed to make $override executable"
  $override
  exit 0
fi

source /opt/stand-in/comfy-run.bash
