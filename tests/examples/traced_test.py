"""traced_test.py PROGRAM: runs the example `traced` and reads the file that its three processes write, with a
reader that is independent of ours: one trace, whose spans hang together as the calls do."""
import base64
import copy
import json
import pathlib
import subprocess
import sys
import tempfile

import otlp_reader

EXPECTED = [  # parent's place in this list, name, kind, node, error
    (None, "order", "internal", "shop", None),
    (0, "pricing/quote", "client", "shop", None),
    (1, "pricing/quote", "server", "pricing-0", None),
    (2, "stock/left", "client", "pricing-0", None),
    (3, "stock/left", "server", "stock-0", None),
    (0, "pricing/quote", "client", "shop", "RESOURCE_EXHAUSTED"),
    (5, "pricing/quote", "server", "pricing-0", "RESOURCE_EXHAUSTED"),
    (6, "stock/left", "client", "pricing-0", None),
    (7, "stock/left", "server", "stock-0", None),
]


def check_spans(spans):
    by_trace = otlp_reader.traces(spans)
    assert len(by_trace) == 1, f"{len(by_trace)} traces"
    (spans,) = by_trace.values()
    assert len(spans) == len(EXPECTED), "\n".join(otlp_reader.tree(spans))
    for span, (parent, name, kind, node, error) in zip(spans, EXPECTED):
        assert (span.name, span.kind, span.node) == (name, kind, node), vars(span)
        assert span.parent == (None if parent is None else spans[parent].id), vars(span)
        assert span.attributes.get("error.type") == error, vars(span)
        assert (span.status.get("code") == 2) == (error is not None), vars(span)
        assert span.resource["process.pid"] > 0 and span.resource["host.name"], span.resource
        if kind != "internal":
            assert span.attributes["rpc.system"] == "troupe"
            assert f"{span.attributes['rpc.service']}/{span.attributes['rpc.method']}" == name
            assert span.attributes["peer.service"] in ("shop", "pricing-0", "stock-0")
        # One machine: the processes' clocks are the same but for how exactly they can be compared.
        if parent is not None:
            slack = 0 if spans[parent].node == node else 200_000
            assert spans[parent].start - slack <= span.start and span.end <= spans[parent].end + slack, vars(span)
    assert len({span.resource["process.pid"] for span in spans}) == 3


def check_the_reader(line, folder):
    """It refuses what is wrong: else what it accepts would mean nothing."""
    request = json.loads(line)

    def spoilt(spoil):
        broken = copy.deepcopy(request)
        spoil(broken["resourceSpans"][0]["scopeSpans"][0]["spans"][0])
        path = folder / "broken"
        path.write_text(json.dumps(broken) + "\n")
        try:
            otlp_reader.read(path)
        except otlp_reader.Malformed:
            return True
        return False

    for key, value in [("traceId", "12"), ("traceId", "0" * 32), ("spanId", 5), ("kind", "SPAN_KIND_CLIENT"),
                       ("kind", 7), ("startTimeUnixNano", 17), ("endTimeUnixNano", "1"), ("trace_id", "x"),
                       ("attributes", {"a": 1}), ("attributes", [{"key": "a", "value": {"intValue": 1}}]),
                       ("status", {"code": "STATUS_CODE_ERROR"})]:
        assert spoilt(lambda span: span.update({key: value})), f"the reader takes {key} = {value}"
    assert spoilt(lambda span: span.pop("name")), "the reader takes a span without a name"


def check_by_official_definitions(line):
    """With OpenTelemetry's own definitions, where somebody has installed them (Debian 12 has none)."""
    try:
        from google.protobuf import json_format
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
    except ImportError:
        return
    request = json.loads(line)
    spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    for span in spans:
        for key in {"traceId", "spanId", "parentSpanId"} & set(span):  # Protobuf's own JSON has these in base64
            span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    parsed = json_format.ParseDict(request, trace_service_pb2.ExportTraceServiceRequest())
    assert len(parsed.resource_spans[0].scope_spans[0].spans) == len(spans)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ran = subprocess.run([sys.argv[1], folder / "trace.jsonl"], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        spans = otlp_reader.read(folder / "trace.jsonl")
        check_spans(spans)
        # What the programs say of the trace agrees with the file.
        assert f"trace {spans[0].trace}" in ran.stdout.splitlines(), ran.stdout
        quotes = [span.id for span in spans if (span.name, span.kind) == ("pricing/quote", "server")]
        said = [line for line in ran.stderr.splitlines() if "asked for a quote" in line]
        assert len(said) == 2, ran.stderr
        for line in said:
            assert f"trace={spans[0].trace}" in line and any(f"span={quote}" in line for quote in quotes), line
        lines = (folder / "trace.jsonl").read_text().splitlines()
        for line in lines:
            check_by_official_definitions(line)
        check_the_reader(lines[0], folder)
        print("\n".join(otlp_reader.tree(otlp_reader.traces(spans)[spans[0].trace])))


main()
