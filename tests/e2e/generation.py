"""generate and eval: what is sampled does not depend on the batch, the order of the prompts or the number of ranks; eval's summary is that of
the completions it writes, by the answer and by rewards, from the command line and from a recipe."""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from harness import make_model, read_jsonl, run, write_jsonl

PROBLEMS = 12
SAMPLING = ["--temperature", "1.1", "--max-new-tokens", "40", "--seed", "5"]
SHORT = ["--temperature", "0.4", "--max-new-tokens", "1", "--seed", "5"]


def tokens_of(root, model, prompts, ranks=1, batch=64):
    write_jsonl(root / "prompts.jsonl", prompts)
    run("generate", "--model", model, "--input", root / "prompts.jsonl", "--output", root / "out.jsonl", "--batch", batch, *SAMPLING, ranks=ranks)
    return [row["tokens"] for row in read_jsonl(root / "out.jsonl")]


def check_invariance(root, model):
    prompts = [{"prompt": "abcdefgh"[: 1 + i % 8] * (1 + i % 5)} for i in range(64)]
    expected = tokens_of(root, model, prompts)
    assert len({tuple(t) for t in expected}) > 60, "completions are not varied"
    for ranks, batch in ((1, 1), (1, 7), (2, 64), (3, 5)):
        assert tokens_of(root, model, prompts, ranks, batch) == expected, (ranks, batch)


def write_problems(root, model):
    """The right answer is what the model says when greedy: one letter."""
    prompts = [{"prompt": f"problem {i}"} for i in range(100)]
    write_jsonl(root / "prompts.jsonl", prompts)
    run("generate", "--model", model, "--input", root / "prompts.jsonl", "--output", root / "out.jsonl", "--temperature", 0, "--max-new-tokens", 1)
    rows = [{**p, "answer": r["text"]} for p, r in zip(prompts, read_jsonl(root / "out.jsonl")) if r["text"].isalnum() and r["text"].isascii()]
    write_jsonl(root / "problems.jsonl", rows[:PROBLEMS])
    assert len(rows) >= PROBLEMS, len(rows)


def evaluate(root, model, *options, ranks=1):
    result = run("eval", "--model", model, "--input", root / "problems.jsonl", "--output", root / "judged.jsonl", *options, ranks=ranks)
    return json.loads(result.stdout.strip().splitlines()[-1]), read_jsonl(root / "judged.jsonl")


def check_answers(root, model):
    greedy, rows = evaluate(root, model, "--max-new-tokens", 1)
    assert greedy["accuracy"] == 1 and len(rows) == PROBLEMS and "pass_at_k" not in greedy, greedy
    report, rows = evaluate(root, model, *SHORT, "--samples", 8)
    assert report["count"] == PROBLEMS and len(rows) == 8 * PROBLEMS and report["samples"] == 8, report
    assert report["accuracy"] == sum(r["correct"] for r in rows) / len(rows)
    groups = [[r for r in rows if r["problem"] == p] for p in range(PROBLEMS)]
    assert report["pass_at_k"] == sum(any(r["correct"] for r in g) for g in groups) / PROBLEMS
    assert 0 < report["accuracy"] < report["pass_at_k"], report
    assert evaluate(root, model, *SHORT, "--samples", 8, ranks=2) == (report, rows)


def check_rewards(root, model):
    report, rows = evaluate(root, model, *SHORT, "--reward", "exact", "--reward", "format")
    assert abs(report["reward_exact"] - statistics.fmean(r["parts"][0] for r in rows)) < 1e-12 and report["reward_format"] == 0 and "accuracy" not in report
    recipe = root / "recipe.json"
    recipe.write_text(json.dumps({"name": "r", "task": "grpo", "model": {"path": str(model)}, "data": {"train": [{"path": str(root / "problems.jsonl")}]},
                                  "rl": {"rewards": [{"name": "regex", "pattern": "[a-z0-9]", "weight": 0.5}, {"name": "exact"}]}, "train": {"steps": 1}}))
    report, rows = evaluate(root, model, *SHORT, "--recipe", recipe, "--samples", 4)
    assert abs(report["reward"] - statistics.fmean(0.5 * r["parts"][0] + r["parts"][1] for r in rows)) < 1e-12 and report["reward_regex"] > 0, report


def main():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = root / "llama"
        make_model(model)
        (model / "chat_template.jinja").unlink()  # eval asks prompts as chats where it can, generate continues them
        check_invariance(root, model)
        write_problems(root, model)
        check_answers(root, model)
        check_rewards(root, model)
    print("generation: the same tokens on 1 to 3 ranks in batches of 1 to 64; eval's summaries are those of its lines")


if __name__ == "__main__":
    sys.exit(main())
