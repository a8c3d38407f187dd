"""LoRA over a frozen base that is kept as FP8 codes has the bits of LoRA over a float32 base with the same numbers: losses, gradient norms and
adapters, of a dense model and of MLA with experts, on one rank, over data, expert and pipeline parallelism, recomputed, resumed, with
reinforcement learning, merged on export.

  lora_fp8.py
"""

import sys
import tempfile
from pathlib import Path

from harness import (Checks, ENVIRONMENT, assert_same_bits, documents, make_model, read_jsonl, read_safetensors, run, write_jsonl,
                     write_recipe, write_tokenizer)
from layouts import DEEPSEEK

STEPS = 4
# No width is a multiple of 128, and projections that are stacked begin in the middle of a block.
WIDE = {**DEEPSEEK, "hidden_size": 160, "intermediate_size": 200, "moe_intermediate_size": 72, "num_hidden_layers": 3, "q_lora_rank": 72, "kv_lora_rank": 40,
        "qk_nope_head_dim": 24, "qk_rope_head_dim": 16, "v_head_dim": 24}
TARGETS = {"llama": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"], "deepseek": ["q_a_proj", "q_b_proj", "kv_b_proj", "o_proj"]}
# (ranks, pp, ep, schedule)
LAYOUTS = {"llama": {"dp 2": (2, 1, 1, "1f1b"), "pp 2": (2, 2, 1, "zb_h1")}, "deepseek": {"ep 2": (2, 1, 2, "1f1b"), "pp 2": (2, 2, 1, "1f1b")}}


class Runs:
    """Folders of one model: `plain` in float32, `fp8` as DeepSeek publishes."""

    def __init__(self, root, name):
        self.root, self.name = root / name, name
        self.root.mkdir()
        self.data = write_jsonl(self.root / "data.jsonl", documents(60, 20, 100, seed=2))
        self.plain, self.fp8 = self.root / "plain", self.root / "fp8"
        if name == "llama":
            make_model(self.plain, hidden=160, intermediate=200, layers=2)
        else:
            write_tokenizer(self.root)
            recipe = write_recipe(self.root / "fresh.json", "unused", self.data, self.root / "fresh", train={"steps": 1},
                                  model={"config": WIDE, "tokenizer": str(self.root)})
            recipe.write_text(recipe.read_text().replace('"path": "unused",', ""))
            run("train", recipe)
            run("export", self.root / "fresh", "--output", self.plain, "--dtype", "float32")
        run("export", self.plain, "--output", self.fp8, "--dtype", "float32", "--weights", "fp8-blockwise")

    def recipe(self, label, folder, base, layout=(1, 1, 1, "1f1b"), steps=STEPS, recompute="none", **sections):
        _, pp, ep, schedule = layout
        output = self.root / label.replace(" ", "-").replace(",", "")
        lora = {"r": 4, "alpha": 8, "target_modules": TARGETS[self.name], **({"base": base} if base else {})}
        return write_recipe(self.root / f"{output.name}.json", folder, self.data, output, **{
            "model": {"lora": lora}, "parallel": {"pp": pp, "ep": ep, "pipeline_schedule": schedule}, "lr_schedule": {"name": "constant", "warmup_steps": 0},
            "optimizer": {"lr": 1e-2}, "train": {"steps": steps, "sequences_per_step": 8, "sequences_per_microbatch": 2, "recompute": recompute},
            "checkpoint": {"every": 2}, **sections}), output

    def train(self, label, folder, base, layout=(1, 1, 1, "1f1b"), **changes):
        """Everything that a run makes, to the bit."""
        recipe, output = self.recipe(label, folder, base, layout, **changes)
        ENVIRONMENT["OMP_NUM_THREADS"] = "1"
        run("train", recipe, ranks=layout[0])
        run("export", output, "--output", output / "adapter")
        keys = ("loss", "grad_norm", "rollouts_digest")
        return ([[row[key] for key in keys if key in row] for row in read_jsonl(output / "metrics.jsonl")],
                {name: value.tobytes() for name, value in read_safetensors(output / "adapter" / "adapter_model.safetensors").items()})


def main():
    checks = Checks()
    expect = checks.expect

    def compare(what, found, reference):
        expect(found == reference, f"{what}: {'the same to the bit' if found == reference else 'DIFFERS'}")

    with tempfile.TemporaryDirectory() as folder:
        for name in TARGETS:
            runs = Runs(Path(folder), name)
            reference = runs.train("float32 numbers of fp8", runs.fp8, "float32")
            curve = [row[0] for row in reference[0]]
            expect(curve != [row[0] for row in runs.train("plain", runs.plain, None)[0]] and curve[-1] != curve[0],
                   f"{name}: the loss goes from {curve[0]:.4f} to {curve[-1]:.4f}, over the unrounded base otherwise")
            compare(f"{name}, codes of an FP8 folder", runs.train("fp8 of fp8", runs.fp8, "fp8"), reference)
            compare(f"{name}, quantised on load", runs.train("fp8 of plain", runs.plain, "fp8"), reference)
            for kind in ("selective", "full"):
                compare(f"{name}, recompute {kind}", runs.train(f"again {kind}", runs.plain, "fp8", recompute=kind), reference)
            runs.train("resumed", runs.plain, "fp8", steps=2)
            compare(f"{name}, stopped after 2 steps and resumed", runs.train("resumed", runs.plain, "fp8"), reference)
            for label, layout in LAYOUTS[name].items():
                there = runs.train(f"{label} float32", runs.fp8, "float32", layout)
                compare(f"{name}, {label}", runs.train(f"{label} fp8", runs.plain, "fp8", layout), there)
            merged = []
            for label in ("float32-numbers-of-fp8", "fp8-of-plain"):
                run("export", runs.root / label, "--output", runs.root / f"{label}-merged", "--merge-lora", "--dtype", "float32")
                merged.append(read_safetensors(runs.root / f"{label}-merged" / "model.safetensors"))
            assert_same_bits(merged[1], merged[0])
            prompts = write_jsonl(runs.root / "prompts.jsonl", [{"prompt": f"{i} + {i % 7} =", "answer": str(i + i % 7)} for i in range(40)])
            for staleness in (0, 1):
                grpo = {"task": "grpo", "data": {"train": [{"path": str(prompts)}]}, "checkpoint": {"every": 0}, "rl": {
                    "rollouts_per_prompt": 4, "max_new_tokens": 8, "staleness": staleness, "rewards": [{"name": "regex", "pattern": "[0-9]"}]}}
                compare(f"{name}, grpo with staleness {staleness}", runs.train(f"grpo fp8 {staleness}", runs.plain, "fp8", **grpo),
                        runs.train(f"grpo float32 {staleness}", runs.fp8, "float32", **grpo))
            tuned, _ = runs.recipe("resumed", runs.plain, "float32")
            refusal = run("train", tuned, expect=1).stderr
            expect('model.lora.base was "fp8" and is "float32"' in refusal, f"{name}, resumed over another base: refused")
            products = runs.train("products in fp8", runs.plain, "fp8", precision={"fp8": "blockwise"})
            expect(products[0] != reference[0] and max(abs(a[0] - b[0]) / b[0] for a, b in zip(products[0], reference[0])) < 0.05,
                   f"{name}: products in FP8 too")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
