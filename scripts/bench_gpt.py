"""Tokens a second of examples/gpt in training beside PyTorch's, on this machine in the same run: the same model, float32,
AdamW, by turns. Lines of JSON as those of ./dev bench. Needs torch from PyPI; without it only ours is measured.
Usage: python3 scripts/bench_gpt.py build/release/bin/gpt [--layers N ...] (flags of `gpt bench`)"""
import argparse
import json
import statistics
import subprocess
import time


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    for name, value in [("layers", 4), ("heads", 4), ("width", 128), ("block", 64), ("batch", 16), ("threads", 2),
                        ("vocabulary", 100), ("rounds", 3)]:
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--compile", action="store_true", help="PyTorch by torch.compile")
    return parser.parse_args()


def ours(args):
    flags = [f"--{name}={getattr(args, name)}"
             for name in ["layers", "heads", "width", "block", "batch", "threads", "vocabulary", "seconds"]]
    line = json.loads(subprocess.run([args.program, "bench", *flags], check=True, capture_output=True).stdout)
    return line["value"], line["per_cpu_second"]


def make_torch(args):
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(args.threads)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(args.width), nn.LayerNorm(args.width)
            self.qkv, self.proj = nn.Linear(args.width, 3 * args.width), nn.Linear(args.width, args.width)
            self.fc, self.out = nn.Linear(args.width, 4 * args.width), nn.Linear(4 * args.width, args.width)

        def forward(self, x):
            b, t, c = x.shape
            q, k, v = self.qkv(self.ln_1(x)).split(c, dim=2)
            q, k, v = (y.view(b, t, args.heads, c // args.heads).transpose(1, 2) for y in (q, k, v))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
            return x + self.out(functional.gelu(self.fc(self.ln_2(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(args.vocabulary, args.width), nn.Embedding(args.block, args.width)
            self.blocks = nn.ModuleList(Block() for _ in range(args.layers))
            self.ln_f = nn.LayerNorm(args.width)

        def forward(self, tokens, targets):
            x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.ln_f(x), self.wte.weight)
            return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))

    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    forward = torch.compile(model) if args.compile else model

    def step():
        tokens = torch.randint(0, args.vocabulary, (args.batch, args.block + 1))
        loss = forward(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()

    def measure():
        begun, cpu_begun, steps = time.monotonic(), time.process_time(), 0
        while time.monotonic() - begun < args.seconds:
            step()
            steps += 1
        tokens = steps * args.batch * args.block
        return tokens / (time.monotonic() - begun), tokens / (time.process_time() - cpu_begun)

    return measure


def main():
    args = parse()
    try:
        peer = make_torch(args)
    except ImportError:
        peer = None
    rounds = [(ours(args), peer() if peer else (0, 0)) for _ in range(args.rounds)]
    name = f"gpt_train_cpu_{args.layers}x{args.width}"
    # The second line is what a busy machine can still be believed in: processor time instead of the clock's.
    for which, unit in enumerate(["tokens/s", "tokens per second of processor time"]):
        value = statistics.median(mine[which] for mine, _ in rounds)
        reference = statistics.median(theirs[which] for _, theirs in rounds)
        line = {"name": name, "value": round(value), "unit": unit}
        if peer:
            line |= {"reference": "peer_torch" + ("_compile" if args.compile else ""),
                     "reference_value": round(reference), "ratio": round(value / reference, 3)}
        print(json.dumps(line))


main()
