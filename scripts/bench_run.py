"""Prints one line of JSON about a run of the benchmarks that begins: when, on what machine, of which commit.
Its form is that of the benchmarks' own lines, so that it can stand before them in one file."""
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

LIBRARIES = {"UCX": "libucx0", "CAF": "libcaf-core0.17", "Cap'n Proto": "libcapnp-0.9.2", "gRPC": "libgrpc++1.51",
             "ZeroMQ": "libzmq5", "TensorPipe": "libtensorpipe0"}


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def first(pattern, path):
    found = re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE)
    return found.group(1).strip() if found else "unknown"


def main():
    changed = output_of("git", "status", "--porcelain", "--untracked-files=no")
    machine = {
        "cpu": first(r"^model name\s*:(.*)$", "/proc/cpuinfo"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(first(r"^MemTotal:\s*(\d+)", "/proc/meminfo")) / 2**20),
        "system": first(r'^PRETTY_NAME="(.*)"$', "/etc/os-release"),
        "kernel": platform.release(),
        "libraries": {name: version for name, package in LIBRARIES.items()
                      if (version := output_of("dpkg-query", "-W", "-f", "${Version}", package))},
        "commit": output_of("git", "rev-parse", "--short", "HEAD") + (" with changes" if changed else ""),
        "load_before": round(os.getloadavg()[0], 1),
    }
    line = {"name": "bench_run", "value": int(time.time()), "unit": "s since 1970", "reference": None,
            "reference_value": None, "ratio": 1, "machine": machine}
    print(json.dumps(line))


sys.exit(main())
