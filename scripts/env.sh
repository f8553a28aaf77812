# shellcheck shell=bash disable=SC1091
# Source this file (bash or zsh), after `make setup`, from any folder: the commands, rclpy and our messages then work.

if [ -n "${BASH_VERSION:-}" ]; then
  _multihmr2_root=${BASH_SOURCE[0]}
elif [ -n "${ZSH_VERSION:-}" ]; then
  eval '_multihmr2_root=${(%):-%x}' # zsh's own syntax, which bash cannot read
else
  echo "env.sh: expected bash or zsh: start one of them first" >&2
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
  echo "env.sh: nothing is set up in $_multihmr2_root: run make setup there first" >&2
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
  # The wheels add their own libraries when Python starts, unless this says that it is done: by whom, is not known here.
  unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
else
  case $- in *u*) _multihmr2_list=-u ;; *) _multihmr2_list=+u ;; esac
  set +u # colcon's files read variables that are not set
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
    # These read the file by its older name, about which the later ones warn.
    humble | iron | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE=$_multihmr2_root/config/fastdds.xml ;;
  esac
fi
. "$_multihmr2_root/.venv/bin/activate"

unset -f _multihmr2_prepend
unset _multihmr2_root _multihmr2_list _multihmr2_folder
