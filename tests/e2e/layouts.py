"""Any layout gives the result of one rank: a tiny DeepSeek-V3 (MLA, experts in groups, shared expert, MTP, bias balancing) and a
dense Qwen3, trained over pipeline, data and expert parallelism with every schedule. Losses within 1e-5 relative,
final weights within 1e-4 of each tensor's largest, each layer's expert counts equal as integers. Saved in one layout and
resumed in another, the curve goes on as if it had never stopped. Recomputation changes no bit.

  layouts.py [--full]      --full: 20 steps, every layout with every schedule, more pairs; otherwise 10 steps, a few of each
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy

from harness import VOCABULARY, documents, exported, largest_difference, read_jsonl, run, write_jsonl, write_recipe, write_tokenizer

STEPS = 20 if "--full" in sys.argv else 10
LOSS_BOUND, WEIGHT_BOUND = 1e-5, 1e-4
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 8, "num_attention_heads": 4,
          "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "initializer_range": 0.1, "rope_theta": 10000.0, "hidden_act": "silu"}
DEEPSEEK = {**COMMON, "model_type": "deepseek_v3", "num_key_value_heads": 4, "moe_intermediate_size": 24, "q_lora_rank": 16,
            "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 8,
            "n_shared_experts": 1, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
            "norm_topk_prob": True, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
            "num_nextn_predict_layers": 1, "tie_word_embeddings": False}
QWEN = {**COMMON, "model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
SCHEDULES = ["gpipe", "1f1b", "interleaved", "zb_h1", "zb_v", "dualpipe", "dualpipe_v"]

# (ranks, pp, ep)
LAYOUTS = [(2, 1, 1), (4, 1, 1), (2, 1, 2), (4, 1, 4), (4, 1, 2), (2, 2, 1), (4, 4, 1), (4, 2, 2), (8, 2, 2)]
QUICK = [(2, 1, 2, "1f1b"), (4, 2, 2, "zb_h1"), (4, 2, 2, "dualpipe"), (2, 2, 1, "dualpipe_v"), (2, 2, 1, "interleaved")]
# Sharded gradients: sums in another order. A routing tie flips after a dozen steps, so models with experts run ten.
ZERO_2 = [(2, 1, 1, "1f1b"), (4, 2, 2, "zb_h1"), (4, 1, 2, "1f1b"), (2, 2, 1, "dualpipe_v"), (4, 4, 1, "interleaved"), (8, 2, 2, "1f1b")]
# Experts over several nodes, so that tokens take two hops, and ranks of a node.
TWO_HOPS = [((4, 1, 4, "1f1b"), 2), ((8, 1, 8, "1f1b"), 2), ((8, 1, 8, "1f1b"), 4), ((8, 1, 4, "1f1b"), 2), ((8, 2, 4, "dualpipe"), 2)]
# Saved in the first, resumed in the second.
PAIRS = [((1, 1, 1, "1f1b"), (4, 2, 2, "dualpipe")), ((4, 2, 2, "dualpipe"), (2, 1, 2, "1f1b")), ((2, 1, 2, "1f1b"), (4, 4, 1, "zb_v")),
         ((4, 4, 1, "zb_v"), (1, 1, 1, "1f1b")), ((2, 2, 1, "interleaved"), (4, 1, 4, "1f1b")), ((4, 1, 4, "1f1b"), (2, 2, 1, "dualpipe_v")),
         ((2, 1, 1, "1f1b"), (2, 2, 1, "gpipe")), ((2, 2, 1, "gpipe"), (4, 1, 2, "1f1b")), ((4, 1, 2, "1f1b"), (4, 4, 1, "zb_h1")),
         ((4, 4, 1, "dualpipe"), (4, 1, 1, "1f1b")), ((4, 1, 1, "1f1b"), (4, 2, 2, "zb_h1")), ((8, 2, 2, "1f1b"), (2, 2, 1, "zb_v"))]


def cases(full, model):
    if not full:
        return [c for c in QUICK if model == "deepseek_v3"] or [(2, 2, 1, "zb_v"), (4, 4, 1, "1f1b"), (4, 2, 1, "dualpipe")]
    found = []
    for ranks, pp, ep in LAYOUTS:
        if model == "deepseek_v3" or ep == 1:
            found += [(ranks, pp, ep, schedule) for schedule in (SCHEDULES if pp > 1 else ["1f1b"])]
    return found


class Runs:
    def __init__(self, root, name, config):
        self.root, self.name, self.config = root, name, config
        self.data = write_jsonl(root / f"{name}.jsonl", documents(200, 10, 60, seed=2))
        (root / "tokenizer").mkdir(exist_ok=True)
        write_tokenizer(root / "tokenizer")

    def recipe(self, label, pp, ep, schedule, steps=STEPS, recompute="none", rows=32, deadline=60, every=0, background=False, changes=None):
        """The recipe's path and its output."""
        output = self.root / f"{self.name}-{label}"
        experts = self.config["model_type"] == "deepseek_v3"
        settings = {
            "model": {"config": self.config, "tokenizer": str(self.root / "tokenizer")},
            "data": {"sequence_length": 64}, "train": {"steps": steps, "sequences_per_step": rows, "sequences_per_microbatch": 1, "recompute": recompute},
            "lr_schedule": {"name": "constant", "warmup_steps": 0},
            "parallel": {"pp": pp, "ep": ep, "pipeline_schedule": schedule},
            "checkpoint": {"every": every, "background": background},
            "communication": {"timeout_seconds": deadline},
            **({"moe": {"bias_update_rate": 0.01, "sequence_balance_loss": 1e-3, "z_loss": 1e-4}, "mtp": {"loss_weight": 0.3}} if experts else {})}
        for section, values in (changes or {}).items():
            settings[section] = {**settings.get(section, {}), **values}
        recipe = write_recipe(self.root / f"{self.name}-{label}.json", "unused", self.data, output, **settings)
        recipe.write_text(recipe.read_text().replace('"path": "unused",', ""))
        return recipe, output

    def train(self, label, ranks, *layout, **changes):
        recipe, output = self.recipe(label, *layout, **changes)
        run("train", recipe, ranks=ranks)
        return output

    def result(self, output):
        rows = read_jsonl(output / "metrics.jsonl")
        counts = [[layer["counts"] for layer in row.get("moe_layers", [])] for row in rows]
        curves = [[row[key] for row in rows] for key in ("loss", "mtp_loss", "balance_loss", "z_loss", "grad_norm") if key in rows[0]]
        return curves, counts, exported(output, output / "exported")


