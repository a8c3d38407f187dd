"""Direct preference optimisation against TRL's DPOTrainer: the same pairs, model and AdamW, six steps; losses, rewards and gradient norms.

  python tests/parity/preference_parity.py
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from harness import SPECIAL, make_model, read_jsonl, run, write_jsonl, write_recipe  # noqa: E402

STEPS, PAIRS, LEARNING_RATE = 6, 12, 3e-3
BOUND = 1e-4  # AdamW divides by square roots of squares: rounding grows with the steps
WORDS = ["invoice", "ledger", "booking", "due", "paid", "total", "tax", "order"]


def pairs():
    return [{"prompt": " ".join(WORDS[(i * k) % 8] for k in range(1, 2 + i % 4)) + ":", "chosen": f" {WORDS[i % 8]} {i}", "rejected": f" {WORDS[(i + 3) % 8]}"}
            for i in range(PAIRS)]


def trl_steps(folder, output, beta):
    # Of bytes, which tokenizers reads with fields that the file leaves out.
    bare = Tokenizer(models.BPE(vocab=json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"], merges=[]))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bare.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token=SPECIAL[0], pad_token=SPECIAL[1])
    config = DPOConfig(output_dir=str(output), max_steps=STEPS, per_device_train_batch_size=PAIRS, learning_rate=LEARNING_RATE, lr_scheduler_type="constant", beta=beta,
                       max_grad_norm=1.0, weight_decay=0.0, adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8, logging_steps=1,
                       use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no", disable_tqdm=True, seed=1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    trainer = DPOTrainer(model=model, args=config, processing_class=tokenizer, train_dataset=Dataset.from_list(pairs()))
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


def tessera_steps(folder, root, beta):
    write_jsonl(root / "pairs.jsonl", pairs())
    recipe = write_recipe(root / f"dpo-{beta}.json", folder, root / "pairs.jsonl", root / f"run-{beta}", task="dpo", dpo={"beta": beta},
                          optimizer={"lr": LEARNING_RATE, "weight_decay": 0.0, "betas": [0.9, 0.95], "eps": 1e-8, "grad_clip": 1.0},
                          lr_schedule={"name": "constant", "warmup_steps": 0},
                          train={"steps": STEPS, "sequences_per_step": PAIRS, "sequences_per_microbatch": 4}, checkpoint={"every": 0})
    run("train", recipe)
    return read_jsonl(root / f"run-{beta}" / "metrics.jsonl")


def main():
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = root / "model"
        make_model(folder)
        (folder / "chat_template.jinja").unlink()
        for beta in (0.1, 0.5):
            theirs, ours = trl_steps(folder, root / "trl", beta), tessera_steps(folder, root, beta)
            assert len(theirs) == len(ours) == STEPS
            for mine, other in (("loss", "loss"), ("grad_norm", "grad_norm"), ("reward_chosen", "rewards/chosen"), ("reward_rejected", "rewards/rejected"),
                                ("preference_accuracy", "rewards/accuracies")):
                # Ties count neither way with one side, and all pairs are tied before the first update.
                steps = range(1 if mine == "preference_accuracy" else 0, STEPS)
                worst = max(abs(ours[s][mine] - other_value) / max(1e-2, abs(other_value)) for s in steps for other_value in [float(theirs[s][other])])
                print(f"{'ok    ' if worst <= BOUND else 'FAILED'} beta {beta}: {mine} over {STEPS} steps: {worst:.2e}", flush=True)
                failed += worst > BOUND
            assert ours[-1]["loss"] < 0.8 * ours[0]["loss"], "the pairs were not learned"
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
