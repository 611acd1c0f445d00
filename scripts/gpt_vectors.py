"""Makes the data of tests/gpt: a tiny GPT-2 as transformers write it with the logits that they compute, and a small
tokenizer as tokenizers train it with what it makes of some texts. Needs torch, transformers and tokenizers from PyPI.
Usage: python3 scripts/gpt_vectors.py tests/gpt/data"""
import json
import pathlib
import sys

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel

TEXTS = [
    "Hello, world! It's a test: we'll see, they've said, I'd go.",
    "  two spaces, a\ttab,\n\n  new lines  and the end   ",
    "Zürich, naïve café, größer; Ελληνικά, Русский, 日本語のテキスト, עברית",
    "numbers 1234567890 3.14159 ½ Ⅷ ٣ x²",
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 and signs €£¥ --> <|endoftext|>",
    "'s 'S don't won't 're're '''",
    "non\u00a0breaking\u2003space\u3000wide\u0085next",
    "",
    " ",
    "\n",
    "a",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa the the the the",
]


def make_model(folder):
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=61, n_positions=24, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape) * 0.3 + (1.0 if ".ln_" in name and "weight" in name else 0.0))
        tokens = torch.randint(0, 61, (24,))
        logits = model(tokens[None]).logits[0]
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "logits.json").write_text(json.dumps({"tokens": tokens.tolist(),
                                                    "logits": [round(x, 6) for x in logits.flatten().tolist()]}) + "\n")


def make_tokenizer(folder):
    words = pathlib.Path(__file__).resolve().parent.parent / "docs" / "consistency.md"
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train([str(words)], vocab_size=500, min_frequency=2, special_tokens=[])
    tokenizer.save_model(str(folder))
    (folder / "vocab.json").write_text((folder / "vocab.json").read_text() + "\n")
    cases = [{"text": text, "tokens": tokenizer.encode(text).ids} for text in TEXTS]
    (folder / "cases.json").write_text(json.dumps(cases) + "\n")


def main():
    folder = pathlib.Path(sys.argv[1])
    for name, make in [("model", make_model), ("tokenizer", make_tokenizer)]:
        (folder / name).mkdir(parents=True, exist_ok=True)
        make(folder / name)


main()