def compare(result, reference):
    """Largest relative differences of curves and weights, and whether all counts are equal."""
    curves, counts, weights = result
    loss = max(largest_difference(a, b) for a, b in zip(curves, reference[0]))
    assert weights.keys() == reference[2].keys(), weights.keys() ^ reference[2].keys()
    weight = max(numpy.abs(value - weights[name]).max() / numpy.abs(value).max() for name, value in reference[2].items())
    return loss, weight, counts == reference[1]


def resumed(runs, reference, full):
    """Trains half the steps in one layout, the others in another; compares with the reference that never stopped."""
    failures = 0
    for number, (first, second) in enumerate(PAIRS if full else PAIRS[:2]):
        label = f"resume-{number}"
        for steps, layout in ((STEPS // 2, first), (STEPS, second)):
            output = runs.train(label, *layout, steps=steps)
        loss, weight, same = compare(runs.result(output), reference)
        good = loss <= LOSS_BOUND and weight <= WEIGHT_BOUND and same
        failures += not good
        print(f"saved at np {first[0]} pp {first[1]} ep {first[2]} {first[3]}, resumed at np {second[0]} pp {second[1]} ep {second[2]} {second[3]}: "
              f"curves {loss:.2e} weights {weight:.2e}{'' if good else '  FAILED'}", flush=True)
    return failures


def uneven(runs):
    """Fewer rows than ranks times micro-batches: empty micro-batches take part in every exchange."""
    failures = 0
    reference = runs.result(runs.train("uneven", 1, 1, 1, "1f1b", rows=5))
    for ranks, pp, ep, schedule in ((2, 1, 2, "1f1b"), (4, 2, 2, "dualpipe"), (4, 1, 4, "1f1b")):
        loss, weight, same = compare(runs.result(runs.train(f"uneven-{ranks}-{pp}", ranks, pp, ep, schedule, rows=5)), reference)
        good = loss <= LOSS_BOUND and weight <= WEIGHT_BOUND and same
        failures += not good
        print(f"5 rows on np {ranks} pp {pp} ep {ep} {schedule}: curves {loss:.2e} weights {weight:.2e}{'' if good else '  FAILED'}", flush=True)
    return failures


def recomputed(runs):
    """Recomputation with one layout: the same bits."""
    layout = (2, 1, 2, "1f1b")
    plain = runs.result(runs.train("plain", *layout))
    failures = 0
    for kind in ("selective", "full"):
        result = runs.result(runs.train(f"recompute-{kind}", *layout, recompute=kind))
        same = same_bits(result, plain)
        failures += not same
        print(f"recompute {kind}: {'the same to the bit' if same else 'DIFFERS  FAILED'}", flush=True)
    return failures


def sharded_gradients(runs, full):
    """ZeRO-2 against one rank."""
    failures = 0
    steps = min(STEPS, 10) if runs.name == "deepseek_v3" else STEPS
    reference = runs.result(runs.train("reference-zero-2", 1, 1, 1, "1f1b", steps=steps))
    for ranks, pp, ep, schedule in [z for z in ZERO_2 if runs.name == "deepseek_v3" or z[2] == 1][:None if full else 2]:
        output = runs.train(f"zero-2-{ranks}-{pp}-{ep}-{schedule}", ranks, pp, ep, schedule, steps=steps, changes={"parallel": {"zero": 2}})
        loss, weight, same = compare(runs.result(output), reference)
        good = loss <= LOSS_BOUND and weight <= WEIGHT_BOUND and same
        failures += not good
        print(f"{runs.name} zero 2 np {ranks} pp {pp} ep {ep} {schedule}: curves {loss:.2e} weights {weight:.2e}{'' if good else '  FAILED'}", flush=True)
    return failures


def same_bits(result, reference):
    return result[:2] == reference[:2] and all(value.tobytes() == result[2][name].tobytes() for name, value in reference[2].items())


def two_hops(runs, full):
    """Tokens that go to a node first and are handed on inside: the bits of one hop."""
    failures = 0
    for layout, ranks_per_node in TWO_HOPS if full else TWO_HOPS[:1]:
        label = "-".join(map(str, layout))
        one = runs.result(runs.train(f"one-hop-{label}", *layout))
        two = runs.train(f"two-hops-{label}-{ranks_per_node}", *layout, changes={"parallel": {"ranks_per_node": ranks_per_node}})
        assert "ep across nodes" in read_jsonl(two / "metrics.jsonl")[-1]["communication"], "one hop only"
        same = same_bits(runs.result(two), one)
        failures += not same
        print(f"np {layout[0]} pp {layout[1]} ep {layout[2]} {layout[3]}, {ranks_per_node} ranks a node: {'the bits of one hop' if same else 'DIFFERS  FAILED'}", flush=True)
    return failures


def main():
    full = "--full" in sys.argv
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, config in (("deepseek_v3", DEEPSEEK), ("qwen3", QWEN)):
            runs = Runs(Path(folder), name, config)
            reference = runs.result(runs.train("reference", 1, 1, 1, "1f1b"))
            assert reference[0][0][-1] < reference[0][0][0], "nothing was learnt"
            for ranks, pp, ep, schedule in cases(full, name):
                start = time.monotonic()
                label = f"np{ranks}-pp{pp}-ep{ep}-{schedule}"
                loss, weight, same = compare(runs.result(runs.train(label, ranks, pp, ep, schedule)), reference)
                good = loss <= LOSS_BOUND and weight <= WEIGHT_BOUND and same
                failures += not good
                print(f"{name} np {ranks} pp {pp} dp {ranks // pp} ep {ep} {schedule if pp > 1 else '':11s} curves {loss:.2e} weights {weight:.2e} "
                      f"counts {'equal' if same else 'DIFFER'} {time.monotonic() - start:.1f} s{'' if good else '  FAILED'}", flush=True)
            failures += sharded_gradients(runs, full)
            if name == "deepseek_v3":
                failures += resumed(runs, reference, full) + uneven(runs) + recomputed(runs) + two_hops(runs, full)
    print(f"{failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
