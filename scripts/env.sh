# shellcheck shell=bash disable=SC1091
# Source this file (bash or zsh), from any folder, after `make setup`, to use the commands, rclpy and our messages.

if [ -n "${BASH_VERSION:-}" ]; then
  _multihmr2_root=${BASH_SOURCE[0]}
elif [ -n "${ZSH_VERSION:-}" ]; then
  eval '_multihmr2_root=${(%):-%x}' # zsh's own syntax, which bash cannot read
else
  echo "env.sh: expected bash or zsh, got another shell: start one of them first" >&2
  return 2
fi
_multihmr2_root=$(cd "$(dirname "$_multihmr2_root")/.." && pwd -P)

_multihmr2_prepend() { # NAME FOLDER: put the folder first in the list that the variable NAME holds, once
  eval "_multihmr2_list=\${$1:-}"
  case ":$_multihmr2_list:" in
    *":$2:"*) ;;
    *) export "$1=$2${_multihmr2_list:+:$_multihmr2_list}" ;;
  esac
}

if [ ! -f "$_multihmr2_root/.venv/ros" ] || [ ! -d "$_multihmr2_root/install" ]; then
  echo "env.sh: expected .venv and install in $_multihmr2_root, found none: run make setup there first" >&2
  unset -f _multihmr2_prepend
  unset _multihmr2_root
  return 2
fi

if [ "$(cat "$_multihmr2_root/.venv/ros")" = wheels ]; then
  for _multihmr2_folder in "$_multihmr2_root"/install/lib/python3*/site-packages; do
    _multihmr2_prepend PYTHONPATH "$_multihmr2_folder"
  done
  _multihmr2_prepend AMENT_PREFIX_PATH "$_multihmr2_root/.venv"
  _multihmr2_prepend AMENT_PREFIX_PATH "$_multihmr2_root/install"
  _multihmr2_prepend LD_LIBRARY_PATH "$_multihmr2_root/install/lib"
  # When Python starts, the wheels add their libraries, unless this variable is set; another environment may have set it.
  unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
else
  case $- in *u*) _multihmr2_list=-u ;; *) _multihmr2_list=+u ;; esac
  set +u # colcon's files read unset variables
  if [ -n "${BASH_VERSION:-}" ]; then
    . "$_multihmr2_root/install/setup.bash"
  else
    . "$_multihmr2_root/install/setup.zsh"
  fi
  set "$_multihmr2_list"
fi
# The source tree comes first: edited files take effect, and `multihmr2_ros` finds its messages in install.
_multihmr2_prepend PYTHONPATH "$_multihmr2_root"
if [ -z "${FASTDDS_DEFAULT_PROFILES_FILE:-}${FASTRTPS_DEFAULT_PROFILES_FILE:-}" ]; then
  export FASTDDS_DEFAULT_PROFILES_FILE=$_multihmr2_root/config/fastdds.xml
  case ${ROS_DISTRO:-jazzy} in
    # These distributions use the older name of the variable; later ones warn about it.
    humble | iron | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE=$_multihmr2_root/config/fastdds.xml ;;
  esac
fi
. "$_multihmr2_root/.venv/bin/activate"

unset -f _multihmr2_prepend
unset _multihmr2_root _multihmr2_list _multihmr2_folder
