"""Reads file names on standard input and checks what holds for files of any kind: folders have a
README.md, nothing points at one person's machine, nothing unfinished is left, no file of code is longer than
CONTRIBUTING.md lets it be."""
import pathlib
import re
import sys

FOLDERS = ["runtime", "kernels", "rpc", "shards", "actors", "tools", "training", "bindings", "examples", "tests", "docs"]
FORBIDDEN = [
    (re.compile(r"/(home|Users|root|work)/\w"), "a path of one machine"),
    (re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b"), "an unfinished place"),
    (re.compile(r"[ \t]+$"), "a space at the end of the line"),
]
LIMITS = {".hpp": 300, ".cuh": 300, ".cpp": 500, ".cu": 500}


def check_text(name, text):
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in FORBIDDEN:
            if pattern.search(line):
                faults.append(f"{name}:{number}: {what}: {line.strip()}")
    if text and not text.endswith("\n"):
        faults.append(f"{name}: the last line has no end")
    return faults


def main():
    faults = []
    for name in sys.stdin.read().split("\n"):
        path = pathlib.Path(name)
        # Of a fuzzer's corpus no file is text, though some look like it.
        if not name or name.startswith("scripts/check_files") or "/corpus/" in name:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture
        faults += check_text(name, text)
        lines = text.count("\n")
        if lines > LIMITS.get(path.suffix, sys.maxsize):
            faults.append(f"{name}: {lines} lines, more than {LIMITS[path.suffix]}: split it by meaning")
    for folder in FOLDERS:
        if pathlib.Path(folder).is_dir() and not pathlib.Path(folder, "README.md").is_file():
            faults.append(f"{folder}/ has no README.md")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


sys.exit(main())
