#!/usr/bin/env bash
# Builds the CPU image of the Dockerfile on a machine without a Docker engine, then converts the
# demo and builds its engine inside. Debian's packages take the place of what an engine would
# download: debootstrap makes the base, whose Python 3.11 stands for that of the python image, and
# buildah runs the Dockerfile in a chroot. Nothing is left behind.
set -euo pipefail

usage() {
  cat <<USAGE
usage: sudo docker/build-cpu-without-engine.sh [--storage DIR] [--mirror URL]

  --storage DIR   where the image is built, and removed when tried: 8 GB (default: \$TMPDIR or /tmp)
  --mirror URL    of Debian (default: debootstrap's own, http://deb.debian.org/debian)

While the image is built, pip works in it as it does here: it sees this machine's settings, and the
certificates and folders of packages that they name.
USAGE
}

fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

read_options() {
  storage=${TMPDIR:-/tmp}
  mirror=
  while (($#)); do
    case $1 in
      -h | --help)
        usage
        exit
        ;;
      --storage | --mirror)
        (($# > 1)) || fail "$1 needs a value; see --help"
        printf -v "${1#--}" %s "$2"
        shift 2
        ;;
      *) fail "there is no option $1; see --help" ;;
    esac
  done
}

check_machine() {
  local tool missing=()
  for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  ((${#missing[@]} == 0)) ||
    fail "needs ${missing[*]}: run  apt-get install --no-install-recommends ${missing[*]}"
  ((EUID == 0)) || fail "only root can make a Debian base and enter it: run it with sudo"
  [[ -d $storage ]] || fail "there is no folder $storage: name another with --storage"
  storage=$(realpath "$storage")
  [[ $storage != *[[:space:]]* ]] ||
    fail "debootstrap cannot work in '$storage', which has a space: name another with --storage"
}

# All is in $work, so that removing it is enough; on one file system only, so that a mount that an
# interrupted debootstrap left is not followed; and again while something interrupted still writes.
clean_up() {
  local mount try
  while IFS= read -r mount; do
    umount "$mount" || true
  done < <(findmnt --list --noheadings --output TARGET | grep -F "$work/" | sort --reverse)
  for try in {1..10}; do
    rm -rf --one-file-system "$work" 2>/dev/null && return
    sleep "$try"
  done
  echo "${0##*/}: could not remove $work" >&2
}

# What `pip config list` tells of this machine: its files, then the environment, which wins.
read_pip_settings() {
  local listed line value
  declare -gA pip_settings=()
  command -v pip >/dev/null || return 0
  listed=$(pip config list)
  while IFS= read -r line; do
    [[ -n $line ]] || continue
    value=${line#*=}
    value=${value:1:-1} # it comes in quotes, with its line breaks as \n
    line=${line%%=*}
    pip_settings[${line#*.}]=${value//\\n/ }
  done < <(grep -v '^:env:' <<<"$listed" || true; grep '^:env:' <<<"$listed" || true)
  # Left alone, pip would look for certificates in the image.
  [[ -n ${pip_settings[cert]:-} || -z ${SSL_CERT_FILE:-} ]] || pip_settings[cert]=$SSL_CERT_FILE
}

# They go in as a file, since an argument of the build reaches pip only where the Dockerfile says so.
share_pip_settings() {
  local name word
  build_options=()
  ((${#pip_settings[@]})) || return 0
  echo '[global]' >"$work/pip.conf"
  build_options+=(--volume "$work/pip.conf:/etc/pip.conf:ro")
  for name in "${!pip_settings[@]}"; do
    echo "$name = ${pip_settings[$name]}" >>"$work/pip.conf"
    for word in ${pip_settings[$name]}; do
      case $word in
        file:///*/*) word=$(dirname "${word#file://}") ;; # an index links to folders beside it
      esac
      [[ $word != /* || $word == / || ! -e $word ]] || build_options+=(--volume "$word:$word:ro")
    done
  done
  # Who has told pip where to look has told it where PyTorch comes from.
  [[ -z ${pip_settings[index-url]:-}${pip_settings[extra-index-url]:-}${pip_settings[find-links]:-} ]] ||
    build_options+=(--build-arg PIP_EXTRA_INDEX_URL=)
}

make_base() {
  local container root
  container=$("${buildah[@]}" from scratch)
  root=$("${buildah[@]}" mount "$container")
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" \
    ${mirror:+"$mirror"} >"$work/debootstrap.log" 2>&1 || {
    tail -n 20 "$work/debootstrap.log" >&2
    fail "debootstrap could not make a Debian base; its last words are above"
  }
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  "${buildah[@]}" commit --quiet --rm "$container" localhost/base >/dev/null
}

# BASE is named although it is the default: buildah 1.28 takes a default for the name of an image.
build_image() {
  "${buildah[@]}" bud --isolation chroot --layers=false --format docker --pull=never \
    --build-arg BASE=cpu --build-arg CPU_IMAGE=localhost/base "${build_options[@]}" \
    --file "$checkout/Dockerfile" --tag localhost/dynexport "$checkout"
}

# By the image's own user and entry point, which `buildah run` would leave out.
try_image() {
  local entry demo=$checkout/examples/mnist/mnist-deit.pth
  container=$("${buildah[@]}" from --pull-never localhost/dynexport)
  "${buildah[@]}" copy --quiet "$container" "$demo" /demo/ >/dev/null
  entry=$(read_setting '{{index .Docker.Config.Entrypoint 0}}')
  run_inside id
  run_inside "$entry" doctor
  run_inside "$entry" convert /demo/mnist-deit.pth --ratio 0.7 -o mnist.onnx
  run_inside "$entry" verify mnist.onnx
  run_inside "$entry" build mnist.onnx --edition tensorrt-rtx -o mnist.engine
  run_inside ls -l /work
}

run_inside() {
  echo "\$ $*"
  "${buildah[@]}" run --isolation chroot "$container" -- "$@"
}

read_setting() {
  "${buildah[@]}" inspect --type image --format "$1" localhost/dynexport
}

report_image() {
  local image
  echo "user $(read_setting '{{.Docker.Config.User}}')," \
    "folder $(read_setting '{{.Docker.Config.WorkingDir}}')," \
    "health check $(read_setting '{{.Docker.Config.Healthcheck.Test}}')"
  for image in base dynexport; do
    echo "$image: $("${buildah[@]}" images --format '{{.Size}}' "localhost/$image")"
  done
}

time_step() {
  local start=$SECONDS
  "$2"
  echo "$1 in $((SECONDS - start)) s"
}

main() {
  read_options "$@"
  check_machine
  checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  work=$(mktemp -d "$storage/dynexport-image.XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT TERM # once the step under way has ended, too
  buildah=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)

  time_step "base made" make_base
  read_pip_settings
  share_pip_settings
  time_step "image built" build_image
  time_step "image tried" try_image
  report_image
}

main "$@"
