"""What a training step with FP8 products costs on this machine beside one in float32, where FP8 is emulated: the miniature DeepSeek-V3 of
recipes/pretrain on one process. The precisions take turns, and each figure is a median.

  fp8_bench.py [--rounds 3] [--steps 12] [--threads 2]
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))
import fp8  # noqa: E402
from harness import ENVIRONMENT, documents, read_jsonl, run, write_jsonl  # noqa: E402

PRECISIONS = {"float32": {}, "blockwise": {"fp8": "blockwise"}, "blockwise, powers of two": {"fp8": "blockwise", "fp8_power_of_two_scales": True},
              "tensorwise": {"fp8": "tensorwise"}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    seconds = {name: [] for name in PRECISIONS}
    with tempfile.TemporaryDirectory() as folder:
        runs = fp8.Runs(Path(folder))
        runs.data = write_jsonl(Path(folder) / "data.jsonl", documents(400, 200, 250, seed=2))
        for number in range(options.rounds):
            for name, precision in PRECISIONS.items():
                recipe, output = runs.recipe(f"{name} {number}", steps=options.steps, rows=16, rows_per_microbatch=8, **precision)
                ENVIRONMENT["OMP_NUM_THREADS"] = str(options.threads)
                run("train", recipe)
                seconds[name] += [row["step_seconds"] for row in read_jsonl(output / "metrics.jsonl")[2:]]
    base = statistics.median(seconds["float32"])
    print("| products | seconds a step | of float32 |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values):.3f} | {statistics.median(values) / base:.2f} |")


if __name__ == "__main__":
    main()
