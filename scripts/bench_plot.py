"""The plot of docs/performance.md: four panels of bars, as one SVG that needs nothing else."""
import html
import math

WIDTH, PANEL_WIDTH, BAR, GAP = 960, 450, 17, 5
LABEL_WIDTH, VALUE_WIDTH = 96, 64
COLORS = {"Troupe": "#1f6feb", "raw UCX": "#9aa4b2", "gRPC": "#c9622c", "ZeroMQ": "#3f8f5a", "TensorPipe": "#8957a8"}
PANELS = [("rpc_sync_64B", "64 B call and answer, µs (log scale, less is better)"),
          ("rpc_async_64B", "64 B calls, 256 open, thousands a second (more is better)"),
          ("tensor_1MB", "1 MB one way, 8 under way, GB/s (more is better)"),
          ("tensor_16MB", "16 MB one way, 8 under way, GB/s (more is better)")]
GROUPS = {"shm": "one machine: shared memory; unix socket for gRPC and ZeroMQ", "tcp": "loopback TCP"}


def text(x, y, content, size=12, anchor="start", weight="normal", color="#1c2128"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="{color}">{html.escape(content)}</text>')


def bars_of(results, what, transport, peers):
    """[(who, value)] of those that have a figure."""
    ours = results.lines.get(f"{what}_{transport}")
    if not ours:
        return []
    bars = [("raw UCX", ours["reference_value"]), ("Troupe", ours["value"])]
    bars += [(label, results.peer(peer, what, transport)) for peer, label in peers.items()]
    scale = 1e-3 if ours["unit"] == "calls/s" else 1
    return [(who, value * scale) for who, value in bars if value]


def length_of(value, values, logarithmic):
    """0 to 1. On the log scale a decade below the least value is 0."""
    if not logarithmic:
        return value / max(values)
    low = math.floor(math.log10(min(values))) - 0.5
    return (math.log10(value) - low) / (math.log10(max(values)) - low)


def panel(x, y, title, groups, logarithmic):
    parts = [text(x, y + 14, title, 13, weight="bold")]
    values = [value for bars in groups.values() for _, value in bars]
    room = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH
    y += 26
    for transport, bars in groups.items():
        if not bars:
            continue
        parts.append(text(x, y + 13, GROUPS[transport], 11, color="#57606a"))
        y += 20
        for who, value in bars:
            length = max(1.0, room * length_of(value, values, logarithmic))
            weight = "bold" if who == "Troupe" else "normal"
            parts.append(text(x + LABEL_WIDTH - 8, y + 13, who, 12, "end", weight))
            parts.append(f'<rect x="{x + LABEL_WIDTH}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" '
                         f'fill="{COLORS[who]}"/>')
            parts.append(text(x + LABEL_WIDTH + length + 6, y + 13, f"{value:.3g}" if value < 1000 else f"{value:.0f}",
                              12, weight=weight))
            y += BAR + GAP
        y += 8
    return parts, y


def draw(results, peers):
    parts, top, bottom = [], 20, 20
    for index, (what, title) in enumerate(PANELS):
        if index % 2 == 0:
            top = bottom + (16 if index else 0)
        groups = {transport: bars_of(results, what, transport, peers) for transport in GROUPS}
        if not any(groups.values()):
            continue
        drawn, end = panel(20 + (index % 2) * (PANEL_WIDTH + 20), top, title, groups, what == "rpc_sync_64B")
        parts += drawn
        bottom = max(bottom, end)
    height = math.ceil(bottom + 12)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="Helvetica, Arial, sans-serif" role="img">\n<title>Troupe, raw UCX and peers</title>\n'
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n")
