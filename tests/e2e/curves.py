"""The loss curve does not depend on the number of ranks or on the micro-batch, nor one step's loss on packing.

  curves.py [--full]     --full: np 1, 2, 3 x micro-batch 1, 2, 4; otherwise a Latin square's row of it
"""

import sys
import tempfile
from pathlib import Path

from harness import documents, largest_difference, losses, make_model, read_jsonl, run, write_jsonl, write_recipe

STEPS, BOUND = 30, 1e-5


def curves(root, model, data, packing, layouts):
    reference, worst = None, 0.0
    for ranks, micro in layouts:
        output = root / f"run-{packing}-{ranks}-{micro}"
        recipe = write_recipe(root / "recipe.json", model, data, output, data={"packing": packing},
                              train={"steps": STEPS, "sequences_per_step": 9, "sequences_per_microbatch": micro},
                              checkpoint={"every": 0})
        run("train", recipe, ranks=ranks)
        curve = losses(output)
        assert len(curve) == STEPS
        reference = reference or curve
        difference = largest_difference(curve, reference)
        worst = max(worst, difference)
        print(f"  np {ranks}, {micro} rows a micro-batch: loss {curve[0]:.6f} -> {curve[-1]:.6f}, difference {difference:.3g}", flush=True)
    assert reference[-1] != reference[0], "nothing was learnt"
    print(f"{'packed' if packing else 'unpacked'}: largest relative difference of {len(layouts)} curves of {STEPS} steps: {worst:.3g}")
    return worst


def packed_step(root, model):
    """All documents in one step: packed and unpacked rows hold the same."""
    rows = documents(24, 5, 60, seed=4)
    data = write_jsonl(root / "one.jsonl", rows)
    found = []
    for packing, ranks in ((False, 1), (True, 1), (True, 2)):
        output = root / f"one-{packing}-{ranks}"

        def recipe(count):
            return write_recipe(root / "recipe.json", model, data, output, data={"packing": packing},
                                train={"steps": 1, "sequences_per_step": count}, checkpoint={"every": 0})

        text = run("inspect", "data", recipe(1), "--count", 0).stdout
        count = int(next(line.split()[1] for line in text.splitlines() if line.startswith("rows ")))
        assert (count < len(rows)) == packing, (count, packing)
        run("train", recipe(count), ranks=ranks)
        metrics = read_jsonl(output / "metrics.jsonl")[0]
        assert metrics["target_tokens"] == sum(sum(d["loss_mask"]) for d in rows)
        found.append(metrics)
    loss = max(abs(m["loss"] - found[0]["loss"]) / found[0]["loss"] for m in found)
    norm = max(abs(m["grad_norm"] - found[0]["grad_norm"]) / found[0]["grad_norm"] for m in found)
    print(f"one step of the same documents, packed against unpacked: loss differs by {loss:.3g}, gradient norm by {norm:.3g}")
    return max(loss, norm / 10)


def main():
    full = "--full" in sys.argv
    layouts = [(n, m) for n in (1, 2, 3) for m in (1, 2, 4)] if full else [(1, 1), (2, 4), (3, 2)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = make_model(root / "model")
        data = write_jsonl(root / "train.jsonl", documents(150, 5, 120, seed=1))
        worst = max(packed_step(root, model), *(curves(root, model, data, packing, layouts) for packing in (True, False)))
    print(f"largest difference {worst:.3g}, bound {BOUND:g}")
    return 0 if worst <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
