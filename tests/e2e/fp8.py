"""FP8 training in any layout gives the losses of one rank: the miniature DeepSeek-V3 of recipes/pretrain with precision.fp8 blockwise over
data, expert and pipeline parallelism, within 1e-3, also where tokens travel to experts in FP8. Recomputation and a repeated run change no bit; tensorwise learns too; resuming
goes on. Prints what a step costs beside one in float32.

  fp8.py
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from harness import Checks, ENVIRONMENT, ROOT, documents, largest_difference, losses, read_jsonl, run, write_jsonl, write_tokenizer

BOUND, STEPS = 1e-3, 4
RECIPE = ROOT / "recipes" / "pretrain" / "tiny-deepseek-v3.yaml"
# (ranks, pp, ep, schedule)
LAYOUTS = {"dp 2": (2, 1, 1, "1f1b"), "ep 2": (2, 1, 2, "1f1b"), "pp 2, zero bubble": (2, 2, 1, "zb_h1")}


class Runs:
    def __init__(self, root):
        self.root = root
        self.data = write_jsonl(root / "data.jsonl", documents(120, 40, 240, seed=5))
        (root / "tokenizer").mkdir()
        write_tokenizer(root / "tokenizer")

    def recipe(self, label, layout=(1, 1, 1, "1f1b"), steps=STEPS, rows=8, rows_per_microbatch=2, recompute="none", optimizer=None, precision=None, **more):
        """The recipe's path and its output."""
        _, pp, ep, schedule = layout
        output = self.root / label.replace(" ", "-")
        recipe = self.root / f"{output.name}.json"
        recipe.write_text(json.dumps({
            "base": str(RECIPE), "name": "fp8", "output": str(output), "model": {"tokenizer": str(self.root / "tokenizer")},
            "data": {"train": [{"path": str(self.data)}], "validation": [], "sequence_length": 256}, "precision": {**(precision or {}), **more},
            **({"optimizer": optimizer} if optimizer else {}), "lr_schedule": {"name": "constant", "warmup_steps": 0}, "log": {"tensorboard": False}, "evaluate": {"every": 0},
            "parallel": {"pp": pp, "ep": ep, "pipeline_schedule": schedule}, "checkpoint": {"every": 2},
            "train": {"steps": steps, "sequences_per_step": rows, "sequences_per_microbatch": rows_per_microbatch,
                      "batch_ramp": {"from": 0, "steps": 0}, "recompute": recompute}}))
        return recipe, output

    def train(self, label, layout=(1, 1, 1, "1f1b"), **changes):
        recipe, output = self.recipe(label, layout, **changes)
        ENVIRONMENT["OMP_NUM_THREADS"] = "1" if layout[0] > 1 else "2"
        run("train", recipe, ranks=layout[0])
        return output


def bits(output):
    return [[row[key] for key in ("loss", "mtp_loss", "grad_norm")] for row in read_jsonl(output / "metrics.jsonl")]


def main():
    checks = Checks()
    expect = checks.expect

    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        float32 = runs.train("float32")
        reference = runs.train("np 1", fp8="blockwise")
        curve = losses(reference)
        expect(curve[-1] < curve[0] and curve != losses(float32), f"blockwise: loss {curve[0]:.4f} -> {curve[-1]:.4f}; float32 "
               f"{losses(float32)[0]:.4f} -> {losses(float32)[-1]:.4f}; largest difference {largest_difference(curve, losses(float32)):.2e}")
        for name, layout in LAYOUTS.items():
            difference = largest_difference(losses(runs.train(name, layout, fp8="blockwise")), curve)
            expect(difference <= BOUND, f"{name} against one rank: {difference:.2e}")
        alone = {}
        for name, travel in {"tokens in FP8": {"dispatch": "fp8"}, "tokens and products in FP8": {"fp8": "blockwise", "dispatch": "fp8"},
                             "tokens in FP8, sums in bfloat16": {"dispatch": "fp8", "combine": "bfloat16"}}.items():
            one = alone[name] = runs.train(f"{name} np 1", **travel)
            difference = largest_difference(losses(runs.train(f"{name} ep 2", LAYOUTS["ep 2"], **travel)), losses(one))
            expect(difference <= BOUND and bits(one) != bits(reference if "fp8" in travel else float32), f"{name}, ep 2 against one rank: {difference:.2e}")
        # Each rank rounds its part of a sum: layouts start together, and then differ as formats do.
        everything = {"fp8": "blockwise", "dispatch": "fp8", "combine": "bfloat16"}
        one, two = losses(runs.train("everything np 1", **everything)), losses(runs.train("everything ep 2", LAYOUTS["ep 2"], **everything))
        expect(largest_difference(two[:1], one[:1]) < 1e-5 and largest_difference(two, one) < 0.01,
               f"products too, ep 2 against one rank: {largest_difference(two[:1], one[:1]):.2e}, later {largest_difference(two, one):.2e}")
        # Experts in FP8 take the very numbers that arrive: only gradients are rounded once more.
        arrived = bits(alone["tokens and products in FP8"])
        expect(arrived[0][:2] == bits(reference)[0][:2] and arrived[0] != bits(reference)[0], "what arrives in FP8 are the experts' operands")
        for kind in ("selective", "full"):
            same = bits(runs.train(f"recompute {kind}", steps=2, recompute=kind, fp8="blockwise")) == bits(reference)[:2]
            expect(same, f"recompute {kind}: {'the same to the bit' if same else 'DIFFERS'}")
        runs.train("resumed", steps=2, fp8="blockwise")
        expect(bits(runs.train("resumed", fp8="blockwise")) == bits(reference), "stopped after 2 steps and resumed: the same to the bit")
        narrow = {"precision": {"compute": "bfloat16"}, "optimizer": {"moments": "bfloat16", "moment_rounding": "stochastic"}}
        bfloat16 = runs.train("bfloat16", **narrow)
        expect(largest_difference(losses(bfloat16), losses(float32)) < 0.01 and losses(bfloat16) != losses(float32),
               f"bfloat16, stochastic moments: within {largest_difference(losses(bfloat16), losses(float32)):.2e} of float32")
        for name, layout in LAYOUTS.items():
            difference = largest_difference(losses(runs.train(f"{name} bfloat16", layout, **narrow)), losses(bfloat16))
            expect(difference <= BOUND, f"bfloat16, {name} against one rank: {difference:.2e}")
        runs.train("bfloat16 resumed", steps=2, **narrow)
        expect(bits(runs.train("bfloat16 resumed", **narrow)) == bits(bfloat16), "bfloat16, stopped and resumed: the same to the bit")
        for name, precision in {"tensorwise": {"fp8": "tensorwise"}, "powers of two": {"fp8": "blockwise", "fp8_power_of_two_scales": True}}.items():
            other = losses(runs.train(name, steps=2, **precision))
            expect(largest_difference(other, curve[:2]) < 0.01 and other != curve[:2], f"{name}: within {largest_difference(other, curve[:2]):.2e} of blockwise")
        cost = [statistics.median(row["step_seconds"] for row in read_jsonl(output / "metrics.jsonl")[1:]) for output in (float32, reference)]
        print(f"a step takes {cost[1]:.3f} s, in float32 {cost[0]:.3f} s: {cost[1] / cost[0]:.2f} times")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
