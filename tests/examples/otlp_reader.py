#!/usr/bin/env python3
"""Reads trace files in OTLP/JSON, strictly, and shows them as trees:

    otlp_reader.py FILE...        checks all lines, prints each trace as a tree
    otlp_reader.py --check FILE   only checks

Written from the specification alone (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding", and the field
names and types of trace.proto, resource.proto and common.proto, version 1), and knows nothing of how Troupe
writes: Debian 12 has no reader of OTLP/JSON (only a Go library's API, without the data model). What the
specification does not name is an error here, though real receivers would skip it."""
import json
import re
import sys

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


class Malformed(Exception):
    pass


def fail(where, what):
    raise Malformed(f"{where}: {what}")


def is_text(value, where):
    if not isinstance(value, str):
        fail(where, f"is to be a text, not {value!r}")


def is_uint32(value, where):
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        fail(where, f"is to be a 32-bit number, not {value!r}")


def is_decimal(low, high):
    """64-bit numbers are decimal texts in Protobuf's JSON."""
    def check(value, where):
        if not isinstance(value, str) or not re.fullmatch(r"-?(0|[1-9][0-9]*)", value):
            fail(where, f"is to be a decimal text, not {value!r}")
        if not low <= int(value) <= high:
            fail(where, f"{value} does not fit")
    return check


is_fixed64 = is_decimal(0, 2**64 - 1)
is_int64 = is_decimal(-2**63, 2**63 - 1)


def is_id(digits):
    """OTLP's exception: hexadecimal, not base64. Zeros are invalid."""
    def check(value, where):
        if not isinstance(value, str) or not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", value):
            fail(where, f"is to be {digits} hexadecimal digits, not {value!r}")
        if int(value, 16) == 0:
            fail(where, "is zero")
    return check


def is_one_of(values):
    """Enumerations are numbers in OTLP, never names."""
    def check(value, where):
        if isinstance(value, bool) or value not in values:
            fail(where, f"is to be one of {sorted(values)}, not {value!r}")
    return check


def is_bool(value, where):
    if not isinstance(value, bool):
        fail(where, f"is to be true or false, not {value!r}")


def is_number(value, where):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        fail(where, f"is to be a number, not {value!r}")


def list_of(check):
    def check_all(value, where):
        if not isinstance(value, list):
            fail(where, "is to be a list")
        for i, item in enumerate(value):
            check(item, f"{where}[{i}]")
    return check_all


def message(fields, needed=(), one_of=()):
    def check(value, where):
        if not isinstance(value, dict):
            fail(where, "is to be an object")
        for name, item in value.items():
            if name not in fields:
                fail(where, f"has no field {name!r}")
            fields[name](item, f"{where}.{name}")
        for name in needed:
            if name not in value:
                fail(where, f"lacks {name!r}")
        if one_of and sum(name in value for name in one_of) != 1:
            fail(where, f"is to have one of {one_of}")
    return check


def attributes(value, where):
    list_of(KEY_VALUE)(value, where)
    keys = [item["key"] for item in value]
    if len(keys) != len(set(keys)):
        fail(where, "has a key twice")


VALUES = {"stringValue": is_text, "boolValue": is_bool, "intValue": is_int64, "doubleValue": is_number}
ANY_VALUE = message(VALUES, one_of=tuple(VALUES))
KEY_VALUE = message({"key": is_text, "value": ANY_VALUE}, needed=("key", "value"))
STATUS = message({"message": is_text, "code": is_one_of({0, 1, 2})})
SPAN = message(
    {"traceId": is_id(32), "spanId": is_id(16), "traceState": is_text, "parentSpanId": is_id(16), "flags": is_uint32,
     "name": is_text, "kind": is_one_of(set(KINDS)), "startTimeUnixNano": is_fixed64, "endTimeUnixNano": is_fixed64,
     "attributes": attributes, "droppedAttributesCount": is_uint32, "status": STATUS},
    needed=("traceId", "spanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano"))
SCOPE = message({"name": is_text, "version": is_text, "attributes": attributes})
SCOPE_SPANS = message({"scope": SCOPE, "spans": list_of(SPAN), "schemaUrl": is_text}, needed=("spans",))
RESOURCE = message({"attributes": attributes, "droppedAttributesCount": is_uint32}, needed=("attributes",))
RESOURCE_SPANS = message({"resource": RESOURCE, "scopeSpans": list_of(SCOPE_SPANS), "schemaUrl": is_text},
                         needed=("resource", "scopeSpans"))
REQUEST = message({"resourceSpans": list_of(RESOURCE_SPANS)}, needed=("resourceSpans",))


def no_doubles(pairs):
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        fail("an object", f"has a field twice: {names}")
    return dict(pairs)


def plain(items):
    """Attributes as a dictionary."""
    def value(any_value):
        (kind, held), = any_value.items()
        return int(held) if kind == "intValue" else held
    return {item["key"]: value(item["value"]) for item in items}


class Span:
    def __init__(self, span, resource, where):
        self.trace, self.id, self.parent = span["traceId"], span["spanId"], span.get("parentSpanId")
        self.name, self.kind = span["name"], KINDS[span["kind"]]
        self.start, self.end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        self.attributes, self.resource = plain(span.get("attributes", [])), resource
        self.status = span.get("status", {})
        if self.end < self.start:
            fail(where, "ends before it begins")

    @property
    def node(self):
        return self.resource.get("service.name", "?")


def read(path):
    """All spans of a file."""
    spans = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            if not line.endswith("\n"):
                fail(where, "the line has no end")
            request = json.loads(line, object_pairs_hook=no_doubles)
            REQUEST(request, where)
            for of_resource in request["resourceSpans"]:
                resource = plain(of_resource["resource"]["attributes"])
                if "service.name" not in resource:
                    fail(where, "a resource without service.name")
                for of_scope in of_resource["scopeSpans"]:
                    spans += [Span(span, resource, where) for span in of_scope["spans"]]
    ids = [(span.trace, span.id) for span in spans]
    if len(ids) != len(set(ids)):
        fail(path, "two spans have one id")
    return spans


def traces(spans):
    """Spans by trace, those of each in the order in which they began."""
    by_trace = {}
    for span in sorted(spans, key=lambda each: (each.start, -each.end)):
        by_trace.setdefault(span.trace, []).append(span)
    return by_trace


def tree(spans):
    """The lines of one trace: indented name, kind, node, when it began and how long it took, error."""
    known = {span.id for span in spans}
    first = spans[0].start

    def lines(parent, depth):
        for span in spans:
            if (span.parent if span.parent in known else None) != parent:
                continue
            error = " " + span.attributes.get("error.type", "ERROR") if span.status.get("code") == 2 else ""
            yield (f"{'  ' * depth + span.name:28} {span.kind:9} {span.node:10} "
                   f"{(span.start - first) / 1000:8.1f} {(span.end - span.start) / 1000:8.1f}{error}")
            yield from lines(span.id, depth + 1)

    return [f"{'span':28} {'kind':9} {'node':10} {'at us':>8} {'took us':>8}"] + list(lines(None, 0))


def main(arguments):
    only_check = arguments[:1] == ["--check"]
    files = arguments[only_check:]
    if not files:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        spans = [span for path in files for span in read(path)]
    except (Malformed, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if not only_check:
        for trace, of_trace in traces(spans).items():
            print(f"trace {trace}", *tree(of_trace), "", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
