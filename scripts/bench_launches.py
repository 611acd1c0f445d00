"""Runs some figures of ./dev bench rpc again and again, in fresh processes, and says in how many launches each met its
target: for machines on which they vary from one launch to the next.

    scripts/bench_launches.py BUILD/bin [--peers FOLDER] [--launches 10]

Prints a table in Markdown. Peers' programs that are not there are left out: then bare sockets stand beside alone.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

RATE, RATE_TARGET = "rpc_async_64B_shm", 1.5e6
BANDWIDTH, BANDWIDTH_TARGET = "tensor_1MB_tcp", 1.5
SOCKETS = ["raw_tcp_bandwidth_1MB_copied", "raw_tcp_bandwidth_1MB_lent"]
PATIENCE_S = 300


def figures(command):
    """Name and value of each line of JSON that a program prints; none if it fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        print(f"{command[0]} did not end in time", file=sys.stderr)
        return {}
    if run.returncode != 0:
        print(f"{command[0]} failed: {run.stderr.strip()}", file=sys.stderr)
        return {}
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {line["name"]: line["value"] for line in lines}


def launch(folder, peers):
    bench = [str(folder / "rpc_bench")] + (["--peers", str(peers)] if peers else [])
    found = figures(bench + [RATE]) | figures(bench + [BANDWIDTH])
    # The default congestion control's are left out: their names go on after these.
    return found | {k: v for k, v in figures([str(folder / "tcp_floor_bench"), *SOCKETS]).items() if k in SOCKETS}


def best(found, prefix):
    """The best value of the figures whose names begin so, and its name; None if there are none."""
    return max(((value, name) for name, value in found.items() if name.startswith(prefix)), default=None)


def row(number, found):
    cells = [str(number)]
    rate = found.get(RATE)
    cells.append(f"{rate / 1e6:.2f}" if rate else "none")
    ours = found.get(BANDWIDTH)
    cells.append(f"{ours:.2f}" if ours else "none")
    peer = best({k: v for k, v in found.items() if k.startswith("peer_") and BANDWIDTH in k}, "peer_")
    cells.append(f"{peer[0]:.2f} ({peer[1].split('_')[1]})" if peer else "none")
    over_peer = ours / peer[0] if ours and peer else None
    cells.append(f"{over_peer:.2f}" if over_peer else "none")
    cells += [f"{found[name]:.2f}" if name in found else "none" for name in SOCKETS]
    bare = best(found, "raw_tcp_bandwidth")
    over_bare = ours / bare[0] if ours and bare else None
    cells.append(f"{over_bare:.2f}" if over_bare else "none")
    return cells, rate, over_peer, over_bare


def summary(name, values, target):
    values = [value for value in values if value]
    if not values:
        return f"{name}: no figures"
    met = "" if target is None else f"; at least {target:g} in {sum(v >= target for v in values)} of {len(values)}"
    return f"{name}: {min(values):.3g} to {max(values):.3g}, median {statistics.median(values):.3g}{met}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="where rpc_bench and tcp_floor_bench are")
    parser.add_argument("--peers", type=pathlib.Path, help="where the peers' programs are, if they are built")
    parser.add_argument("--launches", type=int, default=10)
    arguments = parser.parse_args()
    print("| launch | 256 in flight, shared memory: M/s | 1 MB over TCP: GB/s | best peer | over it "
          "| bare sockets, copied | lent | over the better |")
    print("|" + "---|" * 8)
    rates, over_peers, over_bares = [], [], []
    for number in range(1, arguments.launches + 1):
        cells, rate, over_peer, over_bare = row(number, launch(arguments.folder, arguments.peers))
        print("| " + " | ".join(cells) + " |", flush=True)
        rates.append(rate)
        over_peers.append(over_peer)
        over_bares.append(over_bare)
    print()
    print(summary("256 in flight over shared memory, calls/s", rates, RATE_TARGET))
    print(summary("1 MB over TCP over the best peer", over_peers, BANDWIDTH_TARGET))
    print(summary("1 MB over TCP over the better of bare sockets", over_bares, None))
    return 0 if all(rates) else 1


if __name__ == "__main__":
    sys.exit(main())
