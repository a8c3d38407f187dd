"""Supervised fine-tuning: TRL's SFTTrainer (padding, packing) and Tessera on the same model, data, rows a step and threads.

  python bench/peers/sft.py [--model models/smollm2-135m] [--steps 5] [--rows 8] [--length 512] [--lora] [--only NAME ...]

Each contender runs in a process of its own, one after the other; the first step is left out. Prints target tokens (those
with a loss) and all tokens a second, peak memory, the share of the measured FMA peak, and the ratios.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TESSERA_BINARY", str(ROOT / "build" / "tessera"))
LORA = dict(r=16, alpha=32, modules=["q_proj", "k_proj", "v_proj", "o_proj"])


def run_trl(arguments, packing):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    torch.set_num_threads(arguments.threads)
    rows = [json.loads(line) for line in open(arguments.data)]
    data = Dataset.from_list([{"prompt": r["messages"][:-1], "completion": r["messages"][-1:]} for r in rows])
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    steps, startup = [], []

    class Timed(SFTTrainer):
        def training_step(self, model, inputs, *rest):
            self.targets = int((inputs["labels"][..., 1:] != -100).sum())
            self.tokens = int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()
            return super().training_step(model, inputs, *rest)

    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.start = time.perf_counter()
            if not startup:
                import psutil
                startup.append(time.time() - psutil.Process().create_time())

        def on_step_end(self, *_, **__):
            steps.append(dict(seconds=time.perf_counter() - self.start, targets=trainer.targets, tokens=trainer.tokens))

    peft = None
    if arguments.lora:
        from peft import LoraConfig
        peft = LoraConfig(r=LORA["r"], lora_alpha=LORA["alpha"], target_modules=LORA["modules"], lora_dropout=0.0, task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(output_dir=folder, max_steps=arguments.steps, per_device_train_batch_size=arguments.rows, max_length=arguments.length,
                           packing=packing, learning_rate=2e-4, bf16=False, fp16=False, use_cpu=True, report_to=[], save_strategy="no",
                           gradient_checkpointing=False, logging_steps=1000, disable_tqdm=True, dataloader_num_workers=0, seed=7)
        trainer = Timed(model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=peft)
        trainer.add_callback(Clock())
        trainer.train()
    return steps, startup[0]


def run_tessera(arguments, packing):
    with tempfile.TemporaryDirectory() as folder:
        model = {"path": str(arguments.model)}
        if arguments.lora:
            model["lora"] = {"r": LORA["r"], "alpha": LORA["alpha"], "target_modules": LORA["modules"]}
        recipe = {"name": "bench", "output": folder + "/run", "model": model,
                  "data": {"train": [{"path": str(arguments.data)}], "sequence_length": arguments.length, "packing": packing},
                  "optimizer": {"lr": 2e-4}, "log": {"tensorboard": False}, "checkpoint": {"every": 0},
                  "train": {"steps": arguments.steps, "sequences_per_step": arguments.rows, "sequences_per_microbatch": arguments.microbatch}}
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(recipe))
        environment = dict(os.environ, OMP_NUM_THREADS=str(arguments.threads))
        subprocess.run([BINARY, "--quiet", "train", path], check=True, env=environment)
        metrics = [json.loads(line) for line in open(folder + "/run/metrics.jsonl")]
        startup = json.load(open(folder + "/run/run.json"))["startup_seconds"]
        return [dict(seconds=m["step_seconds"], targets=m["target_tokens"], tokens=m["tokens"]) for m in metrics], startup


CONTENDERS = {
    "trl-padding": lambda a: run_trl(a, False),
    "trl-packing": lambda a: run_trl(a, True),
    "tessera-unpacked": lambda a: run_tessera(a, False),
    "tessera-packed": lambda a: run_tessera(a, True),
}


def child(arguments):
    steps, startup = CONTENDERS[arguments.child](arguments)
    who = resource.RUSAGE_CHILDREN if arguments.child.startswith("tessera") else resource.RUSAGE_SELF
    print(json.dumps(dict(steps=steps, startup=startup, peak_bytes=resource.getrusage(who).ru_maxrss * 1024)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(ROOT / "models" / "smollm2-135m"))
    parser.add_argument("--data")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--microbatch", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.data:
            arguments.data = folder + "/train.jsonl"
            subprocess.run([BINARY, "--quiet", "synthesize", "healthcare", "--count", "2000", "--seed", "1", "--output", arguments.data], check=True)
        machine = json.loads(subprocess.run([ROOT / "build/bin/machine_bench"], capture_output=True, text=True, check=True,
                                            env=dict(os.environ, OMP_NUM_THREADS=str(arguments.threads))).stdout)
        print(f"{machine['threads']} threads, FMA peak {machine['fma_gflops']:.0f} GFLOP/s, triad {machine['triad_gbytes_per_second']:.0f} GB/s")
        parameters = 134_515_008
        results = {}
        for name in arguments.only:
            options = [f"--{key}={getattr(arguments, key)}" for key in ("model", "data", "steps", "rows", "microbatch", "length", "threads")]
            command = [sys.executable, __file__, "--child", name, *options, *(["--lora"] if arguments.lora else [])]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True,
                                    env=dict(os.environ, OMP_NUM_THREADS=str(arguments.threads))).stdout
            result = json.loads(output.splitlines()[-1])
            steps = result["steps"][1:]
            seconds = statistics.median(s["seconds"] for s in steps)
            targets = sum(s["targets"] for s in steps) / sum(s["seconds"] for s in steps)
            tokens = sum(s["tokens"] for s in steps) / sum(s["seconds"] for s in steps)
            results[name] = dict(targets=targets, tokens=tokens, peak=result["peak_bytes"], startup=result["startup"])
            share = (4 if arguments.lora else 6) * parameters * tokens / (machine["fma_gflops"] * 1e9)
            print(f"{name:17s} {targets:7.1f} target tokens/s  {tokens:7.1f} tokens/s  {seconds:6.2f} s a step  "
                  f"peak {result['peak_bytes'] / 2**30:5.2f} GiB  start to first step {result['startup']:4.1f} s  {share:5.1%} of the FMA peak (6 N tokens)", flush=True)
        for ours in ("tessera-unpacked", "tessera-packed"):
            for theirs in ("trl-padding", "trl-packing"):
                if ours in results and theirs in results:
                    print(f"{ours} / {theirs}: {results[ours]['targets'] / results[theirs]['targets']:.2f}x target tokens/s, "
                          f"{results[ours]['peak'] / results[theirs]['peak']:.2f}x peak memory, "
                          f"{results[ours]['startup'] / results[theirs]['startup']:.2f}x time to the first step")


if __name__ == "__main__":
    main()
