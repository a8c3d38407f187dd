"""Generation on a device that a plug-in brings, as in device.py: the CPU's tokens from `generate`, and its rollouts in GRPO.

  device_generation.py
"""

import os
import sys
import tempfile
from pathlib import Path

from grpo import Bench, difference
from harness import Checks, make_model, read_jsonl, run, write_jsonl
from layouts import DEEPSEEK

PLUGIN = os.environ["TESSERA_DEVICE_PLUGIN"]
KIND = os.environ.get("TESSERA_DEVICE", "tensors")


def generated(root, model, prompts, *options):
    output = root / "said.jsonl"
    run("--plugin", PLUGIN, "generate", "--model", model, "--input", prompts, "--output", output, "--seed", 5, "--max-new-tokens", 20, *options)
    return [row["tokens"] for row in read_jsonl(output)]


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = make_model(root / "model")
        prompts = write_jsonl(root / "asked.jsonl", [{"prompt": "abcdefgh"[: 1 + i % 8]} for i in range(12)])
        cpu = generated(root, model, prompts)
        for options in ((), ("--batch", 2)):
            checks.expect(generated(root, model, prompts, "--device", KIND, *options) == cpu, f"generate {' '.join(map(str, options))}: the CPU's tokens")

        replay = {"rl": {"routing_replay": True, "updates_per_rollout": 2}, "optimizer": {"lr": 2e-2, "weight_decay": 0.0}}
        for name, settings in (("GRPO", {}), ("replayed experts", replay)):
            bench = Bench(root, name.replace(" ", "-"), DEEPSEEK)
            rows = {}
            for label, ranks, ep, where in (("cpu", 1, 1, "cpu"), ("device", 1, 1, KIND), ("device-ep-2", 2, 2, KIND)):
                recipe, output = bench.recipe(label, ep=ep, steps=3, **settings)
                run("--plugin", PLUGIN, "train", recipe, f"device={where}", ranks=ranks)
                rows[label] = read_jsonl(output / "metrics.jsonl")
            counts = {label: [[layer["counts"] for layer in row["moe_layers"]] for row in of_run] for label, of_run in rows.items()}
            for label in ("device", "device-ep-2"):
                apart = difference(rows[label], rows["cpu"])
                checks.expect(apart < 1e-4 and counts[label] == counts["cpu"], f"{name}, {label}: the CPU's rollouts and experts, {apart:.1e} from its losses")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
