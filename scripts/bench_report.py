"""bench_report.py RESULTS.jsonl PAGE.md PLOT.svg: from the lines of ./dev bench, the part of the page between
`<!-- results: begin -->` and `<!-- results: end -->`, and the plot.

Of each figure the newest line counts, of those taken on the machine of the newest run."""
import json
import pathlib
import sys
import time

import bench_plot

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
TRANSPORTS = {"shm": "one machine", "tcp": "loopback TCP"}
PEERS = {"grpc": "gRPC", "zmq": "ZeroMQ", "tensorpipe": "TensorPipe"}


class Results:
    """The newest line of each name, and the runs that they are from."""

    def __init__(self, path):
        runs, run = [], None
        for line in map(json.loads, filter(None, pathlib.Path(path).read_text().splitlines())):
            if line["name"] == "bench_run":
                run = {"at": line["value"], "machine": line["machine"], "lines": {}}
                runs.append(run)
            elif run is not None:
                run["lines"][line["name"]] = line
        runs = [run for run in runs if run["lines"]]
        if not runs:
            sys.exit(f"{path} holds no run")
        self.machine = runs[-1]["machine"]
        self.lines, self.runs = {}, []
        for run in reversed(runs):
            new = {name: line for name, line in run["lines"].items() if name not in self.lines}
            if new and self.same_machine(run["machine"]):
                self.lines.update(new)
                self.runs.append(run)

    def same_machine(self, machine):
        return all(machine[key] == self.machine[key] for key in ("cpu", "cores", "kernel"))

    def value(self, name):
        return self.lines[name]["value"] if name in self.lines else None

    def peer(self, peer, what, transport):
        """A peer's figure beside ours over shared memory or TCP, or None."""
        names = {"tcp": ["tcp"], "shm": ["shm", "unix"]}[transport]
        found = [self.value(f"peer_{peer}_{what}_{name}") for name in names]
        return next((value for value in found if value is not None), None)


def number(value, unit):
    if value is None:
        return ""
    unit = "µs" if unit == "us" else unit
    if unit == "calls/s":
        return f"{value / 1e6:.2f} M/s" if value >= 1e6 else f"{value / 1e3:.0f} k/s"
    if value == 0:
        return f"0 {unit}"
    if value >= 100:
        return f"{value:.0f} {unit}"
    return f"{value:.3g} {unit}"


def verdict(met):
    return "met" if met else "**missed**"


def against_raw(name, line):
    """(ratio, target in words, whether it is met); without a target the last is None."""
    ratio = line["ratio"]
    if name == "rpc_async_64B_shm":
        return ratio, "≥ 1.5 M/s or 0.35 × raw", line["value"] >= min(1.5e6, 0.35 * line["reference_value"])
    bounds = {"rpc_sync_64B_shm": ("≤", 2.5), "rpc_sync_64B_tcp": ("≤", 1.15)}
    if name.startswith("tensor_"):
        bounds[name] = ("≥", 3 if "pooled" in name else 0.9)
    if name not in bounds:
        return ratio, "none", None
    sign, bound = bounds[name]
    return ratio, f"{sign} {bound} × raw", ratio <= bound if sign == "≤" else ratio >= bound


def calls_table(results):
    rows = ["| figure | over | Troupe | raw UCX | ratio | target | | " + " | ".join(PEERS.values()) + " |",
            "|---|---|---|---|---|---|---|" + "---|" * len(PEERS)]
    for name, line in results.lines.items():
        what, _, transport = name.rpartition("_")
        if transport not in TRANSPORTS or not what.startswith(("rpc_", "tensor_")):
            continue
        ratio, target, met = against_raw(name, line)
        peers = [number(results.peer(peer, what, transport), line["unit"]) for peer in PEERS]
        rows.append(f"| `{what}` | {TRANSPORTS[transport]} | {number(line['value'], line['unit'])} | "
                    f"{number(line['reference_value'], line['unit'])} | {ratio:.2f} | {target} | "
                    f"{'' if met is None else verdict(met)} | " + " | ".join(peers) + " |")
    return rows if len(rows) > 2 else []


def bounds_table(results):
    """Everything that is measured against a fixed target: leads over peers (at least) and bounds (at most)."""
    rows = ["| figure | value | target | |", "|---|---|---|---|"]
    for name, line in results.lines.items():
        if line["reference"] not in ("target", "bound"):
            continue
        at_least = line["reference"] == "target"
        met = line["ratio"] >= 1 if at_least else line["ratio"] <= 1
        rows.append(f"| `{name}` | {number(line['value'], line['unit'])} | {'≥' if at_least else '≤'} "
                    f"{number(line['reference_value'], line['unit'])} | {verdict(met)} |")
    return rows if len(rows) > 2 else []


def scale_table(results):
    """Clusters in the simulator: each size against the smallest."""
    rows = ["| figure | value | of the smallest cluster | ratio |", "|---|---|---|---|"]
    for name, line in results.lines.items():
        if name.startswith("sim_"):
            rows.append(f"| `{name}` | {number(line['value'], line['unit'])} | "
                        f"{number(line['reference_value'], line['unit'])} | {line['ratio']:.2f} |")
    return rows if len(rows) > 2 else []


def about(results):
    machine = results.machine
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    lines = [f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
             f"{machine['system']}, Linux {machine['kernel']}. {libraries}.", ""]
    for run in results.runs:
        at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run["at"]))
        load = run["machine"]["load_before"]
        busy = "" if load <= 0.25 * machine["cores"] else (
            f" **The machine was busy with other work when it began (load {load}): its figures are no measure of anything "
            "but that the programs run.**")
        lines.append(f"- {at}, commit {run['machine']['commit']}: {len(run['lines'])} figures.{busy}")
    return lines


def main():
    results_path, page_path, plot_path = sys.argv[1:]
    results = Results(results_path)
    page = pathlib.Path(page_path)
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after and not rest.endswith(END):
        sys.exit(f"{page} has no place for the results: {BEGIN} ... {END}")
    pathlib.Path(plot_path).write_text(bench_plot.draw(results, PEERS))
    parts = [about(results), [f"![The figures below as a plot]({pathlib.Path(plot_path).name})"],
             calls_table(results), bounds_table(results), scale_table(results)]
    text = "\n\n".join("\n".join(part) for part in parts if part)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
    print(f"{page} and {plot_path}: {len(results.lines)} figures of {len(results.runs)} runs")


if __name__ == "__main__":
    main()
