#!/usr/bin/env bash
# Installs all dependencies of a fresh clone inside the clone. Called by `make setup`; fast if nothing has changed.
#
#   setup.sh packages   Python packages and ROS 2 in .venv
#   setup.sh messages   our messages in install; needs the packages
#
# If a ROS installation is sourced, it is used; otherwise ROS 2 Jazzy is installed from wheels (requirements-ros.txt).
# PYTHON is the Python that creates .venv (default: python3).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
venv=$root/.venv
python=$venv/bin/python
logs=$root/build/setup
needed_kib=$((6 * 1024 * 1024))

say() { printf 'setup: %s\n' "$*"; }
fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 2
}

# --- requirements of the machine

check_python() { # PYTHON → fails unless it can be used
  command -v "$1" >/dev/null ||
    fail "expected Python 3.10 to 3.13, but $1 does not exist: make setup PYTHON=/path/to/python3"
  local version
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    fail "expected Python 3.10 to 3.13, but $1 does not start: make setup PYTHON=/path/to/python3"
  case $version in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) fail "expected Python 3.10 to 3.13, got $version ($(command -v "$1")): make setup PYTHON=/path/to/python3" ;;
  esac
}

check_tools() { # PYTHON → fails unless messages can be compiled for it
  command -v "${CXX:-c++}" >/dev/null || fail "expected a C++ compiler (${CXX:-c++}), found none: sudo apt install g++"
  command -v cmake >/dev/null || fail "expected cmake, found none: sudo apt install cmake"
  command -v make >/dev/null || fail "expected make, found none: sudo apt install make"
  "$1" -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h")).close()' 2>/dev/null ||
    fail "the headers of $("$1" --version) are missing: sudo apt install python3-dev"
}

check_disk() {
  local free_kib
  free_kib=$(df -Pk "$root" | awk 'NR == 2 { print $4 }')
  ((free_kib >= needed_kib)) ||
    fail "expected 6 GB free in $root, got $((free_kib / 1024 / 1024)) GB: free some space, or clone to a larger disk"
}

check_same_python() { # fails if PYTHON has another version than .venv
  local wanted ours
  [[ -n ${PYTHON:-} && $PYTHON != python3 ]] || return 0
  wanted=$("$PYTHON" --version 2>&1) || fail "expected Python 3.10 to 3.13, but $PYTHON does not start"
  ours=$("$python" --version)
  [[ ${wanted%.*} == "${ours%.*}" ]] || fail "expected $wanted, but .venv uses $ours: run make clean first"
}

# --- selection of ROS: "system <distribution>" or "wheels"

ros_in_shell() { # PYTHON → the ROS that it can use in this shell
  if [[ -z ${ROS_DISTRO:-} ]]; then
    echo wheels
  elif "$1" -c 'import rclpy' 2>/dev/null; then
    echo "system $ROS_DISTRO"
  else
    fail "ROS $ROS_DISTRO is sourced, but $("$1" --version) ($1) cannot import its rclpy: make setup PYTHON=/usr/bin/python3"
  fi
}

check_same_ros() { # OURS → fails if .venv was made for another ROS than this shell's
  local here=wheels
  [[ -z ${ROS_DISTRO:-} ]] || here="system $ROS_DISTRO"
  [[ $1 == "$here" ]] && return
  case $1 in
    wheels) fail ".venv uses ROS wheels, but ROS $ROS_DISTRO is sourced: run make clean, or use a shell without ROS" ;;
    *) fail ".venv uses ROS ${1#system }, which is not sourced: source /opt/ros/${1#system }/setup.bash" ;;
  esac
}

check_wheels() { # wheels exist for one platform only
  [[ $(uname -sm) == "Linux x86_64" ]] ||
    fail "expected x86-64 Linux for ROS wheels, got $(uname -sm): install ROS 2, source it, and run make setup again"
  local installed
  installed=$(compgen -G '/opt/ros/*/setup.bash' | tail -n 1) || return 0
  say "using ROS wheels, because $installed is not sourced; to use it, stop, source it and run make setup again"
}

# --- .venv

