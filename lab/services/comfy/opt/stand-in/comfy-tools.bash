# What the start-up script would get from the internet. Sourced by it; nothing here is on the PATH.

# How long things take is the lab's to set (one stage, or the whole first run), in a file that it mounts and may change at
# any time; the container's environment is not the lab's.
setting() { sed -n "s/.*\"$1\" *: *\([0-9.]*\).*/\1/p" /etc/lab/stand-in.json 2>/dev/null || true; }
first_run_stages=14
stage() {
  local seconds whole
  seconds=$(setting comfy_step_seconds)
  whole=$(setting comfy_first_run_seconds)
  if [ -n "$whole" ]; then seconds=$(awk "BEGIN { print $whole / $first_run_stages }"); fi
  sleep "${seconds:-0.5}"
}

git() {
  case "$1" in
  clone) clone "$2" "$3" ;;
  remote) origin "$2" "$3" "$4" ;;
  esac
}

# "comfy_offline": 1 in the lab's file: no name resolves, in the words of git and pip.
offline() { [ "$(setting comfy_offline)" == 1 ]; }

clone() { # address, folder
  echo "Cloning into '$2'..." >&2
  stage
  if offline; then
    echo "fatal: unable to access '$1/': Could not resolve host: github.com" >&2
    return 128
  fi
  mkdir "$2" || return 128
  mkdir "$2"/{.git,models,input,output,custom_nodes,app,comfy}
  mkdir "$2"/models/{checkpoints,clip,clip_vision,configs,controlnet,diffusion_models,embeddings,loras,text_encoders,unet,upscale_models,vae,vae_approx}
  local kind
  for kind in "$2"/models/*; do : >"$kind/put_$(basename "$kind")_here"; done
  printf 'ref: refs/heads/master\n' >"$2/.git/HEAD"
  printf '%s\n' "$1" >"$2/.git/stand-in-origin"
  : >"$2/.git/index"
  printf '%s\n' comfyui-frontend-package torch torchvision torchaudio numpy pillow aiohttp >"$2/requirements.txt"
  echo comfyui_manager >"$2/manager_requirements.txt"
  printf '__version__ = "0.3.76"\n' >"$2/comfyui_version.py"
  printf '%s\n' 'import sys' 'sys.path.insert(0, "/opt/stand-in/lib")' \
    'from lab.services.stand_in.comfy import main' 'sys.exit(main())' >"$2/main.py"
}

# git's own two reasons to refuse a folder; both leave with 128, which `set -e` makes the end.
origin() { # get-url|set-url, origin, [address]
  if [ ! -s .git/HEAD ]; then
    echo "fatal: not a git repository (or any parent up to mount point /comfy)" >&2
    echo "Stopping at filesystem boundary (GIT_DISCOVERY_ACROSS_FILESYSTEM not set)." >&2
    return 128
  fi
  if [ "$(stat -c %u .git)" != "$(id -u)" ] || [ "$(stat -c %u .)" != "$(id -u)" ]; then
    echo "fatal: detected dubious ownership in repository at '$PWD'" >&2
    printf '%s\n\n\t%s\n' "To add an exception for this directory, call:" "git config --global --add safe.directory $PWD" >&2
    return 128
  fi
  if [ "$1" == get-url ]; then cat .git/stand-in-origin; else echo "$3" >.git/stand-in-origin; fi
}

make_venv() {
  stage
  mkdir -p venv/bin venv/lib/python3.12/site-packages || return 1
  ln -s /usr/bin/python3 venv/bin/python3 && ln -s python3 venv/bin/python
  printf 'home = /usr/bin\nversion = 3.12.3\n' >venv/pyvenv.cfg
  cat >venv/bin/activate <<'ACTIVATE'
VIRTUAL_ENV=/comfy/mnt/venv
PATH="$VIRTUAL_ENV/bin:$PATH"
export VIRTUAL_ENV PATH
ACTIVATE
}

packages=/comfy/mnt/venv/lib/python3.12/site-packages

# What pip has a record of is said and costs nothing: so a restart is quick though pip runs at every start. A package whose
# files are gone counts as installed, as with the real one.
pip_install() {
  local name fresh=""
  for name in "$@"; do
    if compgen -G "$packages/${name//-/_}-*.dist-info/top_level.txt" >/dev/null; then
      echo "Requirement already satisfied: $name in ./venv/lib/python3.12/site-packages"
    else
      echo "Collecting $name"
      fresh="$fresh $name"
    fi
  done
  if [ -z "$fresh" ]; then return 0; fi
  stage
  for name in $fresh; do
    if offline; then
      echo "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by 'NewConnectionError(\"HTTPSConnection(host='pypi.org', port=443): Failed to establish a new connection: [Errno -3] Temporary failure in name resolution\")': /simple/$name/"
      echo "ERROR: Could not find a version that satisfies the requirement $name (from versions: none)"
      echo "ERROR: No matching distribution found for $name"
      return 1
    fi
    if [ "$name" == torch ]; then download_torch; fi
    install_one "$name" || return 1
  done
  echo "Successfully installed$fresh"
}

pip_install_from() { # a file of requirements
  if [ ! -f "$1" ]; then
    echo "ERROR: Could not open requirements file: [Errno 2] No such file or directory: '$1'"
    return 1
  fi
  pip_install $(cat "$1")
}

version_of() {
  case "$1" in
  torch | torchaudio) echo 2.9.1+cu130 ;;
  torchvision) echo 0.24.1+cu130 ;;
  *) echo 1.0 ;;
  esac
}

record_of() { echo "$packages/${1//-/_}-$(version_of "$1").dist-info"; }

install_one() {
  local folder=$packages/${1//-/_} record
  record=$(record_of "$1")
  mkdir -p "$folder" "$record" || return 1
  : >"$folder/__init__.py"
  if [ "$1" == torch ]; then printf '%s\n' "__version__ = '2.9.1+cu130'" "cuda: Optional[str] = '13.0'" >"$folder/version.py"; fi
  basename "$folder" >"$record/top_level.txt"
}

# pip into a pipe writes one line for each file, before it fetches it.
download_torch() {
  local file
  for file in "torch-2.9.1+cu130-cp312-cp312-manylinux_2_28_x86_64.whl (614.9 MB)" \
    "nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl (423.1 MB)" \
    "nvidia_cudnn_cu13-9.13.0.50-py3-none-manylinux_2_27_x86_64.whl (366.2 MB)" \
    "nvidia_nccl_cu13-2.27.7-py3-none-manylinux2014_x86_64.whl (193.7 MB)" \
    "torchvision-0.24.1+cu130-cp312-cp312-manylinux_2_28_x86_64.whl (8.6 MB)"; do
    echo "Downloading $file"
    stage
  done
}
