"""check_symbols.py HEADER LIST NM LIBRARY: the functions that HEADER declares, those that LIST keeps and those that
LIBRARY exports are the same. `check_symbols.py HEADER LIST write` writes the list anew."""
import re
import subprocess
import sys


def declared(header):
    text = re.sub(r"/\*.*?\*/", "", open(header, encoding="utf-8").read(), flags=re.S)
    return sorted(re.findall(r"^TROUPE_API[^;(]*?\b(troupe_\w+)\(", text, re.M))


def exported(nm, library):
    lines = subprocess.run([nm, "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1].split("@")[0] for line in lines.splitlines()}
    return sorted(name for name in names if name != "TROUPE_0")


def main():
    header, kept_at = sys.argv[1:3]
    functions = declared(header)
    if sys.argv[3] == "write":
        with open(kept_at, "w", encoding="utf-8") as kept:
            kept.write("".join(name + "\n" for name in functions))
        return 0
    kept = open(kept_at, encoding="utf-8").read().split()
    symbols = exported(*sys.argv[3:5])
    wrong = 0
    for one, other, what in [
        (kept, functions, "kept, but the header does not declare it any more: programs that use it would break"),
        (functions, kept, "declared, but not in the list: python3 tests/c/check_symbols.py HEADER LIST write"),
        (functions, symbols, "declared, but not exported"),
        (symbols, functions, "exported, but not declared"),
    ]:
        for name in sorted(set(one) - set(other)):
            print(f"{name}: {what}")
            wrong = 1
    return wrong


sys.exit(main())
