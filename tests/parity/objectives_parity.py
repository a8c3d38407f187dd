"""Policy losses, their derivatives and advantages against TRL's GRPOTrainer, whose own code runs on given log-probabilities; R1's
objective, which TRL lacks, against autograd.

  python tests/parity/objectives_parity.py [--tool build/bin/objective_tool]
"""

import argparse
import collections
import contextlib
import json
import subprocess
import sys
import types
from pathlib import Path

import torch
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

BOUND = 1e-5
ROOT = Path(__file__).resolve().parents[2]
failures = []


def check(what, value, bound=BOUND):
    print(f"{'ok    ' if value <= bound else 'FAILED'} {what}: {value:.2e}", flush=True)
    if not value <= bound:
        failures.append(what)


class Tool:
    def __init__(self, command):
        self.process = subprocess.Popen([command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class OneProcess:
    """What the trainer asks of its accelerator."""
    device, num_processes, process_index, sync_gradients = torch.device("cpu"), 1, 0, True

    def gather(self, x):
        return x

    def reduce(self, x, reduction="sum"):
        return x


def make_trainer(**settings):
    """A GRPOTrainer without a model; who calls it says what _get_per_token_logps_and_entropies gives."""
    trainer = object.__new__(GRPOTrainer)
    values = dict(
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token", beta=0.0,
        loss_type="grpo", epsilon_low=0.2, epsilon_high=0.2, use_vllm=False, vllm_importance_sampling_correction=True, max_completion_length=1,
        vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_clip_min=None, vllm_importance_sampling_clip_max=None,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False, accelerator=OneProcess(), environment_factories=None, environments=None,
        tools=None, pad_to_multiple_of=None, mask_truncated_completions=False, num_iterations=1, _is_vlm=False, log_multimodal=False,
        multi_objective_aggregation="sum_then_normalize", scale_rewards="group", num_generations=4, num_generations_eval=4, reward_func_names=["given"],
        reward_funcs=[None], reward_weights=torch.ones(1), eos_token_ids=[1], _tokenizer=types.SimpleNamespace(pad_token_id=0),
        model=types.SimpleNamespace(training=True), ref_model=object(), _pending_extra_logs={}, _pending_metrics={},
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        _logs=dict(prompt=[], completion=[], rewards=collections.defaultdict(list), advantages=[], extra=collections.defaultdict(list)),
        args=types.SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1, gradient_accumulation_steps=1,
                                   gradient_checkpointing_kwargs=None, per_device_train_batch_size=64, per_device_eval_batch_size=64))
    values.update(settings)
    for key, value in values.items():
        object.__setattr__(trainer, key, value)
    return trainer


def padded(flat, lengths, value=0.0):
    return torch.nn.utils.rnn.pad_sequence(torch.split(flat, lengths), batch_first=True, padding_value=value)


class Batch:
    """Random completions; `far`: how much the log-probabilities differ between old, reference and rollouts."""

    def __init__(self, lengths, far, seed):
        generator = torch.Generator().manual_seed(seed)
        self.lengths, tokens = lengths, sum(lengths)

        def draw(scale):
            return torch.randn(tokens, generator=generator) * scale

        self.log_probs = -0.05 - 2 * torch.rand(tokens, generator=generator)
        self.old = self.log_probs + draw(far)
        self.reference = self.log_probs + draw(2 * far)
        self.rollout = self.old + draw(far)
        self.advantages = torch.randn(len(lengths), generator=generator)
        self.advantages[::3] = -self.advantages[::3].abs()
        self.advantages[1::3] = self.advantages[1::3].abs()
        self.advantages[-1] = 0.0

    def tessera(self, tool, objective, max_new_tokens, beta, low, high, cap, first):
        return tool.ask(kind="loss", config=dict(objective=objective, clip_low=low, clip_high=high, kl_coefficient=beta, importance_cap=cap,
                                                 max_new_tokens=max_new_tokens),
                        denominators=dict(rollouts=len(self.lengths), tokens=sum(self.lengths)),
                        batch=dict(lengths=self.lengths, advantages=self.advantages.tolist(), old=[] if first else self.old.tolist(),
                                   reference=self.reference.tolist() if beta > 0 else [], rollout=self.rollout.tolist()),
                        log_probs=self.log_probs.tolist())

    def trl(self, first, cap, **settings):
        """Loss and derivatives by the trainer's own importance ratio and loss, in double."""
        count, mask = len(self.lengths), padded(torch.ones(sum(self.lengths)), self.lengths)
        trainer = make_trainer(use_vllm=cap > 0, vllm_importance_sampling_clip_max=cap, num_generations=count, **settings)
        log_probs = self.log_probs.double().requires_grad_(True)
        lists = {name: padded(getattr(self, name).double(), self.lengths, -7.0) for name in ("old", "reference")}

        def given(model, *_, **__):
            values = lists["reference"] if model is trainer.ref_model else padded(log_probs, self.lengths, -7.0)
            return values, torch.zeros_like(values), None

        inputs = dict(prompt_ids=torch.ones(count, 2, dtype=torch.long), prompt_mask=torch.ones(count, 2, dtype=torch.long),
                      completion_ids=torch.ones_like(mask, dtype=torch.long), completion_mask=mask.double(), advantages=self.advantages.double(),
                      num_items_in_batch=mask.double().sum(), ref_per_token_logps=lists["reference"])
        old = padded(self.log_probs.double(), self.lengths, -7.0) if first else lists["old"]
        if not first:
            inputs["old_per_token_logps"] = old
        if cap > 0:
            made = prepare(trainer, self.lengths, torch.zeros(count), old, lists["reference"], torch.split(self.rollout.double(), self.lengths))
            inputs["importance_sampling_ratio"] = made["importance_sampling_ratio"]
        trainer._get_per_token_logps_and_entropies = given
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        return loss.item(), log_probs.grad, trainer._metrics["train"]


def prepare(trainer, lengths, rewards, old, reference, rollout=None):
    """What the trainer makes of generated completions: advantages, importance ratios."""
    trainer._get_per_token_logps_and_entropies = lambda model, *_, **__: (reference if model is trainer.ref_model else old, None, None)
    completions = [[5] * n for n in lengths]
    trainer._generate = lambda prompts: ([[3, 4]] * len(lengths), completions, None, [""] * len(lengths),
                                         None if rollout is None else [r.tolist() for r in rollout], {}, None, None)
    trainer._calculate_rewards = lambda *_: rewards[:, None]
    return trainer._generate_and_score_completions([{"prompt": "x"} for _ in lengths])


def r1_reference(batch, beta, low, high, cap, first):
    """arXiv 2501.12948, equation 1: ratios and k3 of whole completions."""
    log_probs = batch.log_probs.double().requires_grad_(True)
    old = log_probs.detach() if first else batch.old.double()
    total = 0.0
    sections = zip(*(torch.split(x, batch.lengths) for x in (log_probs, old, batch.reference.double(), batch.rollout.double())), batch.advantages.double())
    for now, before, reference, rollout, advantage in sections:
        ratio = torch.exp(now.sum() - before.sum())
        term = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        if cap > 0:
            term = term * torch.exp((before - rollout).sum()).clamp(max=cap)
        d = reference.sum() - now.sum()
        total = total - term + beta * (torch.exp(d) - d - 1)
    loss = total / len(batch.lengths)
    loss.backward()
    return loss.item(), log_probs.grad


BATCHES = {
    "near": Batch([5, 1, 9, 3, 7, 2], 0.05, seed=1),
    "far": Batch([5, 1, 9, 3, 7, 2, 12, 4], 0.4, seed=2),
    "one completion": Batch([6], 0.3, seed=3),
    "long": Batch([200, 37, 120, 64], 0.2, seed=4),
}
BATCHES["one completion"].advantages[0] = -0.8


def compare(what, ours, loss, gradient):
    check(f"{what}: loss", abs(ours["loss"] - loss) / max(abs(loss), 1e-3))
    check(f"{what}: derivatives", ((torch.tensor(ours["derivatives"]).double() - gradient).abs().max() / gradient.abs().max().clamp_min(1e-9)).item())


def objectives(tool):
    trl = {"grpo": dict(loss_type="grpo"), "dr_grpo": dict(loss_type="dr_grpo"), "dapo": dict(loss_type="dapo"),
           "gspo": dict(loss_type="grpo", importance_sampling_level="sequence"), "cispo": dict(loss_type="cispo")}
    clipped = 0
    for name, batch in BATCHES.items():
        longest = max(batch.lengths) + 3
        for first in (False, True):
            for beta in (0.0, 0.04):
                # cispo has no lower bound in TRL, whose epsilon_high is the bound itself.
                for low, high in ((0.2, 0.2), (0.2, 0.28)):
                    for cap in (0.0, 1.2):
                        label = f"{name}{', first' if first else ''}{', KL' if beta else ''}, clip {high}{', cap' if cap else ''}"
                        for objective, settings in trl.items():
                            if cap > 0 and objective == "gspo":
                                continue  # TRL weighs by the product of a completion's ratios or token by token; here it is their geometric mean
                            ours_low, theirs_high = (1.0, 1 + high) if objective == "cispo" else (low, high)
                            ours = batch.tessera(tool, objective, longest, beta, ours_low, high, cap, first)
                            loss, gradient, metrics = batch.trl(first, cap, beta=beta, epsilon_low=low, epsilon_high=theirs_high, max_completion_length=longest, **settings)
                            compare(f"{objective}, {label}", ours, loss, gradient)
                            tokens = sum(batch.lengths)
                            if beta > 0:
                                check(f"{objective}, {label}: KL", abs(ours["statistics"]["kl_reference"] / tokens - metrics["kl"][0]) / metrics["kl"][0])
                            if objective in ("grpo", "dr_grpo", "dapo"):
                                share = ours["statistics"]["clipped"] / tokens
                                clipped += share
                                check(f"{objective}, {label}: share clipped", abs(share - metrics["clip_ratio/region_mean"][0]), 1e-6)
                        ours = batch.tessera(tool, "r1_grpo", longest, beta, low, high, cap, first)
                        compare(f"r1_grpo, {label}", ours, *r1_reference(batch, beta, low, high, cap, first))
    assert clipped > 1, "nothing was clipped"


def advantages(tool):
    """`group` and `batch` by the trainer's code; leave-one-out in plain Python."""
    generator = torch.Generator().manual_seed(5)
    for groups, size in ((1, 4), (5, 4), (3, 2), (6, 8)):
        rewards = torch.randn(groups * size, generator=generator)
        rewards[:size] = (torch.arange(size) % 2).float()
        missing = torch.rand(groups * size, generator=generator) < 0.15
        missing[::size] = missing[1::size] = False  # two of each group are left
        for unusable in (False, True):
            given = torch.where(missing & torch.tensor(unusable), torch.nan, rewards)
            usable = (~given.isnan()).tolist()
            values = given.nan_to_num(0.0).tolist()

            def ours(baseline, scale):
                return torch.tensor(tool.ask(kind="advantages", rewards=values, usable=usable, group_size=size, baseline=baseline, scale=scale)["advantages"])

            for baseline, scale, theirs in (("group", True, "group"), ("batch", True, "batch"), ("group", False, "none")):
                trainer = make_trainer(scale_rewards=theirs, num_generations=size, reward_weights=torch.ones(1, dtype=torch.double))
                lengths = [3] * len(values)
                empty = torch.zeros(len(values), 3)
                expected = prepare(trainer, lengths, given.double(), empty, empty)["advantages"]
                check(f"advantages of {groups} x {size}, scale_rewards {theirs}{', some unusable' if unusable else ''}",
                      (ours(baseline, scale) - expected).abs().max().item() / expected.abs().max().item())
            expected = []
            for i, value in enumerate(values):
                begin = i // size * size
                others = [values[j] for j in range(begin, begin + size) if j != i and usable[j]]
                expected.append(value - sum(others) / len(others) if usable[i] else 0.0)
            check(f"advantages of {groups} x {size}, leave one out{', some unusable' if unusable else ''}",
                  (ours("leave_one_out", False) - torch.tensor(expected)).abs().max().item())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool", default=str(ROOT / "build" / "bin" / "objective_tool"))
    tool = Tool(parser.parse_args().tool)
    # The trainer turns gradient checkpointing off around a forward pass; here is no model.
    grpo_trainer.disable_gradient_checkpointing = lambda *_: contextlib.nullcontext()
    objectives(tool)
    advantages(tool)
    print(f"{len(failures)} failed" if failures else "all equal")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
