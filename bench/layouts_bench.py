"""Tokens a second of two ranks with one thread each against one process with two threads: data, expert and pipeline parallelism of a
DeepSeek-V3 with 11 million parameters (MLA, 16 experts in groups, MTP). The layouts take turns, and each figure is a median.

  layouts_bench.py [--rounds 3] [--steps 12]
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))
from harness import BINARY, ENVIRONMENT, documents, read_jsonl, run, write_jsonl  # noqa: E402
from layouts import DEEPSEEK, Runs  # noqa: E402

MODEL = {**DEEPSEEK, "hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 128, "num_hidden_layers": 4,
         "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 16,
         "num_experts_per_tok": 4, "max_position_embeddings": 512}
ROWS, ROWS_PER_MICROBATCH = 16, 2
# name: (ranks, pp, ep, schedule)
LAYOUTS = {"one process": (1, 1, 1, "1f1b"), "dp 2": (2, 1, 1, "1f1b"), "ep 2": (2, 1, 2, "1f1b"), "pp 2, 1f1b": (2, 2, 1, "1f1b"),
           "pp 2, zb_h1": (2, 2, 1, "zb_h1"), "pp 2, dualpipe_v": (2, 2, 1, "dualpipe_v")}


def measure(root, name, layout, steps):
    """Tokens a second, and the exposed and active seconds of communication in a step, by axis."""
    ranks, pp, ep, schedule = layout
    runs = Runs(root, name.replace(" ", "-"), MODEL)
    runs.data = write_jsonl(root / "data.jsonl", documents(300, 100, 250, seed=2))
    recipe, output = runs.recipe("run", pp, ep, schedule, steps=steps, rows=ROWS,
                                 changes={"data": {"sequence_length": 256}, "train": {"sequences_per_microbatch": ROWS_PER_MICROBATCH}})
    ENVIRONMENT["OMP_NUM_THREADS"] = str(2 // ranks)
    run("train", recipe, ranks=ranks, timeout=600)
    rows = read_jsonl(output / "metrics.jsonl")[2:]
    axes = {axis: (statistics.median(r["communication"][axis]["exposed_seconds"] for r in rows),
                   statistics.median(r["communication"][axis]["active_seconds"] for r in rows)) for axis in rows[-1].get("communication", {})}
    return statistics.median(r["tokens_per_second"] for r in rows), axes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    assert os.path.exists(BINARY)
    speeds, axes = {}, {}
    for round_ in range(options.rounds):
        for name, layout in LAYOUTS.items():
            with tempfile.TemporaryDirectory() as folder:
                speed, axes[name] = measure(Path(folder), f"{name} {round_}", layout, options.steps)
            speeds.setdefault(name, []).append(speed)
    base = statistics.median(speeds["one process"])
    microbatches = ROWS // ROWS_PER_MICROBATCH
    print("| layout | tokens/s | of one process | beyond the bubble | exposed / active seconds of communication in a step |")
    print("|---|---|---|---|---|")
    for name, values in speeds.items():
        ratio = statistics.median(values) / base
        bubble = 1 / (microbatches + 1) if "1f1b" in name else 0  # (p - 1) / (m + p - 1); the others' depends on the costs of the actions
        beyond = f"{ratio / (1 - bubble):.2f}" if bubble else ""
        told = ", ".join(f"{axis} {exposed:.3f} / {active:.3f}" for axis, (exposed, active) in axes[name].items())
        print(f"| {name} | {statistics.median(values):.0f} | {ratio:.2f} | {beyond} | {told} |")


if __name__ == "__main__":
    main()
