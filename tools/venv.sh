#!/usr/bin/env bash
# The virtual environment .venv with the package and what its tests need, exactly as locked. Does nothing where it is
# up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.stamp
wanted=$(cat requirements.lock pyproject.toml "$0" | sha256sum)
[[ -e $stamp && $(cat "$stamp") == "$wanted" ]] && exit 0

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
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
echo "$wanted" >"$stamp"
