#!/usr/bin/env bash
# run.sh CHECKOUT BUILD FOLDER GENERATOR: installs what stands in BUILD to FOLDER/prefix and looks at it as a program
# outside of the checkout does: the guide's programs by find_package(Troupe), one by pkg-config alone, and what goes wrong.
set -euo pipefail
checkout=$1 build=$2 folder=$3 generator=$4
prefix=$folder/prefix
rm -rf "$folder"
mkdir -p "$folder"
cmake --install "$build" --prefix "$prefix" >"$folder/install.log"
[[ $("$prefix/bin/troupe" --version) == *troupe* ]]

echo "== find_package"
cp -r "$checkout/docs/getting-started" "$folder/programs"
cmake -S "$folder/programs" -B "$folder/programs/build" -G "$generator" -DCMAKE_PREFIX_PATH="$prefix"
cmake --build "$folder/programs/build"
"$checkout/tests/docs/run_programs.sh" "$folder/programs/build/counter" "$folder/programs/build/table"

# configure LINES...: a project of these lines; its output goes to $output, its exit code is kept.
configure() {
  mkdir -p "$folder/odd"
  printf '%s\n' 'cmake_minimum_required(VERSION 3.25)' "$@" >"$folder/odd/CMakeLists.txt"
  rm -rf "$folder/odd/build"
  output=$(cmake -S "$folder/odd" -B "$folder/odd/build" -G "$generator" -DCMAKE_PREFIX_PATH="$prefix" 2>&1)
}

refused() {
  local said=$1
  shift
  if configure "$@"; then echo "not refused: $*" && exit 1; fi
  [[ ${output//[$'\n ']/} == *"${said// /}"* ]] || { printf 'expected: %s\nprinted:  %s\n' "$said" "$output" && exit 1; }
}

echo "== what cannot be found is said"
refused 'compatible with requested version "9.0"' 'project(odd LANGUAGES C CXX)' 'find_package(Troupe 9.0 REQUIRED)'
refused 'no component gateway' 'project(odd LANGUAGES C CXX)' 'find_package(Troupe REQUIRED COMPONENTS gateway)'
refused 'LANGUAGES C CXX' 'project(odd LANGUAGES CXX)' 'find_package(Troupe REQUIRED)'
configure 'project(odd LANGUAGES CXX)' 'find_package(Troupe REQUIRED COMPONENTS runtime kernels)' \
  'if(NOT TARGET troupe::kernels)' 'message(FATAL_ERROR "no kernels")' 'endif()'

echo "== pkg-config"
cat >"$folder/plain.cpp" <<'CODE'
#include <cstdio>
#include <troupe/actors/node.hpp>

int main() {
  auto node = troupe::Node::start({.name = "alone"});
  std::printf("%s\n", node.ok() ? (*node)->name().c_str() : node.error().message.c_str());
  return node.ok() ? 0 : 1;
}
CODE
flags=$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig:$prefix/lib64/pkgconfig pkg-config --define-variable=prefix="$prefix" --cflags --libs troupe)
# shellcheck disable=SC2086
"${CXX:-c++}" "$folder/plain.cpp" -o "$folder/plain" $flags
[[ $("$folder/plain") == alone ]]

echo "== C, by pkg-config and by find_package"
cc -std=c99 "$checkout/examples/c_client/c_client.c" -D_POSIX_C_SOURCE=200809L -o "$folder/c_client" \
  $(PKG_CONFIG_PATH=$prefix/lib/pkgconfig:$prefix/lib64/pkgconfig pkg-config --define-variable=prefix="$prefix" --cflags --libs troupe-c)
[[ $(LD_LIBRARY_PATH=$(dirname "$prefix"/lib*/libtroupe_c.so) "$folder/c_client") == *"4 calls" ]]
configure 'project(odd LANGUAGES C)' 'find_package(Troupe REQUIRED COMPONENTS c)' \
  "add_executable(c_client $checkout/examples/c_client/c_client.c)" 'target_link_libraries(c_client PRIVATE troupe::c)'
cmake --build "$folder/odd/build"
[[ $("$folder/odd/build/c_client") == *"4 calls" ]]

echo "== every header can be included by its installed name, and symbols stay in our namespaces"
[[ $(find "$prefix/include" -name '*.hpp' | wc -l) -gt 100 ]]
if find "$prefix/include" -type f | grep -v '/include/troupe/'; then echo "these headers are not below troupe/" && exit 1; fi
# Strong symbols of ours that a program could have, too.
strong=$(for library in "$prefix"/lib*/libtroupe_*.a; do nm -gC --defined-only "$library" 2>/dev/null; done |
  awk '$2 ~ /^[TDBR]$/ { $1 = $2 = ""; print }' | sed 's/^ *//' | sort -u |
  grep -vE '(^|[ (*&])troupe::|^__device_stub__|^(vtable|typeinfo|guard variable|VTT|typeinfo name|construction vtable) ' || true)
echo "$strong" | grep -vE '^(capnp::schemas::|$)' && { echo "these symbols are not in namespace troupe" && exit 1; }
echo "all is as it should be"
