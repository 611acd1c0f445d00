"""check_docs.py ROOT: what holds for the documents.

A listing whose line before it is `<!-- file: PATH -->` stands in that file, line for line, but for how far it
is indented. A link to a file leads to one, and one to a heading leads to a heading."""
import pathlib
import re
import sys
import textwrap

LISTING = re.compile(r"<!-- file: (\S+) -->\n```\w*\n(.*?)\n```", re.S)
ANY_LISTING = re.compile(r"^```.*?^```", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
SKIPPED = {"build", "out", ".git"}


def documents(root):
    for path in sorted(root.rglob("*.md")):
        if not SKIPPED & set(path.relative_to(root).parts):
            yield path


def stands_in(listing, text):
    wanted = textwrap.dedent(listing).splitlines()
    lines = text.splitlines()
    for start in range(len(lines) - len(wanted) + 1):
        part = textwrap.dedent("\n".join(lines[start : start + len(wanted)]))
        if part.splitlines() == wanted:
            return True
    return False


def anchors(text):
    """Headings as GitHub names them."""
    names = HEADING.findall(ANY_LISTING.sub("", text))
    return {re.sub(r"[^\w\- ]", "", name.lower()).strip().replace(" ", "-") for name in names}


def faults_of(path, root):
    text = path.read_text()
    name = path.relative_to(root)
    for file, listing in LISTING.findall(text):
        source = root / file
        if not source.is_file():
            yield f"{name}: a listing is of {file}, which is not there"
        elif not stands_in(listing, source.read_text()):
            yield f"{name}: this listing does not stand in {file}:\n{textwrap.indent(listing, '    ')}"
    for link in LINK.findall(ANY_LISTING.sub("", text)):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists():
            yield f"{name}: the link {link} leads nowhere"
        elif anchor and anchor not in anchors(target.read_text()):
            yield f"{name}: the link {link} leads to no heading"


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    listings, faults = 0, []
    for path in documents(root):
        listings += len(LISTING.findall(path.read_text()))
        faults += faults_of(path, root)
    print("\n".join(faults + [f"{listings} listings looked up"]))
    return 1 if faults or listings == 0 else 0


sys.exit(main())
