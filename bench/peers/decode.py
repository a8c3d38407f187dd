"""Greedy generation: transformers' generate and Tessera on the same prompts, float32, at batch 1, 8 and 32.

  python bench/peers/decode.py [--model models/smollm2-135m] [--tokens 64] [--batches 1 8 32]

Prints new tokens a second, prompts included in the time, the ratio, and the share of the limit (weights read once a step at
the measured memory bandwidth).
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TESSERA_BINARY", str(ROOT / "build" / "tessera"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(ROOT / "models" / "smollm2-135m"))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    machine = json.loads(subprocess.run([ROOT / "build/bin/machine_bench"], capture_output=True, text=True, check=True).stdout)
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
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "in.jsonl"
            path.write_text("".join(json.dumps({"tokens": p}) + "\n" for p in prompts))
            result = subprocess.run([BINARY, "generate", "--model", arguments.model, "--input", path, "--output", folder + "/out.jsonl",
                                     "--temperature", "0", "--max-new-tokens", str(arguments.tokens), "--batch", str(batch)],
                                    capture_output=True, text=True, check=True, env=dict(os.environ, OMP_NUM_THREADS=str(os.cpu_count())))
            ours = float(re.search(r"([\d.]+) tokens/s", result.stderr.splitlines()[-1]).group(1))
            same = sum(json.loads(line)["tokens"] == row for line, row in
                       zip(open(folder + "/out.jsonl"), out[:, ids.shape[1]:].tolist()))
        limit = batch * machine["triad_gbytes_per_second"] * 1e9 / weight_bytes
        print(f"batch {batch:3d}: transformers {theirs:7.1f}, Tessera {ours:7.1f} tokens/s: {ours / theirs:.2f}x; "
              f"{ours / limit:.0%} of the limit (transformers {theirs / limit:.0%}); {same} of {batch} completions equal", flush=True)


if __name__ == "__main__":
    main()
