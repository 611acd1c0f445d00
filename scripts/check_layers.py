"""Reads names of source files on standard input and checks the two rules of docs/architecture.md that
the compiler cannot: which of our folders a folder may include, and which folder alone may include the
headers of a library (system headers are visible everywhere)."""
import re
import sys

MAY_INCLUDE = {
    "runtime": {"runtime"},
    "kernels": {"kernels"},
    "rpc": {"rpc", "runtime"},
    "shards": {"shards", "runtime", "kernels"},
    "actors": {"actors", "rpc", "shards", "runtime", "kernels"},
    "training": {"training", "tools", "actors", "rpc", "shards", "runtime", "kernels"},
    "tools": {"tools", "actors", "rpc", "shards", "runtime", "kernels"},
    "bindings": {"training", "actors", "rpc", "shards", "runtime", "kernels"},
}

# What an #include begins with, and the path prefixes below which it may stand.
OWNERS = [
    ("UCX", r"uc[pst]/", ["rpc/src/", "tests/rpc/", "tests/bench/"]),
    ("Cap'n Proto", r"(capnp|kj)/|[\w/]*\.capnp\.h",
     ["rpc/src/", "rpc/include/troupe/rpc/capnp.hpp", "tests/rpc/", "tests/bench/"]),
    ("OpenSSL", r"openssl/", ["rpc/src/"]),
    ("CAF", r"caf/", ["actors/", "examples/caf_embed", "tests/actors/", "tests/bench/", "tests/examples/", "tests/sim/"]),
    ("BLAS and SIMD", r"cblas\.h|hwy/", ["kernels/src/", "tests/kernels/"]),
    # Of one kind of processor, as these are: elsewhere the compiler's own words will do, with the processor asked for.
    ("intrinsics", r"\w*intrin\.h|cpuid\.h|arm_\w+\.h", ["kernels/src/"]),
    ("CUDA device code", r"cub/|cublas|thrust/", ["kernels/src/"]),
    ("CUDA host", r"cuda", ["kernels/src/", "runtime/", "tests/kernels/", "tests/runtime/"]),
    ("NVTX", r"nvtx", ["runtime/src/", "tests/runtime/"]),
    ("NCCL", r"nccl", ["shards/src/", "tests/shards/", "tests/bench/"]),
    ("Gloo", r"gloo/", ["shards/src/", "tests/shards/", "tests/bench/"]),
    ("JSON", r"nlohmann/", ["runtime/", "tools/", "training/src/", "bindings/", "examples/", "tests/"]),
    ("logging", r"spdlog/|fmt/", ["runtime/src/"]),
    ("metrics", r"prometheus/", ["runtime/src/"]),
    ("HTTP", r"httplib\.h", ["runtime/src/", "tests/"]),
    ("command lines", r"CLI/", ["tools/", "training/src/", "docs/your-own-training/", "examples/", "tests/"]),
    ("Python", r"Python\.h|nanobind/", ["bindings/python/"]),
    ("tests", r"doctest/", ["tests/"]),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


def faults_of(name, number, header):
    folder = name.split("/")[0]
    ours = re.match(r"troupe/(\w+)/", header)
    if ours and folder in MAY_INCLUDE and ours.group(1) not in MAY_INCLUDE[folder]:
        yield f"{name}:{number}: {folder}/ may not include {ours.group(1)}/ ({header})"
    if folder == "examples" and re.search(r"/src/", header):
        yield f"{name}:{number}: examples include public headers only ({header})"
    for what, pattern, places in OWNERS:
        if re.match(pattern, header) and not any(name.startswith(place) for place in places):
            yield f"{name}:{number}: {what} belongs to {', '.join(places)} ({header})"


def main():
    faults = []
    for name in filter(None, sys.stdin.read().split("\n")):
        with open(name, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                found = INCLUDE.match(line)
                if found:
                    faults += faults_of(name, number, found.group(1))
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


sys.exit(main())
