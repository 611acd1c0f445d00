#!/usr/bin/env bash
# python_wheel.sh [--test PEER] PYTHON BUILD FOLDER: makes the wheel of bindings/python on the libraries that stand in
# BUILD, installs it in a fresh virtual environment, and runs its tests there. Says "skipped:" and why, with --test, where
# pip cannot bring what that needs, or Python's headers are missing; else that is an error. PEER: tests/python/cpp_peer.
set -euo pipefail
checkout=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
testing="" peer=""
if [[ $1 == --test ]]; then testing=1 peer=$(readlink -f "$2") && shift 2; fi
python=$1 build=$2 folder=$3
mkdir -p "$folder"
folder=$(readlink -f "$folder")

cannot() {
  if [[ -n $testing ]]; then echo "skipped: $1" && exit 0; fi
  echo "python_wheel.sh: $1" >&2 && exit 1
}

bring() {  # bring ENVIRONMENT PACKAGES...
  local environment=$1
  shift
  "$environment/bin/pip" install -q --disable-pip-version-check --retries 1 --timeout 20 "$@" >"$folder/pip.log" 2>&1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || cannot "it takes Python 3.9"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
  cannot "Python's headers are not installed (python3-dev)"
make=$folder/make try=$folder/try
if [[ ! -f $make/.whole ]]; then
  rm -rf "$make"
  "$python" -m venv "$make" >"$folder/venv.log" 2>&1 || cannot "there is no venv (python3-venv)"
  newer=()
  # Below that the stable ABI is not known to CMake, from Python 3.12 on it is used.
  "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 12))' || newer=('cmake>=3.26')
  bring "$make" scikit-build-core nanobind ninja "${newer[@]}" || cannot "pip cannot bring nanobind and scikit-build-core"
  touch "$make/.whole"
fi

cmake --install "$build" --prefix "$folder/prefix" >"$folder/install.log"
rm -rf "$folder/wheel" "$try"
"$make/bin/pip" wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w "$folder/wheel" "$checkout/bindings/python" \
  --config-settings "build-dir=$folder/build" --config-settings "cmake.define.Troupe_ROOT=$folder/prefix" >"$folder/wheel.log" 2>&1 ||
  { tail -60 "$folder/wheel.log" >&2 && exit 1; }
wheel=$(ls "$folder"/wheel/*.whl)

"$python" -m venv "$try"
bring "$try" numpy || cannot "pip cannot bring NumPy"
"$try/bin/pip" install -q --disable-pip-version-check --no-deps "$wheel"
# Nothing of the static libraries may be seen by others in the process.
extension=$(ls "$try"/lib/python3*/site-packages/troupe/_troupe*.so)
seen=$(nm -DC --defined-only "$extension" | awk '$2 != "w" && $2 != "V" && $2 != "W" && $2 != "u"' | grep -v ' PyInit__troupe$' || true)
[[ -z $seen ]] || { echo "these symbols can be seen: $seen" >&2 && exit 1; }
(cd "$checkout/bindings/python/tests" && TROUPE_CPP_PEER=$peer PYTHONDONTWRITEBYTECODE=1 "$try/bin/python" -W error -m unittest discover -b)
echo "$wheel"
