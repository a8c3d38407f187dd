"""GRPO: TRL's GRPOTrainer (generation by transformers) and Tessera's `task: grpo` on the same model, prompts and rewards.

  python bench/peers/grpo.py [--model models/smollm2-135m] [--settings 2x8x64 4x8x128] [--steps 4] [--only NAME ...]

A setting is prompts x rollouts x new tokens. Every completion has its full length on both sides: TRL samples with
min_new_tokens = max_new_tokens, which forbids its end of text; Tessera reads a copy of the model folder whose tokenizer and config
name no end of text. One update a phase of rollouts, no KL term, float32, AdamW, no gradient checkpointing. The reward is whether
the number of the letter e is even, so that groups differ. The prompts are the same texts, without a chat template; each side
draws its own order of them.

Each contender runs in a process of its own, one after the other; the first step is left out. Prints seconds a step, of it generation
and training (forward, backward, optimizer), new tokens a second, peak memory summed over ranks, and ratios.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TESSERA_BINARY", str(ROOT / "build" / "tessera"))
LEARNING_RATE = 1e-6
TOPICS = ["the sea", "a long winter", "bread", "an old clock", "two brothers", "the city at night", "a garden", "the last train"]
PROMPTS = [f"Write a few sentences about {topic}. They should be plain and short, and number {i} of a collection:" for i, topic in
           enumerate(TOPICS * 8)]
EVEN_LETTERS_E = r"\A(?:[^e]*e[^e]*e)*[^e]*\z"


def reward(completions, **_):
    return [float(text.count("e") % 2 == 0) for text in completions]


def run_trl(arguments, prompts, group, length):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    steps = []

    class Timed(GRPOTrainer):
        def _generate_single_turn(self, *rest):
            begin = time.perf_counter()
            ids, log_probs = super()._generate_single_turn(*rest)
            self.generation = time.perf_counter() - begin
            self.tokens = sum(map(len, ids))
            return ids, log_probs

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.start = time.perf_counter()

        def on_step_end(self, *_, **__):
            seconds = time.perf_counter() - self.start
            steps.append(dict(seconds=seconds, generation=trainer.generation, training=seconds - trainer.generation, tokens=trainer.tokens))

    with tempfile.TemporaryDirectory() as folder:
        rows = prompts * group  # in one optimizer step, cut into micro-batches
        config = GRPOConfig(output_dir=folder, max_steps=arguments.steps, per_device_train_batch_size=arguments.microbatch,
                            gradient_accumulation_steps=rows // arguments.microbatch, num_generations=group, max_completion_length=length,
                            generation_kwargs={"min_new_tokens": length}, temperature=1.0, beta=0.0, num_iterations=1, loss_type="grpo",
                            learning_rate=LEARNING_RATE, lr_scheduler_type="constant", bf16=False, fp16=False, use_cpu=True, report_to=[],
                            save_strategy="no", gradient_checkpointing=False, logging_steps=1000, disable_tqdm=True, seed=7)
        trainer = Timed(model=model, reward_funcs=reward, args=config, processing_class=tokenizer,
                        train_dataset=Dataset.from_list([{"prompt": p} for p in PROMPTS]))
        trainer.add_callback(Clock())
        trainer.train()
    return steps, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def endless_model(source, folder):
    """The model without an end of text and without a chat template."""
    source, folder = Path(source).resolve(), Path(folder)
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix == ".jinja" or path.name in ("generation_config.json", "special_tokens_map.json"):
            continue
        if path.suffix != ".json" or path.name not in ("config.json", "tokenizer_config.json"):
            (folder / path.name).symlink_to(path)
            continue
        values = json.loads(path.read_text())
        for key in ("eos_token", "eos_token_id", "chat_template"):
            values.pop(key, None)
        (folder / path.name).write_text(json.dumps(values))
    return folder


class PeakMemory(threading.Thread):
    """Of all processes below this one: the largest sum of their resident memory."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.done = 0, threading.Event()

    def run(self):
        import psutil
        while not self.done.wait(0.1):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    pass
            self.peak = max(self.peak, total)


