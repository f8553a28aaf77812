#!/usr/bin/env bash
# Checks and measures the network on the GPU of a machine that has PyTorch, but neither this package's environment nor
# network access. Two commands:
#   bash scripts/gpu_check.sh pack [FOLDER]                         here: fills the folder (build/gpu) with what it lacks
#   bash scripts/gpu_check.sh run [FOLDER] --out DIR [--dry] [...]  there: runs the steps; --dry: tiny sizes, on a CPU
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
case ${1:-} in
  pack | run) ;;
  *) echo "gpu_check.sh: expected pack or run, got '${1:-}'" >&2; exit 2 ;;
esac
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
exec "${PYTHON:-python3}" "$root/scripts/gpu_check.py" "$@"
