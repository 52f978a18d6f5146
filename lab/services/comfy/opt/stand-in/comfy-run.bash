# The second half of the start-up script, as the user comfy: the checks, the installation, ComfyUI. Sourced by it.

USE_SOCAT=$(lower "${USE_SOCAT:-false}")
echo "== Using default behavior: ComfyUI listens on 0.0.0.0:8188"

remember_command() { # variable, default, name: what a restarted container was first given wins over its environment
  local file=$memory/comfy_$3
  if [ -f "$file" ]; then printf -v "$1" '%s' "$(cat "$file")"; fi
  if [ -z "${!1}" ]; then printf -v "$1" '%s' "$2"; fi
  if [ ! -f "$file" ]; then write_shared "$file" "${!1}"; fi
  echo "-- $1: \"${!1}\""
}
COMFY_CMDLINE_EXTRA=${COMFY_CMDLINE_XTRA:-$COMFY_CMDLINE_EXTRA}
remember_command COMFY_CMDLINE_BASE "python3 ./main.py --listen 0.0.0.0 --port 8188 --disable-auto-launch" cmdline_base
remember_command COMFY_CMDLINE_EXTRA "" cmdline_extra

printf '\n== Confirming we have the NVIDIA driver loaded and showing details for the seen GPUs\n'
if ! command -v nvidia-smi &>/dev/null; then error_exit "nvidia-smi not found"; fi
nvidia-smi || error_exit "Failed to run nvidia-smi"
driver_cuda=$(nvidia-smi | grep "CUDA Version" | awk -F': ' '{print $3}' | cut -d' ' -f1)
driver_major=${driver_cuda%%.*}
driver_minor=${driver_cuda#*.}
printf '\n%s\n' "-- Found Max driver CUDA version: $driver_cuda (major: $driver_major, minor: $driver_minor)"
if [ "$driver_major" -lt 12 ]; then
  error_exit "Driver CUDA version $driver_cuda is below minimum version 12, please upgrade your driver"
fi
image_cuda=${BUILD_BASE##*cuda}
echo "-- Found Max container CUDA version: $image_cuda (major: ${image_cuda%%.*}, minor: ${image_cuda#*.})"
if [ "$driver_minor" -gt "${image_cuda#*.}" ]; then
  echo "FYSA: The Driver CUDA supports a more recent version than the used container does. Consider using a more recent container version (if available)."
fi

# Existence, owner, then w, x, r, in this order; `stat` does not follow a symbolic link.
dir_validate() { # directory, "mount" for one that is mounted
  if [ ! -d "$1" ]; then error_exit "Directory $1 not found (or not a directory)"; fi
  if [ -z "$2" ] && [ -f /etc/comfy_force_chown ]; then
    echo "  ++ Attempting to recursively set ownership of $1 to ${WANTED_UID}:${WANTED_GID} (might take a long time)"
    sudo chown -R "${WANTED_UID}:${WANTED_GID}" "$1" || error_exit "Failed to set owner of $1"
  fi
  local owner hint=" -- recommended to start with the FORCE_CHOWN=yes environment varable enabled"
  owner=$(stat -c %u:%g "$1")
  if [ "$owner" != "${WANTED_UID}:${WANTED_GID}" ]; then
    if [ "$2" == mount ]; then
      hint=" -- FORCE_CHOWN will not work for this folder, it is a PATH mounted at container startup and requires a manual fix: chown -R ${WANTED_UID}:${WANTED_GID} foldername"
    fi
    error_exit "Directory $1 owned by unexpected user/group, expected ${WANTED_UID}:${WANTED_GID}, actual $owner$hint"
  fi
  if [ ! -w "$1" ]; then error_exit "Directory $1 not writeable"; fi
  if [ ! -x "$1" ]; then error_exit "Directory $1 not executable"; fi
  if [ ! -r "$1" ]; then error_exit "Directory $1 not readable"; fi
}
test_write() { # directory, what the failure says
  { touch "$1/.testfile" && rm -f "$1/.testfile"; } || error_exit "Failed to write to $2"
}

mnt=$COMFYUSER_DIR/mnt
printf '\n== Testing write access as the comfy user to the run directory\n'
dir_validate "$mnt" mount
test_write "$mnt" "$mnt"
for cache in pip_cache:PIP_CACHE_DIR:pip\ cache tmp:TMPDIR:tmp; do
  IFS=: read -r name variable words <<<"$cache"
  if [ -d "$mnt/$name" ]; then
    printf '\n%s\n' "== $mnt/$name present: Setting the $variable variable to use it"
    dir_validate "$mnt/$name"
    test_write "$mnt/$name" "$words directory as the comfy user"
    export "$variable=$mnt/$name"
  fi
done

DISABLE_UPGRADES=$(lower "${DISABLE_UPGRADES:-false}")
USE_UV=$(lower "${USE_UV:-false}")
if [ "$DISABLE_UPGRADES" == true ]; then
  echo "== Using alternate behavior: Disabling upgrade (including disabling USE_PIPUPGRADE)"
else
  echo "== Using default behavior: Enabling upgrades (behavior depends on USE_PIPUPGRADE)"
fi
if [ "$USE_UV" == true ]; then
  if [ -d "$mnt/uv_cache" ]; then dir_validate "$mnt/uv_cache"; else mkdir "$mnt/uv_cache"; fi
  printf '\n%s\n' "== Setting the UV_CACHE_DIR variable to $mnt/uv_cache"
  export UV_CACHE_DIR=$mnt/uv_cache
fi
echo '== PIP3_CMD: "pip3 install --upgrade"'

repository=https://github.com/Comfy-Org/ComfyUI.git
printf '\n== Obtaining the latest version of ComfyUI (if folder not present)\n'
cd "$mnt"
if [ ! -d ComfyUI ]; then
  printf '\n== Cloning ComfyUI\n'
  git clone $repository ComfyUI || error_exit "ComfyUI clone failed"
fi
printf '\n== Confirm the ComfyUI directory is present and we can write to it\n'
dir_validate "$mnt/ComfyUI"
test_write "$mnt/ComfyUI" "ComfyUI directory as the comfy user"
cd ComfyUI
remote=$(git remote get-url origin) # not a repository, or another's: `set -e` ends it here, with git's word alone
if [ "$remote" != $repository ]; then git remote set-url origin $repository; fi
echo "== ComfyUI origin set to: $(git remote get-url origin)"
cd "$mnt"

printf '\n%s\n' "== Check on BASE_DIRECTORY (if used / if using \"$unset_value\" then disable it)"
if [ "$BASE_DIRECTORY" == "$unset_value" ]; then BASE_DIRECTORY=""; fi
if [ -n "$BASE_DIRECTORY" ]; then
  dir_validate "$BASE_DIRECTORY" mount
  test_write "$BASE_DIRECTORY" BASE_DIRECTORY
fi

printf '\n== Validate/Create HuggingFace directory\n'
if [ ! -d HF ]; then
  printf '\n== Creating HF directory\n'
  mkdir HF
fi
dir_validate "$mnt/HF"
test_write "$mnt/HF" "HF directory as the comfy user"
export HF_HOME=$mnt/HF

printf '\n== if a venv is present, confirm we can write to it\n'
switched=true
if [ -d venv ]; then
  dir_validate "$mnt/venv"
  test_write "$mnt/venv" "venv directory as the comfy user"
  if [ ! -f venv/.build_base.txt ]; then echo ubuntu22_cuda12.3.2 >venv/.build_base.txt; fi
fi
printf '\n%s\n' "== Matching any existing venv to container's BUILD_BASE (${BUILD_BASE})"
if [ -d venv ]; then
  other=$(cat venv/.build_base.txt)
  if [ "$other" == "$BUILD_BASE" ]; then
    echo "== venv is for this BUILD_BASE (${BUILD_BASE})"
    switched=false
  else
    echo "== venv ($other) is not for this BUILD_BASE (${BUILD_BASE}), renaming it and seeing if a valid one is present"
    mv venv "venv-$other" || error_exit "Failed to rename venv to venv-$other"
    if [ -d "venv-$BUILD_BASE" ]; then mv "venv-$BUILD_BASE" venv; fi
  fi
fi
printf '\n== Create virtualenv for installation (if not present)\n'
if [ ! -d venv ]; then
  printf '\n== Creating virtualenv\n'
  make_venv || error_exit "Virtualenv creation failed"
  echo "$BUILD_BASE" >venv/.build_base.txt
fi
printf '\n== Confirming venv is writeable\n'
dir_validate "$mnt/venv"
test_write "$mnt/venv" "venv directory as the comfy user"
printf '\n== Activate the virtualenv\n'
if [ ! -f venv/bin/activate ]; then error_exit "virtualenv not created, please erase any venv directory"; fi
printf '\n  == Activating virtualenv\n'
source venv/bin/activate || error_exit "Virtualenv activation failed"
if [ "$DISABLE_UPGRADES" != true ]; then
  printf '\n  == Upgrading pip\n'
  pip_install pip || error_exit "Pip upgrade failed"
fi

printf '\n\n===================\n== Environment details:\n'
echo "  PATH: $PATH"
echo "  Python version: $(python3 --version)"
echo "  Pip version: pip 25.3 from /comfy/mnt/venv/lib/python3.12/site-packages/pip (python 3.12)"
echo "  python bin: $(command -v python3)"
printf '%s\n' "  pip bin: /comfy/mnt/venv/bin/pip3" "  git bin: /usr/bin/git" ""
echo "Installing comfy-cli"
pip_install comfy-cli || error_exit "Failed to install comfy-cli"

run_userscript() { # script, "skip" or "chmod": what to do with one that is not executable
  if [ ! -f "$1" ]; then
    echo "!! $1 not found, skipping it"
    return
  fi
  if [ ! -x "$1" ] && [ "$2" == skip ]; then
    echo "!! $1 not executable, skipping it"
    return
  elif [ ! -x "$1" ]; then
    echo "== Attempting to make user script executable"
    chmod +x "$1" || error_exit "Failed to make user script executable"
  fi
  local saved
  saved=/tmp/comfy_$(basename "$1")_env.txt
  rm -f "$saved" || error_exit "Failed to remove $saved"
  echo "++ Running user script: $1"
  "$1" || error_exit "User script ($1) failed or exited with an error, stopping further processing"
  if [ -f "$saved" ]; then load_env "$saved"; fi
  echo "-- User script completed: $1"
  echo ""
}

pip_install setuptools ninja cmake wheel packaging nvidia-ml-py || error_exit "Failed to install setuptools"
printf '\n%s\n' "== Checking for post-venv script: $mnt/postvenv_script.bash"
run_userscript "$mnt/postvenv_script.bash" chmod

if [ "$DISABLE_UPGRADES" == true ]; then
  echo "== Torch upgrade disabled by DISABLE_UPGRADES"
else
  printf '\n== Pre-installing/Upgrading torch\n'
  echo "== Installing torch using pip with index url: https://download.pytorch.org/whl/cu130"
  echo "Installing: torch torchvision torchaudio --index-url https://download.pytorch.org/whl/cu130"
  pip_install torch torchvision torchaudio || error_exit "Torch installation failed"
  cd ComfyUI
  printf "\n== Installing/Updating from ComfyUI's requirements\n"
  pip_install_from requirements.txt || error_exit "ComfyUI requirements install/upgrade failed"
  printf '\n== Installing Huggingface Hub\n'
  pip_install huggingface_hub || error_exit "HuggingFace Hub install/upgrade failed"
fi
cd "$mnt/ComfyUI"
export COMFYUI_PATH=$PWD
printf '\n%s\n' "-- COMFYUI_PATH: ${COMFYUI_PATH}"

nodes=${BASE_DIRECTORY:-$COMFYUI_PATH}/custom_nodes
if [ ! -d "$nodes/ComfyUI-Manager" ]; then
  echo "!! Legacy ComfyUI Manager not found, using new ComfyUI Manager"
  echo "== Using new ComfyUI Manager"
  echo "== Installing/Updating from ComfyUI Manager's requirements"
  pip_install_from manager_requirements.txt || error_exit "ComfyUI Manager requirements install/upgrade failed"
  COMFY_CMDLINE_EXTRA="$COMFY_CMDLINE_EXTRA --enable-manager"
else
  echo "== Using legacy ComfyUI Manager"
fi
settings=${BASE_DIRECTORY:-$COMFYUI_PATH}/user/__manager/config.ini
if [ ! -f "$settings" ]; then
  printf '\n== ComfyUI-Manager config file: NOT_FOUND\n\n'
  echo "== ComfyUI-Manager NOT_FOUND not found-- script potentially never run before. You will need to run ComfyUI-Manager a first time for the configuration file to be generated, we can not attempt to update its security level yet -- if this keeps occurring, please let the developer know so he can investigate. Thank you"
else
  printf '\n%s\n\n' "== ComfyUI-Manager config file: $settings"
  sed -i "s/^security_level *=.*/security_level = ${SECURITY_LEVEL}/" "$settings"
  echo "  -- ComfyUI-Manager (should show: ${SECURITY_LEVEL}): $(grep security_level "$settings")"
fi
printf '\n%s\n' "== SWITCHED_VENV: $switched"

if [ -n "$BASE_DIRECTORY" ]; then
  dir_validate "$BASE_DIRECTORY" mount
  printf '\n%s\n' "== Setting base_directory: $BASE_DIRECTORY"
  echo "++ Logic to move content from ComfyUI directories to the new base_directory"
  for name in models input output temp user custom_nodes; do
    from=$COMFYUI_PATH/$name to=$BASE_DIRECTORY/$name
    if [ -d "$from" ] && [ ! -d "$to" ]; then
      echo "  ++ Moving $from to $to"
      mv "$from" "$to" || error_exit "Failed to move $from to $to"
    elif [ ! -d "$to" ]; then
      echo "  ++ $from not found, $to does not exist: creating destination directory"
      mkdir -p "$to" || error_exit "Failed to create $to"
    else
      echo "  -- Both $from (in) and $to (out) exist, skipping move."
    fi
    dir_validate "$to"
    test_write "$to" "$to"
  done
  echo "  == Checking models directory"
  present=$(find "$BASE_DIRECTORY/models" -mindepth 1 -maxdepth 1 -type d -printf '%f\n')
  for name in $(printf '%s\n' $present checkpoints loras vae configs clip_vision style_models diffusers vae_approx gligen \
    upscale_models embeddings hypernetworks photomaker classifiers | sort -u); do
    to=$BASE_DIRECTORY/models/$name
    if [ ! -d "$to" ]; then
      echo "    ++ Creating $to"
      mkdir -p "$to" || error_exit "Failed to create $to"
    fi
    dir_validate "$to"
    test_write "$to" "$to"
  done
  mkdir -p "$COMFYUI_PATH/user"
  COMFY_CMDLINE_EXTRA="$COMFY_CMDLINE_EXTRA --base-directory $BASE_DIRECTORY"
fi
export COMFY_CMDLINE_EXTRA
echo "!! COMFY_CMDLINE_EXTRA extended, make sure to use it in user script (if any): ${COMFY_CMDLINE_EXTRA}"
printf '\n%s\n' "== Container directory: $PWD"
save_env /tmp/comfy_env.txt

if [ -d /userscripts_dir ]; then
  echo "== Running user scripts from directory: /userscripts_dir"
  # Like the real one: a folder that cannot be listed, or holds none, leaves nothing to run (`ls` complains, `sort` succeeds).
  for user_script in $(ls /userscripts_dir/*.sh | sort); do run_userscript "$user_script" skip; done
fi
printf '\n%s\n' "== Checking for primary user script: $mnt/user_script.bash"
run_userscript "$mnt/user_script.bash" chmod
save_env /tmp/comfy_env_final.txt

printf '\n===================\n== Running ComfyUI\n'
echo "-- Command line run: ${COMFY_CMDLINE_BASE} ${COMFY_CMDLINE_EXTRA}"
# Unquoted on purpose: the real one splits at blanks and knows no quotes.
${COMFY_CMDLINE_BASE} ${COMFY_CMDLINE_EXTRA} || error_exit "ComfyUI failed or exited with an error"
ok_exit "Clean exit"
