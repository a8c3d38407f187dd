"""Reinforcement learning end to end: any layout makes the same rollouts and the same losses; a run that is killed goes on to the
bit, with rollouts made beside training and with replayed experts too; every objective runs; rewards that fail are contained.

  grpo.py [--only WORD]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import ENVIRONMENT, command, read_jsonl, run, wait_until, write_jsonl, write_recipe, write_tokenizer
from layouts import DEEPSEEK, QWEN

STEPS, LOSS_BOUND = 5, 1e-5
# (ranks, pp, ep, schedule)
LAYOUTS = [(2, 1, 1, "1f1b"), (2, 1, 2, "1f1b"), (2, 2, 1, "1f1b"), (4, 2, 2, "1f1b"), (2, 2, 1, "dualpipe_v"), (4, 2, 2, "dualpipe")]


class Bench:
    def __init__(self, root, name, config):
        self.root, self.name, self.config = root, name, config
        (root / "tokenizer").mkdir(exist_ok=True)
        write_tokenizer(root / "tokenizer")
        self.data = write_jsonl(root / "prompts.jsonl", [{"prompt": f"{i} + {i % 7} =" + " x" * (i % 5), "answer": str(i + i % 7)} for i in range(40)])

    def recipe(self, label, pp=1, ep=1, schedule="1f1b", steps=STEPS, rollouts=16, per_microbatch=3, rewards=None, rl=None, **sections):
        output = self.root / f"{self.name}-{label}"
        settings = {
            "task": "grpo", "model": {"config": self.config, "tokenizer": str(self.root / "tokenizer")}, "data": {},
            "train": {"steps": steps, "sequences_per_step": rollouts, "sequences_per_microbatch": per_microbatch},
            "optimizer": {"lr": 3e-3, "weight_decay": 0.0}, "lr_schedule": {"name": "constant", "warmup_steps": 0},
            "parallel": {"pp": pp, "ep": ep, "pipeline_schedule": schedule}, "checkpoint": {"every": 0}, "communication": {"timeout_seconds": 60},
            "rl": {"rollouts_per_prompt": 4, "max_new_tokens": 12, "rewards": rewards or [{"name": "regex", "pattern": "[0-9]"}], **(rl or {})}}
        for section, values in sections.items():
            settings[section] = {**settings.get(section, {}), **values}
        recipe = write_recipe(self.root / f"{self.name}-{label}.json", "unused", self.data, output, **settings)
        recipe.write_text(recipe.read_text().replace('"path": "unused",', ""))
        return recipe, output

    def train(self, label, ranks=1, **settings):
        recipe, output = self.recipe(label, **settings)
        run("train", recipe, ranks=ranks)
        return read_jsonl(output / "metrics.jsonl")


def difference(rows, base):
    """The largest of losses, and relative of entropies and gradient norms, of two runs with the same rollouts."""
    assert [r["rollouts_digest"] for r in rows] == [r["rollouts_digest"] for r in base], "other rollouts"
    # The loss itself is near zero on fresh rollouts: entropy and gradient say more.
    return max(max(abs(a["loss"] - b["loss"]), abs(a["entropy"] - b["entropy"]) / b["entropy"],
                   0.1 * abs(a["grad_norm"] - b["grad_norm"]) / b["grad_norm"]) for a, b in zip(rows, base))


def same_in_every_layout(root):
    for name, config in (("deepseek", DEEPSEEK), ("qwen", QWEN)):
        bench = Bench(root, name, config)
        base = bench.train("np1")
        assert len({row["rollouts_digest"] for row in base}) == STEPS, base
        assert all(row["kl_rollout_train"] < 1e-8 and row["largest_ratio_error"] < 1e-4 for row in base), base
        # Weights that stand still (a learning rate of 0 is refused): ratios are those of the trainer's passes and generation's.
        still = bench.train("still", optimizer={"lr": 1e-30}, rl={"updates_per_rollout": 2})
        ratio, divergence = max(r["largest_ratio_error"] for r in still), max(r["kl_rollout_train"] for r in still)
        assert ratio <= 1e-5 and divergence <= 1e-8 and all(r["clipped_share"] == 0 for r in still), still
        print(f"{name} standing still: ratios within {ratio:.1e} of 1, KL between rollouts and trainer {divergence:.1e}", flush=True)
        for ranks, pp, ep, schedule in LAYOUTS:
            if ep > 1 and name == "qwen":
                continue
            rows = bench.train(f"np{ranks}-pp{pp}-ep{ep}-{schedule}", ranks, pp=pp, ep=ep, schedule=schedule)
            worst = difference(rows, base)
            assert worst < LOSS_BOUND, f"np {ranks} pp {pp} ep {ep}: {worst:.2e}"
            print(f"{name} np {ranks} pp {pp} ep {ep} {schedule}: the same rollouts, losses {worst:.2e}", flush=True)


def kill_after(moment, recipe, output, ranks):
    """Runs until the checkpoint of step `moment` is there, and kills all ranks at once."""
    process = subprocess.Popen(command("train", recipe, ranks=ranks), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: len(list((output / "checkpoints").glob(f"step-*{moment}"))) > 0 or process.poll() is not None, 60, "no checkpoint")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


SAME_TO_THE_BIT = ("loss", "grad_norm", "reward", "rollouts_digest", "entropy", "clipped_share", "largest_ratio_error")


def killed_runs_go_on(root):
    """kill -9 at several moments, with rollouts pending in the checkpoint and a reference that is refreshed; and in another layout."""
    rl = {"updates_per_rollout": 2, "kl_coefficient": 0.05, "reference_refresh_every": 3, "clip_low": 0.1, "objective": "grpo"}
    bench = Bench(root, "deepseek", DEEPSEEK)
    settings = dict(steps=9, rollouts=8, rl=rl, checkpoint={"every": 1, "keep": 1})
    whole = bench.train("whole", 2, ep=2, **settings)
    assert [r["clipped_share"] > 0 for r in whole[1::2]].count(True) > 1 and all(r["clipped_share"] == 0 for r in whole[::2]), whole
    assert any(r["kl_reference"] > 1e-7 for r in whole)
    for moment in (1, 4, 7):
        recipe, output = bench.recipe(f"killed-{moment}", ep=2, **settings)
        kill_after(moment, recipe, output, 2)
        run("train", recipe, ranks=2)
        rows = read_jsonl(output / "metrics.jsonl")
        for key in (*SAME_TO_THE_BIT, "kl_reference"):
            assert [r[key] for r in rows] == [r[key] for r in whole], f"killed after step {moment}: another {key}"
    recipe, output = bench.recipe("elsewhere", steps=9, rollouts=8, rl=rl, checkpoint={"every": 3, "keep": 3})
    run("train", recipe, "train.steps=3")
    run("train", recipe, "parallel.pp=2", "parallel.ep=2", "parallel.pipeline_schedule=dualpipe", ranks=4)
    rows = read_jsonl(output / "metrics.jsonl")
    assert [r["rollouts_digest"] for r in rows] == [r["rollouts_digest"] for r in whole], "resumed in another layout: other rollouts"
    worst = max(abs(a["entropy"] - b["entropy"]) / b["entropy"] for a, b in zip(rows, whole))
    assert worst < LOSS_BOUND, worst
    print(f"killed at 3 moments: the same to the bit; resumed in another layout: {worst:.1e}", flush=True)


def rollouts_beside_training(root):
    """Staleness 1: which weights draw which phase; layouts agree; a run that is killed goes on to the bit."""
    bench = Bench(root, "deepseek", DEEPSEEK)
    frozen = {"lr": 1e-30, "weight_decay": 0.0}
    fresh = bench.train("fresh", 1, steps=1)
    still = bench.train("still", 1, optimizer=frozen)
    stale = bench.train("stale", 1, rl={"staleness": 1})
    digests = [[r["rollouts_digest"] for r in rows] for rows in (still, stale)]
    assert [r["rollouts_digest"] for r in bench.train("stale-still", 2, pp=2, rl={"staleness": 1}, optimizer=frozen)] == digests[0]
    assert all(stale[0][key] == fresh[0][key] for key in SAME_TO_THE_BIT), "the first phase is on-policy"
    # The first weights draw the second phase as well; from the third on they have moved.
    assert digests[1][:2] == digests[0][:2] and all(a != b for a, b in zip(digests[1][2:], digests[0][2:])), digests
    assert stale[0]["kl_rollout_train"] < 1e-8 and all(r["kl_rollout_train"] > 1e-6 for r in stale[1:]), [r["kl_rollout_train"] for r in stale]
    assert all("rollout_wait_seconds" in r for r in stale) and "rollout_wait_seconds" not in still[0]
    for ranks, pp, ep, schedule in [(2, 1, 1, "1f1b"), (2, 1, 2, "1f1b"), (2, 2, 1, "1f1b"), (4, 2, 2, "dualpipe")]:
        rows = bench.train(f"np{ranks}-pp{pp}-ep{ep}-{schedule}", ranks, pp=pp, ep=ep, schedule=schedule, rl={"staleness": 1})
        worst = difference(rows, stale)
        assert worst < LOSS_BOUND, f"np {ranks} pp {pp} ep {ep}: {worst:.2e}"
        print(f"stale np {ranks} pp {pp} ep {ep} {schedule}: the same rollouts, losses {worst:.2e}", flush=True)
    rl = {"staleness": 1, "updates_per_rollout": 2, "importance_cap": 2.0}
    settings = dict(steps=8, rollouts=8, rl=rl, checkpoint={"every": 1, "keep": 1}, evaluate={"every": 3}, data={"validation": [{"path": str(bench.data)}]})
    whole = bench.train("whole", 2, ep=2, **settings)
    unsaved = bench.train("unsaved", 2, ep=2, **{**settings, "checkpoint": {"every": 0}, "evaluate": {"every": 0}})
    assert all(a[key] == b[key] for a, b in zip(unsaved, whole) for key in SAME_TO_THE_BIT), "saving and evaluating change a run"
    for moment in (1, 4):
        recipe, output = bench.recipe(f"killed-{moment}", ep=2, **settings)
        kill_after(moment, recipe, output, 2)
        run("train", recipe, ranks=2)
        rows = read_jsonl(output / "metrics.jsonl")
        for key in SAME_TO_THE_BIT:
            assert [r[key] for r in rows] == [r[key] for r in whole], f"killed after step {moment}: another {key}"
        assert rows[5]["validation_reward"] == whole[5]["validation_reward"]
    recipe, output = bench.recipe("elsewhere", ep=2, **settings)
    kill_after(3, recipe, output, 2)
    run("train", recipe, "parallel.pp=2", "parallel.ep=1", "parallel.pipeline_schedule=dualpipe_v", ranks=2)
    worst = difference(read_jsonl(output / "metrics.jsonl"), whole)
    assert worst < LOSS_BOUND, worst
    print(f"stale, killed at 2 moments: the same to the bit; resumed in another layout: {worst:.1e}", flush=True)


def routing_replay(root):
    """Training takes the experts of the rollouts: layouts and recomputation agree, pending choices survive a kill, also into another layout."""
    bench = Bench(root, "deepseek", DEEPSEEK)
    rl = {"routing_replay": True, "staleness": 1, "updates_per_rollout": 2, "kl_coefficient": 0.02}
    settings = dict(steps=8, rollouts=16, optimizer={"lr": 2e-2, "weight_decay": 0.0}, moe={"bias_update_rate": 1e-2}, checkpoint={"every": 1, "keep": 1})
    whole = bench.train("whole", 2, ep=2, rl=rl, **settings)
    free = bench.train("free", 2, ep=2, rl={**rl, "routing_replay": False}, **settings)
    # The first weights would choose the same; later ones would not.
    counts = [[[layer["counts"] for layer in r["moe_layers"]] for r in rows] for rows in (whole, free)]
    assert counts[0][0] == counts[1][0] and abs(whole[0]["entropy"] - free[0]["entropy"]) < 1e-6, (whole[0], free[0])
    assert counts[0][1] != counts[1][1] and whole[1]["rollouts_digest"] == free[1]["rollouts_digest"], "lr too low to tell"
    for ranks, pp, ep, schedule, recompute in [(1, 1, 1, "1f1b", "full"), (2, 1, 1, "1f1b", "selective"), (2, 2, 1, "dualpipe_v", "none"), (4, 2, 2, "dualpipe", "full")]:
        rows = bench.train(f"np{ranks}-pp{pp}-ep{ep}-{schedule}", ranks, pp=pp, ep=ep, schedule=schedule, rl=rl, **settings,
                           train={"recompute": recompute, "steps": 8, "sequences_per_step": 16, "sequences_per_microbatch": 5})
        worst = difference(rows, whole)
        assert worst < LOSS_BOUND, f"np {ranks} pp {pp} ep {ep}: {worst:.2e}"
        print(f"replay np {ranks} pp {pp} ep {ep} {schedule} recompute {recompute}: losses {worst:.2e}", flush=True)
    for moment, layout in ((1, {}), (4, {}), (3, {"parallel.pp": 2, "parallel.pipeline_schedule": "dualpipe"}), (5, {"parallel.ep": 1})):
        recipe, output = bench.recipe(f"killed-{moment}", ep=2, rl=rl, **settings)
        kill_after(moment, recipe, output, 2)
        run("train", recipe, *(f"{key}={value}" for key, value in layout.items()), ranks=4 if "parallel.pp" in layout else 2)
        rows = read_jsonl(output / "metrics.jsonl")
        if layout:
            assert difference(rows, whole) < LOSS_BOUND, (moment, difference(rows, whole))
            continue
        for key in SAME_TO_THE_BIT:
            assert [r[key] for r in rows] == [r[key] for r in whole], f"killed after step {moment}: another {key}"
    print("replay, killed at 4 moments: the same to the bit, and in two other layouts", flush=True)
    result = run("train", Bench(root, "qwen", QWEN).recipe("dense", rl={"routing_replay": True})[0], expect=1)
    assert "rl.routing_replay takes the experts" in result.stderr, result.stderr


def every_objective(root):
    """Each runs with several updates a rollout, and the policy moves towards the reward."""
    bench = Bench(root, "qwen", QWEN)
    variants = {"grpo": {}, "r1_grpo": {"kl_coefficient": 0.001, "clip_high": 10.0}, "dr_grpo": {}, "gspo": {"clip_low": 3e-4, "clip_high": 4e-4},
                "dapo": {"clip_high": 0.28, "dynamic_sampling": True, "mask_truncated": False}, "cispo": {"clip_low": 1.0, "clip_high": 4.0},
                "grpo-batch": {"advantage": "batch", "importance_cap": 2.0}, "grpo-loo": {"advantage": "leave_one_out"}}
    for name, rl in variants.items():
        rows = bench.train(name, 2, steps=24, rollouts=32, rl={"objective": name.split("-")[0], "updates_per_rollout": 2, **rl},
                           optimizer={"lr": 2e-3})
        first, last = (sum(r["reward"] for r in part) / len(part) for part in (rows[:4], rows[-4:]))
        assert last > first + 0.1, f"{name}: reward {first:.2f} -> {last:.2f}"
        print(f"{name}: reward {first:.2f} -> {last:.2f}", flush=True)


def preferences(root):
    """DPO: the loss begins at ln 2, the chosen answers become likelier, layouts and a resumed run agree."""
    bench = Bench(root, "deepseek", DEEPSEEK)
    pairs = write_jsonl(root / "pairs.jsonl", [{"prompt": f"{i} and {i % 5}: ", "chosen": "yes" + " very" * (i % 3), "rejected": "no" + " way" * (i % 4)}
                                               for i in range(30)])
    settings = dict(steps=8, rollouts=8, per_microbatch=2, optimizer={"lr": 5e-4, "weight_decay": 0.0}, checkpoint={"every": 4, "keep": 3},
                    data={"train": [{"path": str(pairs)}], "validation": [{"path": str(pairs)}]})

    def recipe(label, **layout):
        path, output = bench.recipe(label, **settings, **layout)
        rl = json.loads(path.read_text())
        del rl["rl"]
        path.write_text(json.dumps({**rl, "task": "dpo", "dpo": {"beta": 0.5}}))
        return path, output

    path, output = recipe("np1")
    run("train", path)
    base = read_jsonl(output / "metrics.jsonl")
    assert abs(base[0]["loss"] - 0.693147) < 1e-5 and base[0]["reward_margin"] == 0, base[0]
    assert base[-1]["loss"] < 0.6 and base[-1]["preference_accuracy"] > 0.9 and base[-1]["validation_preference_accuracy"] > 0.9, base[-1]
    assert base[-1]["reward_chosen"] > 0 > base[-1]["reward_rejected"], base[-1]
    for ranks, layout in ((2, {}), (2, {"ep": 2}), (4, {"pp": 2, "ep": 2, "schedule": "dualpipe"}), (2, {"pp": 2, "schedule": "zb_v"})):
        path, output = recipe(f"np{ranks}-{'-'.join(map(str, layout.values()))}", **layout)
        run("train", path, "train.steps=4", ranks=ranks)
        run("train", path, ranks=ranks)  # resumed, with the reference of the start
        rows = read_jsonl(output / "metrics.jsonl")
        worst = max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(rows, base))
        assert len(rows) == 8 and worst < LOSS_BOUND, (layout, worst)
        print(f"dpo np {ranks} {layout}: {worst:.1e}", flush=True)


def what_fails_is_contained(root):
    bench = Bench(root, "qwen", QWEN)
    # Equal rewards: nothing is learnt, and that is said.
    rows = bench.train("equal", rewards=[{"name": "regex", "pattern": ".*"}], steps=2)
    assert all(r["zero_advantage_share"] == 1 and r["grad_norm"] == 0 for r in rows), rows
    # Nothing stops: completions end at their longest, with the share told; masked, they teach nothing.
    rows = bench.train("endless", steps=2, rl={"mask_truncated": True})
    assert all(r["truncated_share"] > 0.5 for r in rows)
    # A program that answers some, dies, hangs, and talks nonsense.
    program = root / "reward.py"
    program.write_text("import json, sys, time\n"
                       "for n, line in enumerate(sys.stdin):\n"
                       "    r = json.loads(line)\n"
                       "    if n == 20: sys.exit(3)\n"
                       "    if n == 12: print('nonsense', flush=True); continue\n"
                       "    value = float('nan') if n % 5 == 4 else len(r['completion']) % 3\n"
                       "    print(json.dumps({'id': r['id'], 'reward': value}), flush=True)\n")
    rows = bench.train("program", steps=3, rewards=[{"name": "program", "command": [sys.executable, str(program)], "deadline_seconds": 3}])
    assert len(rows) == 3 and all(0 < r["reward_failed_share"] < 1 for r in rows), [r["reward_failed_share"] for r in rows]
    # A prompt longer than the window is left out; if none is left, that is an error.
    long = write_jsonl(root / "long.jsonl", [{"prompt": "x " * 200, "answer": "1"}, {"prompt": "1 + 1", "answer": "2"}])
    recipe, _ = bench.recipe("long", steps=1, data={"train": [{"path": str(long)}]})
    result = run("train", recipe, quiet=False)
    assert "1 prompts of more than 127 tokens are left out" in result.stderr, result.stderr
    write_jsonl(root / "long.jsonl", [{"prompt": "x " * 200, "answer": "1"}])
    result = run("train", bench.recipe("longer", steps=1, data={"train": [{"path": str(long)}]})[0], expect=1)
    assert "no prompt is left" in result.stderr, result.stderr
    # Mistakes in the recipe name the key.
    for rl, message in (({"objective": "grop"}, "did you mean 'grpo'?"), ({"temperature": 0}, "rl.temperature = 0 must be more than 0"),
                        ({"rollouts_per_prompt": 5}, "must be a multiple of rl.rollouts_per_prompt = 5"), ({"staleness": 2}, "rl.staleness = 2 must be 0 or 1"),
                        ({"rewards": []}, "rl.rewards is missing")):
        result = run("train", bench.recipe("wrong", rl=rl)[0], expect=1)
        assert message in result.stderr, (message, result.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    parts = [same_in_every_layout, killed_runs_go_on, rollouts_beside_training, routing_replay, every_objective, preferences, what_fails_is_contained]
    failed = 0
    for part in parts:
        if options.only not in part.__name__:
            continue
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                part(Path(folder))
                print(f"{part.__name__}: passed in {time.monotonic() - begin:.1f} s", flush=True)
            except AssertionError as error:
                print(f"{part.__name__}: FAILED: {error}", flush=True)
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
