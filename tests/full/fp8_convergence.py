"""What FP8 costs in loss: the miniature DeepSeek-V3 of recipes/pretrain with experts of 128 (12 million parameters), trained on text with the
same weights, data and seed in float32 and in each FP8 recipe, beside the noise floor: float32 from weights perturbed by 1e-3. Three seeds.
The mean relative difference of the losses of the last 100 steps must be within the floor's largest or 1 % for blockwise.

  fp8_convergence.py --work DIR [--steps 500] [--seeds 1 2 3] [--variants NAME ..] [--ranks 1] [--threads 2] [--sequences 8]
                     [--learning-rate 1e-3] [--output curves.md]

Runs that DIR already holds are taken from there, so that an interrupted experiment goes on. --output also writes curves.svg beside it.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from harness import ENVIRONMENT, ROOT, losses, read_safetensors, run, safetensors_bytes  # noqa: E402

LAST, BOUND, PERTURBATION, SMOOTHING = 100, 0.01, 1e-3, 0.9
VARIANTS = {"float32": {}, "perturbed": {}, "blockwise": {"fp8": "blockwise"}, "blockwise, powers of two": {"fp8": "blockwise", "fp8_power_of_two_scales": True},
            "tensorwise": {"fp8": "tensorwise"}, "blockwise, coarse gradients": {"fp8": "blockwise_coarse_gradients"}}
USUAL = ["float32", "perturbed", "blockwise", "tensorwise", "blockwise, coarse gradients"]
COLOURS = ["#222222", "#999999", "#1f77b4", "#17becf", "#d62728", "#ff7f0e"]


class Experiment:
    def __init__(self, work, options):
        self.work, self.steps, self.ranks, self.sequences = work, options.steps, options.ranks, options.sequences
        self.learning_rate = options.learning_rate
        work.mkdir(parents=True, exist_ok=True)
        ENVIRONMENT["OMP_NUM_THREADS"] = str(options.threads)
        if not (work / "text").exists():
            subprocess.run([ROOT / "recipes" / "pretrain" / "collect-text", work / "text", "20"], check=True)
        if not (work / "tokenizer").exists():
            run("train-tokenizer", "--input", work / "text" / "train", "--vocab", 4096, "--output", work / "tokenizer", timeout=600)

    def recipe(self, name, seed, model, steps, **changes):
        output = self.work / name
        settings = {"base": str(ROOT / "recipes" / "pretrain" / "tiny-deepseek-v3.yaml"), "name": name, "seed": seed, "output": str(output), "model": model,
                    "data": {"train": [{"path": str(self.work / "text" / "train")}], "validation": []},
                    "train": {"steps": steps, "sequences_per_step": self.sequences, "sequences_per_microbatch": 8, "batch_ramp": {"from": 0, "steps": 0}},
                    "evaluate": {"every": 0}, "log": {"tensorboard": False}, "checkpoint": {"every": 100, "keep": 1}, **changes}
        path = self.work / f"{name}.json"
        path.write_text(json.dumps(settings))
        return path, output

    def start(self, seed):
        """Folders of fresh weights and of the same ones perturbed. The weights are what a step with almost no learning rate leaves."""
        fresh, moved = self.work / f"start-{seed}", self.work / f"start-{seed}-perturbed"
        if not fresh.exists():
            recipe, output = self.recipe(f"fresh-{seed}", seed, {"tokenizer": str(self.work / "tokenizer"), "config": {"moe_intermediate_size": 128}}, 1,
                                         optimizer={"lr": 1e-30, "weight_decay": 0.0}, lr_schedule={"name": "constant", "warmup_steps": 0},
                                         moe={"bias_update_rate": 0})
            run("train", recipe)
            run("export", output, "--output", fresh, "--dtype", "float32")
        if not moved.exists():
            moved.mkdir()
            for file in fresh.iterdir():
                if file.suffix != ".safetensors":
                    (moved / file.name).write_bytes(file.read_bytes())
            draw = numpy.random.default_rng(seed)
            tensors = read_safetensors(fresh / "model.safetensors")
            perturbed = {}  # by value: MTP modules repeat the embedding and the head
            for weight in tensors.values():
                if weight.tobytes() not in perturbed:
                    perturbed[weight.tobytes()] = (weight * (1 + PERTURBATION * draw.standard_normal(weight.shape))).astype("f4")
            (moved / "model.safetensors").write_bytes(safetensors_bytes({n: perturbed[w.tobytes()] for n, w in tensors.items()}))
        return fresh, moved

    def curve(self, variant, seed):
        fresh, moved = self.start(seed)
        recipe, output = self.recipe(f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}", seed, {"path": str(moved if variant == "perturbed" else fresh)},
                                     self.steps, precision=VARIANTS[variant])
        text = json.loads(recipe.read_text())
        text.pop("base")  # whose model.config excludes model.path
        text.update(task="pretrain", optimizer={"lr": self.learning_rate, "betas": [0.9, 0.95], "weight_decay": 0.1, "grad_clip": 1.0},
                    lr_schedule={"name": "wsd", "warmup_steps": 100, "final_lr": 0.1, "decay_steps": 120},
                    moe={"bias_update_rate": 3e-3, "sequence_balance_loss": 1e-4}, mtp={"loss_weight": 0.3})
        text["data"]["sequence_length"] = 256
        text["train"].pop("batch_ramp")
        recipe.write_text(json.dumps(text))
        run("train", recipe, ranks=self.ranks, timeout=24 * 3600)  # resumes, or ends at once where it is done
        found = losses(output)
        assert len(found) == self.steps, f"{output} has {len(found)} steps; remove it to start anew"
        return found


def smoothed(curve):
    values, mean = [], curve[0]
    for loss in curve:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        values.append(mean)
    return values


def differences(curve, reference):
    """Over the last steps: the mean relative difference of each step's losses, its magnitude, and that of the smoothed curves."""
    last = [(a - b) / b for a, b in zip(curve, reference)][-LAST:]
    smooth = [(a - b) / b for a, b in zip(smoothed(curve), smoothed(reference))][-LAST:]
    return abs(statistics.mean(last)), statistics.mean(map(abs, last)), statistics.mean(map(abs, smooth))