def run_tessera(arguments, prompts, group, length, ranks=1):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data = folder / "prompts.jsonl"
        data.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
        recipe = {"name": "bench", "task": "grpo", "output": str(folder / "run"), "model": {"path": str(endless_model(arguments.model, folder / "model"))},
                  "data": {"train": [{"path": str(data)}]}, "optimizer": {"lr": LEARNING_RATE}, "lr_schedule": {"name": "constant"},
                  "log": {"tensorboard": False}, "checkpoint": {"every": 0},
                  "rl": {"rollouts_per_prompt": group, "max_new_tokens": length, "skip_zero_advantage": False,
                         "rewards": [{"name": "regex", "pattern": EVEN_LETTERS_E}]},
                  "train": {"steps": arguments.steps, "sequences_per_step": prompts * group, "sequences_per_microbatch": arguments.microbatch}}
        path = folder / "recipe.yaml"
        path.write_text(json.dumps(recipe))
        command = [BINARY, "--quiet", "train", str(path)]
        if ranks > 1:
            command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "-np", str(ranks), *command]
        memory = PeakMemory()
        memory.start()
        subprocess.run(command, check=True, env=dict(os.environ, OMP_NUM_THREADS=str(max(1, arguments.threads // ranks))))
        memory.done.set()
        metrics = [json.loads(line) for line in open(folder / "run" / "metrics.jsonl")]
        assert all(m["completion_length"] == length for m in metrics), "a completion was not of full length"
        assert any(m["reward_deviation"] > 0 for m in metrics), "all rewards were equal"
    steps = [dict(seconds=m["rollout_seconds"] + m["reward_seconds"] + m["train_seconds"], generation=m["rollout_seconds"], training=m["train_seconds"],
                  tokens=prompts * group * length) for m in metrics]
    return steps, memory.peak


CONTENDERS = {
    "trl": run_trl,
    "tessera": run_tessera,
    "tessera-2-ranks": lambda *a: run_tessera(*a, ranks=2),
}


def numbers(setting):
    return [int(n) for n in setting.split("x")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(ROOT / "models" / "smollm2-135m"))
    parser.add_argument("--settings", nargs="*", default=["2x8x64", "4x8x128"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--microbatch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        steps, peak = CONTENDERS[arguments.child](arguments, *numbers(arguments.settings[0]))
        print(json.dumps(dict(steps=steps, peak_bytes=peak)))
        return
    for setting in arguments.settings:
        prompts, group, length = numbers(setting)
        print(f"{prompts} prompts x {group} rollouts x {length} tokens, {arguments.threads} threads; load before {os.getloadavg()[0]:.1f}", flush=True)
        results = {}
        for name in arguments.only:
            options = [f"--{key}={getattr(arguments, key)}" for key in ("model", "steps", "microbatch", "threads")]
            output = subprocess.run([sys.executable, __file__, "--child", name, "--settings", setting, *options], stdout=subprocess.PIPE, text=True, check=True,
                                    env=dict(os.environ, OMP_NUM_THREADS=str(arguments.threads))).stdout
            result = json.loads(output.splitlines()[-1])
            steps = result["steps"][1:]
            assert all(s["tokens"] == prompts * group * length for s in steps), "a completion was not of full length"
            seconds, generation, training = (statistics.median(s[key] for s in steps) for key in ("seconds", "generation", "training"))
            results[name] = dict(seconds=seconds, generation=generation, training=training, peak=result["peak_bytes"])
            print(f"  {name:16s} {seconds:7.2f} s a step: generation {generation:7.2f} s ({prompts * group * length / generation:6.1f} tokens/s), "
                  f"training {training:6.2f} s; {prompts * group * length / seconds:6.1f} tokens/s in all; peak {result['peak_bytes'] / 2**30:5.2f} GiB", flush=True)
        for name in results:
            if name != "trl" and "trl" in results:
                theirs, ours = results["trl"], results[name]
                print(f"  {name} / trl: {theirs['seconds'] / ours['seconds']:.2f}x steps/s, generation {theirs['generation'] / ours['generation']:.2f}x, "
                      f"training {theirs['training'] / ours['training']:.2f}x, memory {ours['peak'] / theirs['peak']:.2f}x")


if __name__ == "__main__":
    main()
