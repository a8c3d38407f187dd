"""Balancing without an auxiliary loss evens out a skewed router: the tiny DeepSeek-V3 of recipes/pretrain/, on text of this
machine. After 150 steps from fresh weights (the first hundred learn how frequent each token is, and all tokens look alike to
the router) four experts of 32 in each layer get a router row three times as loud, which draws most tokens to them. Over the
next 100 steps bias updates bring the fullest expert's load within 0.3 of the mean; with updates off, on the same data, its
excess stays at least three times as high."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import yaml

from harness import ROOT, read_jsonl, read_safetensors, run, safetensors_bytes

STEPS, LAST, BOUND, RATIO = 100, 20, 0.3, 3.0
RECIPE = ROOT / "recipes" / "pretrain" / "tiny-deepseek-v3.yaml"
HOT, LOUDER = 4, 3.0


def train(root, name, settings):
    path = root / f"{name}.json"
    path.write_text(json.dumps({**settings, "output": str(root / name)}))
    run("train", path, ranks=2)
    return root / name


def skewed_folder(root, settings):
    """A model past its first steps, the first router rows of each layer multiplied."""
    base = train(root, "base", {**settings, "train": {"steps": 150, "sequences_per_step": 16, "sequences_per_microbatch": 8},
                                "moe": {**settings["moe"], "bias_update_rate": 0.01},
                                "lr_schedule": {"name": "constant", "warmup_steps": 20}})
    folder = root / "skewed"
    run("export", base, "--output", folder, "--dtype", "float32")
    tensors = {name: numpy.array(value) for name, value in read_safetensors(folder / "model.safetensors").items()}
    for name in tensors:
        if name.endswith("mlp.gate.weight"):
            tensors[name][:HOT] *= LOUDER
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return folder


def max_violations(run_folder):
    """[steps, layers]: the fullest expert's load above the mean, as a share of the mean."""
    rows = read_jsonl(run_folder / "metrics.jsonl")
    assert len(rows) == STEPS, len(rows)
    counts = numpy.array([[layer["counts"] for layer in row["moe_layers"]] for row in rows], dtype=float)
    main = counts[:, :-1].sum(axis=2)  # the last is the MTP module's, which has no row for a document's last token
    assert (main == main[:, :1]).all() and (counts[:, -1].sum(axis=1) < main[:, 0]).all(), "layers lost tokens"
    violations = counts.max(axis=2) / counts.mean(axis=2) - 1
    reported = numpy.array([row["moe_max_violation"] for row in rows])
    assert numpy.allclose(reported, violations.max(axis=1)), "metrics.jsonl's max violation is not that of its counts"
    return violations


def main():
    settings = yaml.safe_load(RECIPE.read_text())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run([RECIPE.parent / "collect-text", root / "text", "3"], check=True, stdout=subprocess.DEVNULL)
        run("train-tokenizer", "--input", root / "text" / "train", "--vocab", settings["model"]["config"]["vocab_size"],
            "--output", root / "tokenizer")
        settings["model"]["tokenizer"] = str(root / "tokenizer")
        settings.update(checkpoint={"every": 0}, evaluate={"every": 0}, log={"tensorboard": False})
        settings["data"] = {**settings["data"], "train": [{"path": str(root / "text" / "train")}], "validation": []}
        settings["model"] = {"path": str(skewed_folder(root, settings))}
        settings["train"] = {"steps": STEPS, "sequences_per_step": 32, "sequences_per_microbatch": 16}
        settings["optimizer"] = {**settings["optimizer"], "lr": 3e-4}
        settings["lr_schedule"] = {"name": "constant"}
        found = []
        for rate in (0.003, 0.0):
            settings["moe"] = {**settings["moe"], "bias_update_rate": rate}
            violations = max_violations(train(root, f"rate-{rate}", settings))
            found.append(violations[-LAST:].mean(axis=0).max())
            print(f"bias_update_rate {rate}: max violation {violations[0].max():.2f} at step 1; worst layer's mean over the last {LAST} of "
                  f"{STEPS} steps {found[-1]:.3f}", flush=True)
    on, off = found
    print(f"on {on:.3f} (bound {BOUND}), off {off:.3f}: {off / on:.1f} times (bound {RATIO})")
    return 0 if on < BOUND and off >= RATIO * on else 1


if __name__ == "__main__":
    sys.exit(main())