def polylines(curves, width, height, low, high, left, top):
    lines = []
    for colour, (_, values) in zip(COLOURS, curves.items()):
        points = " ".join(f"{left + width * i / max(1, len(values) - 1):.1f},{top + height * (1 - (min(max(v, low), high) - low) / (high - low)):.1f}"
                          for i, v in enumerate(values))
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" points="{points}"/>')
    return lines


def chart(curves, title):
    """Smoothed losses above, relative differences from float32 below."""
    smooth = {name: smoothed(curve) for name, curve in curves.items()}
    against = {name: [100 * (a - b) / b for a, b in zip(values, smooth["float32"])] for name, values in smooth.items()}
    low, high = min(min(v) for v in smooth.values()), max(max(v) for v in smooth.values())
    body = [f'<text x="60" y="20">{title}</text>'] + polylines(smooth, 760, 240, low, high, 60, 30) + polylines(against, 760, 160, -2.0, 2.0, 60, 310)
    for y, text in ((35, f"{high:.2f}"), (270, f"{low:.2f}"), (315, "+2 %"), (393, "0"), (470, "-2 %")):
        body.append(f'<text x="8" y="{y}" font-size="12">{text}</text>')
    body.append('<line x1="60" y1="390" x2="820" y2="390" stroke="#cccccc"/>')
    for i, (colour, name) in enumerate(zip(COLOURS, curves)):
        body.append(f'<text x="600" y="{50 + 18 * i}" fill="{colour}" font-size="13">{name}</text>')
    return '<svg xmlns="http://www.w3.org/2000/svg" width="840" height="490" font-family="sans-serif"><rect width="840" height="490" fill="white"/>\n' + \
        "\n".join(body) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", default=USUAL, choices=list(VARIANTS))
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of each rank")
    parser.add_argument("--sequences", type=int, default=8, help="of 256 tokens, in a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="at which two float32 runs stay together")
    parser.add_argument("--output", type=Path, help="a table in Markdown, with a chart beside it")
    options = parser.parse_args()
    names = ["float32", *(v for v in options.variants if v != "float32")]
    experiment = Experiment(options.work, options)
    found = {name: [] for name in names[1:]}
    for seed in options.seeds:
        curves = {}
        for name in names:
            curves[name] = experiment.curve(name, seed)
            if name == "float32":
                continue
            found[name].append(differences(curves[name], curves["float32"]))
            print(f"seed {seed}, {name}: loss {curves[name][0]:.4f} -> {statistics.mean(curves[name][-LAST:]):.4f}, float32 "
                  f"{statistics.mean(curves['float32'][-LAST:]):.4f}; {found[name][-1][0]:.3%} off, {found[name][-1][1]:.3%} a step, "
                  f"{found[name][-1][2]:.3%} smoothed", flush=True)
        if options.output and seed == options.seeds[0]:
            options.output.with_suffix(".svg").write_text(chart(curves, f"{options.steps} steps, seed {seed}"))
    lines = [f"| products | mean difference, largest of {len(options.seeds)} seeds | a step | smoothed |", "|---|---|---|---|"]
    lines += [f"| {name} | {max(d[0] for d in values):.3%} | {max(d[1] for d in values):.3%} | {max(d[2] for d in values):.3%} |" for name, values in found.items()]
    print("\n".join(lines))
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")
    if "blockwise" not in found:
        return 0
    floor = max(d[1] for d in found.get("perturbed", [(0, 0, 0)]))
    worst = max(d[1] for d in found["blockwise"])
    good = worst <= max(floor, BOUND)
    print(f"blockwise {worst:.3%} a step, noise floor {floor:.3%}{'' if good else '  FAILED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
