#!/usr/bin/env python3
"""MB/s on one core: Tessera, Hugging Face's tokenizers and tiktoken with the same vocabulary, on the same documents.

    bench/tokenizer_bench.py --bench build/bin/tokenizer_bench --model DIR --text FILE.. [--repeats 5]

Every pass starts with a fresh tokenizer, so that no word is remembered from the pass before; the best pass counts.
"""
import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tiktoken  # noqa: E402
import tokenizers  # noqa: E402

GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def documents_of(data):
    out, at = [], 0
    while at < len(data):
        end = data.find(b"\n", min(at + 4096, len(data) - 1))
        end = len(data) if end < 0 else end + 1
        out.append(data[at:end].decode())
        at = end
    return out


def best(size, repeats, make, encode):
    rate, count = 0.0, 0
    for _ in range(repeats):
        tokenizer = make()
        begin = time.perf_counter()
        count = encode(tokenizer)
        rate = max(rate, size / (time.perf_counter() - begin) / 1e6)
    return rate, count


def tiktoken_encoding(folder):
    data = json.loads((folder / "tokenizer.json").read_text())
    table = {c: b for b, c in tokenizers_alphabet().items()}
    ranks = {}
    singles = [t for t in data["model"]["vocab"] if len(t) == 1 and t in table]
    for token in singles:
        ranks[bytes([table[token]])] = len(ranks)
    for byte in range(256):
        ranks.setdefault(bytes([byte]), len(ranks))
    for merge in data["model"]["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        ranks.setdefault(bytes(table[c] for c in left + right), len(ranks))
    return tiktoken.Encoding("bench", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})


def tokenizers_alphabet():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, extra = {b: chr(b) for b in printable}, 0
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for path in options.text:
        data = path.read_bytes()
        documents, size = documents_of(data), len(data)
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(data)
            copy.flush()
            lines = subprocess.run([options.bench, options.model, copy.name, str(options.repeats)], check=True,
                                   capture_output=True, text=True).stdout.splitlines()
        ours = max(float(line.split()[0]) for line in lines)
        count = int(lines[0].split()[1])
        name = str(options.model / "tokenizer.json")
        theirs, their_count = best(size, options.repeats, lambda: tokenizers.Tokenizer.from_file(name),
                                   lambda t: sum(len(t.encode(d, add_special_tokens=False).ids) for d in documents))
        batched, _ = best(size, options.repeats, lambda: tokenizers.Tokenizer.from_file(name),
                          lambda t: sum(len(e.ids) for e in t.encode_batch_fast(documents, add_special_tokens=False)))
        tik, _ = best(size, options.repeats, lambda: tiktoken_encoding(options.model),
                      lambda t: sum(len(t.encode_ordinary(d)) for d in documents))
        print(f"{path.name}: {size / 1e6:.2f} MB, {len(documents)} documents, ids {count} and {their_count}")
        print(f"  tessera {ours:8.2f} MB/s   tokenizers encode {theirs:6.2f}  encode_batch_fast {batched:6.2f}  tiktoken {tik:6.2f}")
        print(f"  ratio to tokenizers (its faster way): {ours / max(theirs, batched):.1f}   to tiktoken: {ours / tik:.1f}", flush=True)


if __name__ == "__main__":
    main()
