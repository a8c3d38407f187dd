"""A run that is killed again and again ends with the same bits as one that is not.

  kill_resume.py [--kills N] [--seed S]      N kills at random moments (3 unless told), every third one during a save
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import (ENVIRONMENT, assert_same_bits, command, documents, exported, kill_all, largest_difference, losses, make_model,
                     processes, run, wait_until, write_jsonl, write_recipe)

BOUND = 1e-5


class Scene:
    """A model, data and recipes in one scratch folder."""

    def __init__(self, root, steps):
        self.root, self.steps = root, steps
        self.model = make_model(root / "model", hidden=192, intermediate=384, layers=4)
        self.data = write_jsonl(root / "train.jsonl", documents(300, 20, 120, seed=2))

    def recipe(self, name, **changes):
        """A recipe of its own, so that its path marks the processes of its run."""
        settings = {"train": {"steps": self.steps, "sequences_per_step": 8}, "checkpoint": {"every": 4, "keep": 2}}
        for section, values in changes.items():
            settings[section] = {**settings.get(section, {}), **values}
        return write_recipe(self.root / f"{name}.json", self.model, self.data, self.root / name, **settings)

    def weights(self, name):
        return exported(self.root / name, self.root / f"{name}-exported")


def start(recipe, ranks, *arguments):
    log = open(recipe.with_suffix(".log"), "ab")
    return subprocess.Popen(command("train", recipe, *arguments, ranks=ranks, quiet=False), env=ENVIRONMENT, stdout=log,
                            stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def steps_done(output):
    try:
        return sum(1 for _ in open(output / "metrics.jsonl"))
    except FileNotFoundError:
        return 0


def checkpoints(output):
    return sorted(p for p in (output / "checkpoints").glob("step-*") if (p / "manifest.json").exists())


def is_saving(output):
    try:
        return any(name.startswith(".step-") for name in os.listdir(output / "checkpoints"))
    except FileNotFoundError:
        return False


def kill_once(scene, recipe, name, draw, during_save, typical_seconds):
    """Starts or resumes the run and kills it. Returns whether it was killed (or had finished by then), and whether saving."""
    output = scene.root / name
    job = start(recipe, 2)
    moment = time.monotonic() + draw.uniform(0.1, typical_seconds)
    saves_to_skip = draw.randrange(2)
    was_saving = False
    while job.poll() is None:
        if during_save:
            saving = is_saving(output)
            if saving and not was_saving:
                if saves_to_skip == 0:
                    time.sleep(draw.uniform(0, 0.01))
                    break
                saves_to_skip -= 1
            was_saving = saving
        elif time.monotonic() > moment:
            break
        time.sleep(0.0005 if during_save else 0.005)
    saving = is_saving(output)
    killed = job.poll() is None
    at = steps_done(output)
    kill_all(recipe)
    code = job.wait()
    if killed:
        print(f"  killed behind step {at}{', during a save' if saving else ''}; checkpoints {[p.name for p in checkpoints(output)]}", flush=True)
        return True, saving
    assert code == 0, f"the run ended with {code} by itself:\n" + recipe.with_suffix(".log").read_text()[-3000:]
    return False, False


def killed_runs(scene, reference, kills, draw, seconds):
    name, count, saves = "killed", 0, 0
    while count < kills:
        recipe = scene.recipe(name, checkpoint={"background": count % 2 == 1})  # every other start saves in the background
        if checkpoints(scene.root / name) and checkpoints(scene.root / name)[-1].name == f"step-{scene.steps:08d}":
            compare(scene, name, reference)  # finished before it was killed often enough: once more
            shutil.rmtree(scene.root / name)
        killed, saving = kill_once(scene, recipe, name, draw, count % 3 == 2, seconds)
        count, saves = count + killed, saves + saving
    run("train", scene.recipe(name), ranks=2)
    compare(scene, name, reference)
    print(f"{count} kills, {saves} of them during a save: every resume worked, final weights and losses equal to the bit")


def compare(scene, name, reference):
    assert losses(scene.root / name) == reference["losses"], "the loss curve differs"
    shutil.rmtree(scene.root / f"{name}-exported", ignore_errors=True)
    assert_same_bits(scene.weights(name), reference["weights"])


def stopped_half_way(scene, name, source="half"):
    """A copy of a run that was stopped half way: (recipe, output)."""
    shutil.copytree(scene.root / source, scene.root / name)
    return scene.recipe(name), scene.root / name


def stop_by_signal(scene, reference):
    recipe, output = scene.recipe("half"), scene.root / "half"
    job = start(recipe, 2)
    wait_until(lambda: steps_done(output) >= scene.steps // 2 or job.poll() is not None, 120, "no steps are made")
    assert job.poll() is None, recipe.with_suffix(".log").read_text()[-3000:]
    os.kill(job.pid, signal.SIGUSR1)
    assert job.wait(60) == 0
    state = json.loads((output / "run.json").read_text())
    assert state["state"] == "stopped" and scene.steps // 2 <= state["step"] < scene.steps, state
    assert checkpoints(output)[-1].name == f"step-{state['step']:08d}"
    resumed, folder = stopped_half_way(scene, "resumed")
    run("train", resumed, ranks=2)
    compare(scene, "resumed", reference)
    print(f"SIGUSR1: saved and stopped at step {state['step']}; resumed to the same bits")
    return state["step"]


def resume_at_other_sizes(scene, reference):
    for ranks in (1, 3):
        recipe, output = stopped_half_way(scene, f"np{ranks}")
        run("train", recipe, ranks=ranks)
        difference = largest_difference(losses(output), reference["losses"])
        print(f"resumed at np {ranks}: largest relative difference {difference:.3g} (bound {BOUND:g})")
        assert difference <= BOUND


def flipped_bytes(scene, reference, draw):
    for victim in ("shard-00000-of-00002.safetensors", "shard-00001-of-00002.safetensors", "manifest.json"):
        recipe, output = stopped_half_way(scene, "flipped")
        newest, before = checkpoints(output)[-1], checkpoints(output)[-2]
        path = newest / victim
        data = bytearray(path.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        result = run("train", recipe, ranks=2, quiet=False)
        for words in (newest.name, "trying the checkpoint before it", f"resuming from {before}"):
            assert words in result.stderr, f"'{words}' is not in\n{result.stderr}"
        compare(scene, "flipped", reference)
        shutil.rmtree(output)
    print("a flipped bit in either shard or in the manifest: named, the checkpoint before is used, same bits at the end")
    recipe, output = stopped_half_way(scene, "flipped")
    (checkpoints(output)[-1] / "manifest.json").write_text("{}")
    result = run("train", recipe, "--resume", checkpoints(output)[-1], ranks=2, expect=None)
    assert result.returncode != 0 and "manifest.json" in result.stderr, result.stderr
    shutil.rmtree(output)


def changed_key(scene):
    recipe, output = stopped_half_way(scene, "changed")
    result = run("train", recipe, "optimizer.lr=0.5", ranks=2, expect=None)
    assert result.returncode != 0 and "optimizer.lr" in result.stderr and "--resume never" in result.stderr, result.stderr
    print("a changed optimizer.lr is refused by name")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), steps=40 if options.kills <= 5 else 80)
        begin = time.monotonic()
        run("train", scene.recipe("whole"), ranks=2)
        seconds = time.monotonic() - begin
        reference = {"losses": losses(scene.root / "whole"), "weights": scene.weights("whole")}
        assert len(reference["losses"]) == scene.steps
        print(f"uninterrupted: {scene.steps} steps in {seconds:.1f} s", flush=True)
        stop_by_signal(scene, reference)
        resume_at_other_sizes(scene, reference)
        flipped_bytes(scene, reference, draw)
        changed_key(scene)
        killed_runs(scene, reference, options.kills, draw, seconds)
        assert not processes(folder), "processes are left"
    return 0


if __name__ == "__main__":
    sys.exit(main())
