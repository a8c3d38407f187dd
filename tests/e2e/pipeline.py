"""A pipeline of stages end to end: every task runs; a job killed in the middle of a stage and between stages goes on with the same command and
ends with the same report; a finished stage that has changed is refused; --resume never starts all over."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import ENVIRONMENT, VOCABULARY, command, read_jsonl, run, wait_until, write_jsonl, write_tokenizer
from layouts import DEEPSEEK

STUDENT = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
           "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
           "hidden_act": "silu", "tie_word_embeddings": False, "eos_token_id": 256}
STAGES = ["cold-start", "reasoning", "sampling", "again", "small"]
NO_CHANCE = {"name": "regex", "pattern": "[a-z0-9]"}


def write_pipeline(root, output):
    train = [{"path": str(root / "train.jsonl")}]
    settings = {
        "name": "e2e", "task": "pipeline", "seed": 3, "output": str(output), "model": {"config": DEEPSEEK, "tokenizer": str(root / "tokenizer")},
        "data": {"sequence_length": 64}, "optimizer": {"lr": 1e-2, "weight_decay": 0.0}, "lr_schedule": {"name": "constant"},
        "train": {"sequences_per_step": 8, "sequences_per_microbatch": 4}, "checkpoint": {"every": 2, "keep": 1}, "log": {"tensorboard": False},
        "rl": {"rollouts_per_prompt": 4, "max_new_tokens": 8, "generation_batch": 64, "rewards": [NO_CHANCE]},
        "stages": [
            {"name": "cold-start", "task": "sft", "data": {"train": train}, "train": {"steps": 30}},
            {"name": "reasoning", "task": "grpo", "data": {"train": train}, "optimizer": {"lr": 1e-3}, "train": {"steps": 10, "sequences_per_step": 16}},
            {"name": "sampling", "task": "reject", "data": {"train": train},
             "reject": {"keep_per_prompt": 2, "mix": [{"path": str(root / "general.jsonl"), "share": 0.25}]}},
            {"name": "again", "task": "sft", "model_from": "start", "data": {"train": [{"path": "${stages.sampling.samples}"}]}, "train": {"steps": 10}},
            {"name": "small", "task": "distill", "model": {"config": STUDENT}, "data": {"train": train},
             "distill": {"teacher": "reasoning", "max_new_tokens": 8, "rewards": [NO_CHANCE]}, "train": {"steps": 10}}],
        "report": {"data": [{"path": str(root / "heldout.jsonl")}], "rewards": [NO_CHANCE], "max_new_tokens": 8},
    }
    path = root / f"{output.name}.json"
    path.write_text(json.dumps(settings, indent=1))
    return path


def make_data(root):
    (root / "tokenizer").mkdir()
    write_tokenizer(root / "tokenizer")
    (root / "tokenizer" / "chat_template.jinja").unlink()
    rows = [{"prompt": f"{i} + {i % 7} =", "completion": f" {i + i % 7}"} for i in range(60)]
    write_jsonl(root / "train.jsonl", rows[:40])
    write_jsonl(root / "heldout.jsonl", rows[40:])
    write_jsonl(root / "general.jsonl", [{"prompt": f"say number {w}:", "completion": f" {w}"} for w in range(40)])


def outcome(output):
    """The report without times."""
    report = json.loads((output / "report.json").read_text())
    for stage in report["stages"]:
        stage.pop("seconds", None)
    return report


def all_stages_run(root):
    output = root / "whole"
    run("train", write_pipeline(root, output), ranks=2)
    report = outcome(output)["stages"]
    assert [s["stage"] for s in report] == ["start", *STAGES], report
    trained = [s for s in report if s["task"] not in ("reject", "")]
    assert all(0 <= s["accuracy"] <= 1 and s["mean_length"] > 0 for s in trained), report
    assert trained[0]["accuracy"] > 0.5, f"the cold start has taught nothing: {report}"
    for name in STAGES:
        folder = output / "stages" / name
        assert (folder / "done.json").exists() and (folder / "exported" / "model.safetensors").exists() == (name != "sampling"), name
    samples, counts = read_jsonl(output / "stages" / "sampling" / "samples.jsonl"), report[3]["counts"]
    mixed = sum(counts["mixed"].values())
    assert len(samples) == counts["kept"] + mixed and counts["sampled"] == 160 == counts["kept"] + sum(counts["dropped"].values()), counts
    assert mixed == min(40, round(counts["kept"] / 3)), counts
    assert all(set(s) >= {"prompt", "completion"} for s in samples)
    assert len({(s["prompt"], s["completion"].strip()) for s in samples}) == len(samples), "duplicates"
    for chart in ("accuracy", "reward", "length"):
        text = (output / "charts" / f"{chart}.svg").read_text()
        assert text.startswith("<svg") and "prefers-color-scheme:dark" in text and "nan" not in text, text
    assert "| reasoning | grpo | 10 |" in (output / "report.md").read_text()
    run("generate", "--model", output / "stages" / "small" / "exported", "--prompt", "3 + 3 =")
    return outcome(output)


def kill_when(recipe, condition, complaint):
    process = subprocess.Popen(command("train", recipe, ranks=2), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: condition() or process.poll() is not None, 60, complaint)
    alive = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert alive, f"the job had ended before: {complaint}"


def killed_pipelines_go_on(root, whole):
    output = root / "killed"
    recipe, stages = write_pipeline(root, output), output / "stages"
    kill_when(recipe, lambda: list((stages / "reasoning" / "checkpoints").glob("step-*")), "no checkpoint of the second stage")
    assert (stages / "cold-start" / "done.json").exists() and not (stages / "reasoning" / "done.json").exists()
    begun = (stages / "cold-start" / "done.json").stat().st_mtime_ns
    kill_when(recipe, lambda: (stages / "sampling" / "done.json").exists(), "the third stage does not end")
    run("train", recipe, ranks=2)
    assert (stages / "cold-start" / "done.json").stat().st_mtime_ns == begun, "a finished stage ran again"
    assert outcome(output) == whole, f"{outcome(output)}\n is not\n{whole}"
    return recipe, output


def changes_are_refused(recipe, output):
    result = run("train", recipe, "stages.cold-start.train.steps=31", ranks=2, expect=None)
    assert result.returncode != 0 and "stage cold-start is done, and train.steps was 30 and is 31" in result.stderr, result.stderr
    assert f"delete {output}/stages/cold-start" in result.stderr, result.stderr
    # What it made is what the next ones have read.
    done = output / "stages" / "cold-start" / "done.json"
    done.write_text(done.read_text().replace('"product": "', '"product": "0'))
    result = run("train", recipe, expect=1)
    assert "stage reasoning is done, and what stage cold-start made, which it read, has changed since" in result.stderr, result.stderr
    result = run("train", recipe, "stages.cold-strt.train.steps=3", expect=1)
    assert "there is none with the name cold-strt; the names are cold-start, reasoning" in result.stderr, result.stderr
    result = run("train", recipe, "--resume", output, expect=1)
    assert "goes on by itself (auto) or starts all over (never)" in result.stderr, result.stderr
    result = run("inspect", "data", recipe, expect=1)
    assert "is run by 'tessera train'" in result.stderr, result.stderr


def never_starts_all_over(recipe, output, whole):
    run("train", recipe, "--resume", "never", ranks=2)
    assert outcome(output) == whole


def main():
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_data(root)
        whole = all_stages_run(root)
        print(f"all stages run ({time.monotonic() - begin:.0f} s): accuracy {[s.get('accuracy') for s in whole['stages']]}", flush=True)
        recipe, output = killed_pipelines_go_on(root, whole)
        print(f"killed twice: the same report ({time.monotonic() - begin:.0f} s)", flush=True)
        changes_are_refused(recipe, output)
        never_starts_all_over(recipe, output, whole)
        print(f"passed in {time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
