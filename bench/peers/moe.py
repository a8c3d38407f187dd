"""A training step of a tiny DeepSeek-V3: transformers (experts by grouped_mm and eager) and Tessera on the same weights, rows
and threads, and what more experts cost at the same number of experts a token.

  python bench/peers/moe.py [--steps 6] [--rows 8] [--length 256] [--width 256] [--threads N] [--only NAME ...]

Each contender runs in a process of its own; the first two steps are left out; prints the median and the ratios.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TESSERA_BINARY", str(ROOT / "build" / "tessera"))
VOCABULARY = 2048
sys.path.insert(0, str(ROOT / "tests" / "parity"))


def config(arguments, experts):
    from transformers import DeepseekV3Config
    return DeepseekV3Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=1024, moe_intermediate_size=arguments.width, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=4, q_lora_rank=128, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=32,
        v_head_dim=32, n_routed_experts=experts, n_shared_experts=1, num_experts_per_tok=4, n_group=1, topk_group=1,
        first_k_dense_replace=1, max_position_embeddings=1024, eos_token_id=2, bos_token_id=1, pad_token_id=0)


def active_parameters(c):
    """Weights that a token is multiplied by, attention's own products apart."""
    heads, queries = c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim
    attention = (c.hidden_size * (c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim) + c.q_lora_rank * heads * queries +
                 c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim) + heads * c.v_head_dim * c.hidden_size)
    dense = 3 * c.hidden_size * c.intermediate_size
    experts = 3 * c.hidden_size * c.moe_intermediate_size * (c.num_experts_per_tok + c.n_shared_experts) + c.hidden_size * c.n_routed_experts
    routed = c.num_hidden_layers - c.first_k_dense_replace
    return c.num_hidden_layers * attention + c.first_k_dense_replace * dense + routed * experts + c.hidden_size * c.vocab_size


def gemm_peak(threads):
    """GFLOP/s of a product of 2048 x 2048, as `tessera doctor --measure` finds it."""
    text = subprocess.run([BINARY, "doctor", "--measure"], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS=str(threads))).stdout
    return float(re.search(r"product of 2048 x 2048: (\d+) GFLOP/s", text).group(1))


def make_folder(arguments, experts, folder):
    import torch
    from families import write_tokenizer
    from transformers import DeepseekV3ForCausalLM
    torch.manual_seed(0)
    DeepseekV3ForCausalLM(config(arguments, experts)).save_pretrained(folder)
    write_tokenizer(folder, VOCABULARY)


def run_transformers(arguments, implementation):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="sdpa",
                                                 experts_implementation=implementation).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    rows = [json.loads(line)["tokens"] for line in open(arguments.data)]
    seconds = []
    for step in range(arguments.steps):
        batch = torch.tensor(rows[step * arguments.rows:(step + 1) * arguments.rows])
        start = time.perf_counter()
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds


def run_tessera(arguments):
    with tempfile.TemporaryDirectory() as folder:
        recipe = {"name": "bench", "output": folder + "/run", "model": {"path": arguments.model},
                  "data": {"train": [{"path": arguments.data}], "sequence_length": arguments.length, "packing": False},
                  "optimizer": {"lr": 1e-4}, "log": {"tensorboard": False}, "checkpoint": {"every": 0},
                  "train": {"steps": arguments.steps, "sequences_per_step": arguments.rows, "sequences_per_microbatch": arguments.rows}}
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(recipe))
        subprocess.run([BINARY, "--quiet", "train", path], check=True, env=dict(os.environ, OMP_NUM_THREADS=str(arguments.threads)))
        return [json.loads(line)["step_seconds"] for line in open(folder + "/run/metrics.jsonl")]


CONTENDERS = {
    "transformers-eager": lambda a: run_transformers(a, "eager"),
    "transformers-grouped": lambda a: run_transformers(a, "grouped_mm"),
    "tessera": run_tessera,
}


def measure(name, arguments, folder):
    options = [f"--{key}={getattr(arguments, key)}" for key in ("steps", "rows", "length", "width", "threads", "data")]
    output = subprocess.run([sys.executable, __file__, "--child", name, f"--model={folder}", *options], stdout=subprocess.PIPE, text=True,
                            check=True, env=dict(os.environ, OMP_NUM_THREADS=str(arguments.threads))).stdout
    return statistics.median(json.loads(output.splitlines()[-1])[2:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--width", type=int, default=256, help="of one expert")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(CONTENDERS[arguments.child](arguments)))
        return
    import torch
    with tempfile.TemporaryDirectory() as scratch:
        arguments.data = scratch + "/train.jsonl"
        generator = torch.Generator().manual_seed(1)
        with open(arguments.data, "w") as file:
            for _ in range(arguments.steps * arguments.rows):
                tokens = torch.randint(3, VOCABULARY, (arguments.length,), generator=generator).tolist()
                file.write(json.dumps({"tokens": tokens, "loss_mask": [0] + [1] * (arguments.length - 1)}) + "\n")
        tokens = arguments.rows * arguments.length
        print(f"{tokens} tokens a step, 6 layers of width 256, experts of width {arguments.width}, top 4, {arguments.threads} threads")
        peak = gemm_peak(arguments.threads)
        print(f"product of 2048 x 2048: {peak:.0f} GFLOP/s")
        medians = {}
        for experts in (32, 8, 64):
            folder = Path(scratch) / f"model-{experts}"
            make_folder(arguments, experts, folder)
            for name in arguments.only if experts == 32 else [n for n in arguments.only if n == "tessera"]:
                medians[name, experts] = measure(name, arguments, folder)
                speed = tokens / medians[name, experts]
                share = 6e-9 * active_parameters(config(arguments, experts)) * speed / peak
                print(f"{experts:3d} experts  {name:21s} {medians[name, experts]:6.3f} s a step  {speed:7.0f} tokens/s  "
                      f"{share:5.1%} of that product (6 N tokens, N active)", flush=True)
        for theirs in ("transformers-grouped", "transformers-eager"):
            if (theirs, 32) in medians and ("tessera", 32) in medians:
                print(f"tessera against {theirs}: {medians[theirs, 32] / medians['tessera', 32]:.2f}x")
        if ("tessera", 64) in medians:
            print(f"64 experts against 8: {medians['tessera', 64] / medians['tessera', 8]:.2f}x the time of a step")


if __name__ == "__main__":
    main()