make_venv() { # RCLPY SOURCE → .venv with pip
  if [[ ! -x $python ]] || ! "$python" -m pip --version >/dev/null 2>&1; then
    local base=${PYTHON:-python3} options=()
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "$("$base" --version) has no venv module: sudo apt install python3-venv"
    [[ $1 == wheels ]] || options=(--system-site-packages)
    "$base" -m venv --clear "${options[@]}" "$venv"
  fi
  echo "$1" >"$venv/ros"
}

install_with_uv() { # ARGUMENTS of pip install → fails unless uv has installed them, in a sixth of pip's time
  local cache=$venv/uv-cache status=0
  "$python" -m pip install --quiet --disable-pip-version-check --retries 0 --constraint constraints.txt uv || return
  [[ -z ${PIP_INDEX_URL:-} ]] || export UV_DEFAULT_INDEX=$PIP_INDEX_URL
  [[ -z ${PIP_FIND_LINKS:-} ]] || export UV_FIND_LINKS=${PIP_FIND_LINKS// /,}
  "$venv/bin/uv" pip install --quiet --python "$python" --cache-dir "$cache" "$@" || status=$?
  rm -rf "$cache"
  return "$status"
}

install_packages() { # ROS
  # Python compiles the files that are imported.
  local arguments=(--editable '.[test]') log=$logs/pip.log
  if [[ $1 == wheels ]]; then
    unset PYTHONPATH
    arguments+=(--requirement requirements-ros.txt)
  elif ! command -v colcon >/dev/null; then
    arguments+=(colcon-common-extensions)
  fi
  if [[ $1 != wheels && $("$python" -c 'import numpy; print(numpy.__version__[:2])' 2>/dev/null) == 1. ]]; then
    # The compiled messages of this ROS do not load with NumPy 2, which constraints.txt may require.
    echo 'numpy<2' >"$logs/constraints.txt"
    arguments+=(--constraint "$logs/constraints.txt")
  elif [[ -f constraints.txt ]]; then
    arguments+=(--constraint constraints.txt)
  fi
  # uv does not see the packages of a system ROS. If it fails, pip tries again, with all its own settings.
  [[ $1 == wheels ]] && install_with_uv "${arguments[@]}" >"$logs/uv.log" 2>&1 && return
  "$python" -m pip install --quiet --disable-pip-version-check --retries 2 --no-compile "${arguments[@]}" >"$log" 2>&1 &&
    return
  if grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Network is unreachable' "$log"; then
    fail "pip cannot reach its package index: check the network or pip's proxy, then run make setup again ($log)"
  elif grep -q 'No space left on device' "$log"; then
    fail "the disk is full: 6 GB are needed in $root and, temporarily, in ${TMPDIR:-/tmp}"
  fi
  tail -n 15 "$log" >&2
  fail "pip failed; see $log"
}

# --- our messages

repair_wheels() { # replaces include folders of the build machine in the wheels' CMake files
  local include numpy_include
  include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  numpy_include=$("$python" -c 'import numpy; print(numpy.get_include())')
  { grep -rlZ --include='*.cmake' /opt/python/ "$venv/share" || true; } | xargs -0 -r sed -i -E \
    -e "s|/opt/python/[^;\"]*/numpy/[^;\"]*include|$numpy_include|g" \
    -e "s|/opt/python/[^;\"]*/include/python3\.[0-9]+|$include|g"
}

write_tf2_msgs() { # FOLDER: writes a package with the only message of tf2_msgs that we use, because there is no wheel
  mkdir -p "$1/msg"
  "$python" - "$1/msg/TFMessage.msg" <<'PYTHON'
import sys
from pathlib import Path

from rosbags.typesys import Stores, get_typestore

definition, _ = get_typestore(Stores.ROS2_JAZZY).generate_msgdef("tf2_msgs/msg/TFMessage", ros_version=2)
Path(sys.argv[1]).write_text(definition.split("====")[0])  # the types it is made of follow, after lines of "="
PYTHON
  cat >"$1/package.xml" <<'XML'
<package format="3">
  <name>tf2_msgs</name>
  <version>0.36.0</version>
  <description>TFMessage, as rosbags defines it</description>
  <maintainer email="nobody@example.com">nobody: made by setup.sh</maintainer>
  <license>BSD-3-Clause</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>geometry_msgs</depend>
  <exec_depend>rosidl_default_runtime</exec_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
XML
  cat >"$1/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.16)
project(tf2_msgs)
find_package(ament_cmake REQUIRED)
find_package(geometry_msgs REQUIRED)
find_package(rosidl_default_generators REQUIRED)
rosidl_generate_interfaces(${PROJECT_NAME} msg/TFMessage.msg DEPENDENCIES geometry_msgs)
ament_export_dependencies(rosidl_default_runtime)
ament_package()
CMAKE
}

build_messages() { # ROS → install
  local packages=("$root/build/source") log=$logs/colcon.log name
  say "building the messages into install (half a minute)"
  # CMake cannot export include folders inside the source folder, such as NumPy's in .venv. So build in another folder.
  mkdir -p build/source
  for name in CMakeLists.txt package.xml setup.cfg config launch msg multihmr2_ros scripts; do
    [[ ! -e $name ]] || ln -sfn "../../$name" "build/source/$name"
  done
  (
    export PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv
    if [[ $1 == wheels ]]; then
      unset PYTHONPATH LD_LIBRARY_PATH COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
      export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
      repair_wheels
      write_tf2_msgs "$root/build/tf2_msgs"
      packages+=("$root/build/tf2_msgs")
    fi
    # --symlink-install: edited launch and configuration files take effect without another build.
    colcon --log-base build/log build --merge-install --symlink-install --build-base build/colcon \
      --install-base install --paths "${packages[@]}" --event-handlers console_cohesion+ \
      --cmake-args "-DPython3_EXECUTABLE=$python" -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release
  ) >"$log" 2>&1 && return
  tail -n 30 "$log" >&2
  fail "colcon failed; see $log"
}

# --- detection of changes since the last call

fingerprint() { # TEXT FILE...
  local text=$1
  shift
  { echo "$text" && cat "$@"; } | sha256sum
}

packages_fingerprint() { # ROS
  local files=(setup.cfg setup.py pyproject.toml requirements-ros.txt)
  [[ ! -f constraints.txt ]] || files+=(constraints.txt)
  fingerprint "$1 $root $("$python" --version)" "${files[@]}"
}

build_fingerprint() { # ROS. Of files linked into install, only the names matter, because the links stay current.
  local folders=(multihmr2_ros scripts) folder
  for folder in config launch; do [[ ! -d $folder ]] || folders+=("$folder"); done
  fingerprint "$1 $(find "${folders[@]}" -type f ! -name '*.pyc' | sort)" \
    "$venv/setup.stamp" CMakeLists.txt package.xml msg/*.msg
}

is_current() { # STAMP FINGERPRINT
  [[ -f $1 && $(<"$1") == "$2" ]]
}

install_changed_packages() {
  local ros base=${PYTHON:-python3}
  if [[ -x $python ]]; then
    check_same_python
    base=$python
  fi
  check_python "$base"
  if [[ -f $venv/ros ]]; then
    ros=$(<"$venv/ros")
    check_same_ros "$ros"
  else
    ros=$(ros_in_shell "$base")
  fi
  is_current "$venv/setup.stamp" "$( [[ ! -x $python ]] || packages_fingerprint "$ros")" && return
  check_tools "$base"
  check_disk
  [[ $ros != wheels ]] || check_wheels
  mkdir -p "$logs"
  say "installing Python packages into .venv (2.5 GB, a few minutes)"
  make_venv "$ros"
  install_packages "$ros"
  packages_fingerprint "$ros" >"$venv/setup.stamp"
}

build_changed_messages() {
  local ros stamp=$root/build/setup.stamp
  ros=$(<"$venv/ros")
  [[ -d install ]] && is_current "$stamp" "$(build_fingerprint "$ros")" && return
  check_tools "$python"
  mkdir -p "$logs"
  build_messages "$ros"
  build_fingerprint "$ros" >"$stamp"
}

case ${1:-} in
  packages) install_changed_packages ;;
  messages) build_changed_messages ;;
  *) fail "expected 'packages' or 'messages', got '${1:-}': run make setup" ;;
esac
