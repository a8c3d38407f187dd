#!/usr/bin/env python3
"""`tessera train-tokenizer` against Hugging Face's BpeTrainer: the same text gives the same merges and ids.

    tests/parity/train_tokenizer_parity.py [--megabytes 1] [--vocabulary 3000]

Ties between equally frequent pairs are broken alike (the smallest ids first), so nothing is left to differ.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokenizer_families import CL100K, DEEPSEEK_WORDS, byte_level, isolated
from texts import adversarial_texts, real_texts
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TESSERA_BINARY", str(ROOT / "build" / "tessera"))
PATTERNS = {
    "deepseek": byte_level(isolated(r"\p{N}{1,3}"), isolated("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), isolated(DEEPSEEK_WORDS)),
    "llama3": byte_level(isolated(CL100K % "{1,3}")),
    "gpt2": byte_level(regex=True),
}
SPECIAL = ["<|begin|>", "<|end|>", "<|pad|>", "<|user|>"]


def reference(pattern, texts, vocabulary):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PATTERNS[pattern]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return json.loads(tokenizer.to_str())["model"]


def compare(pattern, texts, vocabulary, folder):
    files = []
    for i, text in enumerate(texts):
        files.append(folder / f"{i}.txt")
        files[-1].write_bytes(text.encode())
    output = folder / pattern
    start = time.monotonic()
    subprocess.run([BINARY, "--quiet", "train-tokenizer", "--input", *map(str, files), "--vocab", str(vocabulary), "--pattern", pattern,
                    "--special", "<|user|>", "--output", str(output)], check=True)
    ours_seconds = time.monotonic() - start
    start = time.monotonic()
    expected = reference(pattern, texts, vocabulary)
    theirs_seconds = time.monotonic() - start
    ours = json.loads((output / "tokenizer.json").read_text())["model"]
    wrong = int(ours["vocab"] != expected["vocab"])
    first = next((i for i, (a, b) in enumerate(zip(ours["merges"], expected["merges"])) if a != b), None)
    if first is not None or len(ours["merges"]) != len(expected["merges"]):
        wrong += 1
        print(f"  {pattern}: {len(ours['merges'])} merges, expected {len(expected['merges'])}; the first that differs is {first}")
    tokenizer = AutoTokenizer.from_pretrained(output)
    sample = texts[-3:] + adversarial_texts(200, random.Random(5)) + ["a<|user|>b<|end|>"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in sample)
    done = subprocess.run([BINARY, "--quiet", "tokenize", "--model", str(output)], input=lines.encode(), capture_output=True, check=True)
    answers = [json.loads(line)["ids"] for line in done.stdout.decode().split("\n") if line]
    wrong += sum(got != tokenizer(text, add_special_tokens=False)["input_ids"] for text, got in zip(sample, answers))
    wrong += tokenizer.eos_token != "<|end|>" or tokenizer.pad_token_id != 2
    print(f"{pattern:10} {sum(len(t.encode()) for t in texts) / 1e6:.2f} MB, {len(ours['merges'])} merges: {wrong} differ; "
          f"{ours_seconds:.2f} s, tokenizers {theirs_seconds:.2f} s", flush=True)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=1)
    parser.add_argument("--vocabulary", type=int, default=3000)
    options = parser.parse_args()
    texts = real_texts(options.megabytes)
    with tempfile.TemporaryDirectory() as scratch:
        wrong = sum(compare(pattern, texts, options.vocabulary, Path(scratch)) for pattern in PATTERNS)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
