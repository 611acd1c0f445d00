"""check_tidy.py BUILD_FOLDER JOBS product|tests: clang-tidy over every source of ours in the build's compile
commands that lies outside of tests/, or in it.

A source that passed is not looked at again until it, a header of ours that it includes (as ninja recorded
them), its command, .clang-tidy or clang-tidy changes. Prints the complaints; exit code 1 if there are any.
With TROUPE_TIDY_TIMES=1 prints the seconds of each file."""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path.cwd().resolve()
GCC_ONLY = ("-W", "-mmemset-strategy=", "-mmemcpy-strategy=")  # clang takes an option that it does not know for an error


def own_sources(build, of_tests):
    """Source -> its command, without the compiler launcher, which clang-tidy would take for the compiler."""
    sources = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        source = pathlib.Path(entry["directory"], entry["file"]).resolve()
        generated = build.resolve() in source.parents
        if generated or ROOT not in source.parents or source.suffix != ".cpp":
            continue
        if (ROOT / "tests" in source.parents) != of_tests:
            continue
        words = shlex.split(entry["command"])
        if pathlib.Path(words[0]).name == "ccache":
            words = words[1:]
        words = [word for word in words if not word.startswith(GCC_ONLY)]
        sources[source] = {"directory": entry["directory"], "file": str(source), "arguments": words}
    return sources


def recorded_headers(build):
    """Object file -> headers of ours, from ninja's log of what each compilation read."""
    headers, current = {}, None
    listing = subprocess.run(["ninja", "-C", str(build), "-t", "deps"], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        if line.startswith("    ") and current is not None:
            path = pathlib.Path(build, line.strip()).resolve()
            if ROOT in path.parents:
                headers[current].append(path)
        elif ": #deps" in line:
            current = line.split(": #deps")[0]
            headers[current] = []
    return headers


class Fingerprints:
    def __init__(self, build):
        self.headers = recorded_headers(build)
        self.contents = {}
        version = subprocess.run(["clang-tidy", "--version"], capture_output=True, text=True, check=True).stdout
        self.base = version + (ROOT / ".clang-tidy").read_text()

    def content(self, path):
        if path not in self.contents:
            data = path.read_bytes() if path.is_file() else b"gone"
            self.contents[path] = hashlib.sha256(data).hexdigest()
        return self.contents[path]

    def of(self, source, command):
        output = command["arguments"][command["arguments"].index("-o") + 1]
        parts = [self.base, *command["arguments"], self.content(source)]
        parts += [str(path) + self.content(path) for path in sorted(self.headers.get(output, []))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def tidy(source, database):
    start = time.monotonic()
    done = subprocess.run(["clang-tidy", "--quiet", "-p", str(database), str(source)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr, time.monotonic() - start


def main():
    build, jobs, part = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    database = build / "tidy" / part
    stamps = database / "passed"
    stamps.mkdir(parents=True, exist_ok=True)
    sources = own_sources(build, part == "tests")
    (database / "compile_commands.json").write_text(json.dumps(list(sources.values())))
    fingerprints = Fingerprints(build)
    wanted = {source: fingerprints.of(source, command) for source, command in sources.items()}
    todo = [source for source, mark in wanted.items() if not (stamps / mark).exists()]
    todo.sort(key=lambda source: -source.stat().st_size)  # long ones first, so that none is alone at the end
    print(f"clang-tidy: {len(todo)} of {len(sources)} files have changed", flush=True)

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(tidy, source, database): source for source in todo}
        for done in concurrent.futures.as_completed(running):
            source = running[done]
            code, out, err, seconds = done.result()
            if os.environ.get("TROUPE_TIDY_TIMES"):
                print(f"{seconds:6.1f} s {source.relative_to(ROOT)}", flush=True)
            if code == 0:
                (stamps / wanted[source]).touch()
            else:
                failed += 1
                print(out or err, flush=True)
    for stamp in stamps.iterdir():
        if stamp.name not in wanted.values():
            stamp.unlink()
    return 1 if failed else 0


sys.exit(main())
