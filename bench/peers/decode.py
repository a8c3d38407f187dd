"""Greedy generation: transformers' generate and Tessera on the same prompts, float32, at batch 1, 8 and 32.

  python bench/peers/decode.py [--model models/smollm2-135m] [--tokens 64] [--batches 1 8 32]

Prints new tokens a second, prompts included in the time, and the ratio; then those of decoding alone, from the difference to a run of
three times the tokens, medians of several pairs of runs, and their share of the limit: the smaller of what memory (weights read once a
step at the bandwidth of a triad) and arithmetic (two operations a weight and token at the peak of fused multiply-adds) allow, measured
beside.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TESSERA_BINARY", str(ROOT / "build" / "tessera"))


def tessera(model, prompts, tokens):
    """Seconds of generation and the completions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.jsonl"
        path.write_text("".join(json.dumps({"tokens": p}) + "\n" for p in prompts))
        result = subprocess.run([BINARY, "generate", "--model", model, "--input", path, "--output", folder + "/out.jsonl", "--temperature", "0",
                                 "--max-new-tokens", str(tokens), "--batch", str(len(prompts))],
                                capture_output=True, text=True, check=True, env=dict(os.environ, OMP_NUM_THREADS=str(os.cpu_count())))
        count, rate = re.search(r"generated (\d+) tokens, ([\d.]+) tokens/s", result.stderr).groups()
        assert int(count) == tokens * len(prompts), f"{count} tokens: some completions have ended early"
        return int(count) / float(rate), [json.loads(line)["tokens"] for line in open(folder + "/out.jsonl")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(ROOT / "models" / "smollm2-135m"))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    weight_bytes = 4 * sum(p.numel() for p in model.parameters())
    for batch in arguments.batches:
        prompts = [tokenizer.apply_chat_template([{"role": "user", "content": f"Write a long story about the number {i}."}],
                                                 add_generation_prompt=True, return_dict=False) for i in range(100, 100 + batch)]
        ids = torch.tensor(prompts)
        with torch.no_grad():
            model.generate(ids[:, :8], max_new_tokens=2, do_sample=False, pad_token_id=2)
            start = time.perf_counter()
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=arguments.tokens, min_new_tokens=arguments.tokens,
                                 do_sample=False, pad_token_id=2)
            theirs = batch * (out.shape[1] - ids.shape[1]) / (time.perf_counter() - start)
        shorts, decodings, limits, triads = [], [], [], []
        for _ in range(arguments.repeats):
            short, rows = tessera(arguments.model, prompts, arguments.tokens)
            long, _ = tessera(arguments.model, prompts, 3 * arguments.tokens)
            machine = json.loads(subprocess.run([ROOT / "build/bin/machine_bench"], capture_output=True, text=True, check=True).stdout)
            shorts.append(short)
            decodings.append(2 * arguments.tokens * batch / (long - short))
            triads.append(machine["triad_gbytes_per_second"])
            limits.append(min(batch * triads[-1] * 1e9 / weight_bytes, machine["fma_gflops"] * 1e9 / (weight_bytes / 2)))
        ours, decoding, limit = batch * arguments.tokens / statistics.median(shorts), statistics.median(decodings), statistics.median(limits)
        same = sum(mine == other for mine, other in zip(rows, out[:, ids.shape[1]:].tolist()))
        print(f"batch {batch:3d}: transformers {theirs:7.1f}, Tessera {ours:7.1f} tokens/s: {ours / theirs:.2f}x; decoding alone {decoding:7.1f}, "
              f"{decoding / limit:.0%} of the limit {limit:.1f} (triad {min(triads):.1f} to {max(triads):.1f} GB/s); "
              f"{same} of {batch} completions equal", flush=True)


if __name__ == "__main__":
    main()
