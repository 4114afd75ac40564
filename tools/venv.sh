#!/usr/bin/env bash
# The virtual environment .venv with the package and what its tests need, exactly as locked. Does nothing where it is
# up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

sum() { cat "$@" | sha256sum; }
is() { # is NAME SUM: that stamp holds that sum
  [[ -e .venv/.$1 && $(cat ".venv/.$1") == "$2" ]]
}
locked=$(sum requirements.lock tools/venv.sh)
packaged=$(sum pyproject.toml)
pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check)

if ! is locked "$locked"; then
  python=${PYTHON:-}
  if [[ -z $python ]]; then
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
      "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
      python=
    done
  fi
  if [[ -z $python ]]; then
    echo "no Python 3.11 or later here: install one, or name it: make PYTHON=/path/to/python3.12 …" >&2
    exit 1
  fi
  echo "making .venv with $("$python" --version)"
  rm -rf .venv
  "$python" -m venv .venv
  "${pip[@]}" install --require-hashes -r requirements.lock
  echo "$locked" >.venv/.locked
fi
if ! is packaged "$packaged"; then
  "${pip[@]}" install --no-deps --no-build-isolation -e .
  echo "$packaged" >.venv/.packaged
fi
