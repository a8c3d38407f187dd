"""Training on a device that a plug-in brings: here tensor operations on the CPU in place of its kernels, so the way that a GPU goes. The
miniature DeepSeek-V3 of recipes/pretrain gives the CPU's losses in float32, near ones in bfloat16 and FP8, the same in any layout; a run begun
on one goes on on the other.

  device.py
"""

import os
import sys
import tempfile
from pathlib import Path

from fp8 import Runs, bits
from harness import Checks, ENVIRONMENT, largest_difference, losses, read_jsonl, run
from lora_fp8 import Runs as LoraRuns

PLUGIN = os.environ["TESSERA_DEVICE_PLUGIN"]
KIND = os.environ.get("TESSERA_DEVICE", "tensors")  # cuda: on a GPU, with a binary that was built for it
# (ranks, pp, ep, schedule)
LAYOUTS = {"dp 2": (2, 1, 1, "1f1b"), "ep 2": (2, 1, 2, "1f1b"), "pp 2, zero bubble": (2, 2, 1, "zb_h1")}


class DeviceRuns(Runs):
    def on(self, device, label, layout=(1, 1, 1, "1f1b"), expect=0, **changes):
        recipe, output = self.recipe(label, layout, **changes)
        ENVIRONMENT["OMP_NUM_THREADS"] = "1" if layout[0] > 1 else "2"
        result = run("--plugin", PLUGIN, "train", recipe, f"device={device}", ranks=layout[0], expect=expect, timeout=600)
        return output if expect == 0 else result.stderr


def main():
    checks = Checks()
    expect = checks.expect

    with tempfile.TemporaryDirectory() as root:
        runs = DeviceRuns(Path(root))

        def apart(a, b):
            return largest_difference(losses(a), losses(b))

        narrow = {"precision": {"compute": "bfloat16"}, "optimizer": {"moments": "bfloat16", "moment_rounding": "stochastic"}}
        cpu, device = runs.train("cpu"), runs.on(KIND, "device")
        expect(apart(device, cpu) < 1e-4, f"float32: losses {apart(device, cpu):.1e} from the CPU's")
        counts = [[[layer["counts"] for layer in row["moe_layers"]] for row in read_jsonl(run / "metrics.jsonl")] for run in (cpu, device)]
        expect(counts[0][0] == counts[1][0], "experts' counts of the first step are the CPU's")
        expect(bits(runs.on(KIND, "device again")) == bits(device), "a second run: the same bits")
        for name, layout in LAYOUTS.items():
            output = runs.on(KIND, f"device {name}", layout, steps=2)
            difference = largest_difference(losses(output), losses(device)[:2])
            expect(difference < 1e-3, f"float32, {name}: {difference:.1e} from one rank")
        cpu16, device16 = runs.train("cpu16", **narrow), runs.on(KIND, "device16", **narrow)
        expect(0 < apart(device16, cpu16) < 0.02, f"bfloat16: {apart(device16, cpu16):.1e} from the CPU's")
        output = runs.on(KIND, "device16 pp 2", LAYOUTS["pp 2, zero bubble"], steps=2, **narrow)
        difference = largest_difference(losses(output), losses(device16)[:2])
        expect(difference < 1e-3, f"bfloat16, pp 2: {difference:.1e} from one rank")
        cpu8, device8 = runs.train("cpu8", fp8="blockwise"), runs.on(KIND, "device8", fp8="blockwise")
        expect(0 < apart(device8, cpu8) < 5e-3, f"FP8: {apart(device8, cpu8):.1e} from the CPU's")

        sent = {"fp8": "blockwise", "dispatch": "fp8"}
        alone, ranks = runs.on(KIND, "dispatch", steps=2, **sent), runs.on(KIND, "dispatch ep 2", LAYOUTS["ep 2"], steps=2, **sent)
        expect(apart(ranks, alone) < 1e-3, f"FP8 on the way to experts, ep 2: {apart(ranks, alone):.1e} from one rank")

        for label, first, second in (("there and back", "cpu", KIND), ("the other way", KIND, "cpu")):
            for device_now, steps in ((first, 2), (second, 4)):
                output = runs.on(device_now, label, steps=steps)
            expect(apart(output, cpu) < 1e-3, f"begun on {first}, gone on on {second}: {apart(output, cpu):.1e} from the CPU's")
        for steps in (2, 4):
            output = runs.on(KIND, "device16 resumed", steps=steps, **narrow)
        expect(bits(output) == bits(device16), "bfloat16: resumed, the same bits")

        for model in ("llama", "deepseek"):  # adapters over a base in FP8, whose numbers are made where it lies
            lora = LoraRuns(Path(root), model)
            on_cpu, _ = lora.train("cpu", lora.plain, "fp8")
            products = {"precision": {"fp8": "blockwise"}}
            reference, _ = lora.train("cpu, products in FP8", lora.plain, None, **products)
            recipe, output = lora.recipe("device, products in FP8", lora.plain, None, device=KIND, **products)
            run("--plugin", PLUGIN, "train", recipe)
            apart_by = [abs(a - b[0]) / b[0] for a, b in zip(losses(output), reference)]
            # The learning rate is high: an activation that one of the two rounded up is soon another run.
            expect(apart_by[0] < 1e-3 and 0 < max(apart_by) < 0.02, f"{model}, LoRA beside products in FP8: {apart_by[0]:.1e}, later {max(apart_by):.1e} from the CPU's")
            for compute, bound in (("float32", 1e-4),) if model == "llama" else (("bfloat16", 0.02),):
                recipe, output = lora.recipe(f"device {compute}", lora.plain, "fp8", device=KIND, precision={"compute": compute})
                run("--plugin", PLUGIN, "train", recipe)
                difference = max(abs(a - b[0]) / b[0] for a, b in zip(losses(output), on_cpu))
                expect(difference < bound, f"{model}, LoRA over FP8, {compute}: {difference:.1e} from the CPU's")

        for name, device_name, text in (("unknown", "tpu", "no device kind is called 'tpu'; known: "), ("without kernels", "idle", "brings no kernels")):
            errors = runs.on(device_name, f"refused {name}", expect=1)
            expect(text in errors, f"a device that is {name}: {errors.strip().splitlines()[-1] if errors.strip() else 'no error'}")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
