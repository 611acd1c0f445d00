#!/usr/bin/env bash
# run_programs.sh COUNTER TABLE: runs the programs of docs/getting-started as that page does, in processes of
# their own, and checks what they print.
set -euo pipefail
counter=$1 table=$2
folder=$(mktemp -d)
servers=()
end() {
  for server in "${servers[@]}"; do kill "$server" 2>/dev/null || true; done
  rm -rf "$folder"
}
trap end EXIT

# Starts a server in the background and waits until it has printed something, or has ended.
serve() {
  mkfifo "$folder/ready"
  "$@" >"$folder/ready" &
  servers+=($!)
  read -r line <"$folder/ready" || { echo "$1 printed nothing" && exit 1; }
  rm "$folder/ready"
  echo "$line"
}

expect() {
  [[ $2 == *"$1"* ]] || { printf 'expected: %s\nprinted:  %s\n' "$1" "$2" && exit 1; }
}

serve "$counter" serve "unix:$folder/counter"
output=$("$counter" add "unix:$folder/counter" 10)
expect "the counter is at 10" "$output"
expect "half of it is 5" "$output"
expect "INVALID_ARGUMENT: counter.divide: cannot divide by zero (at server)" "$output"

code=0
output=$("$counter" add "unix:$folder/counter" ten 2>&1) || code=$?
expect "counter: " "$output"
[[ $code == 1 ]] || { echo "a number that is none ended it with $code" && exit 1; }

serve "$table" serve 0 2 "unix:$folder/table"
serve "$table" serve 1 2 "unix:$folder/table"
expect "42: 1.000 1.000" "$("$table" train 2 "unix:$folder/table")"
