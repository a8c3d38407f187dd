#!/usr/bin/env python3
"""Token ids and chat masks of Tessera against transformers, on real text and on adversarial Unicode.

    tests/parity/tokenizer_parity.py --tool COMMAND --model DIR [--megabytes 1] [--variants]

COMMAND is run as `COMMAND DIR` and speaks the contract of `tessera tokenize` (JSONL on stdin and stdout). --variants
repeats the comparison with the tokenizer's pre-tokenizer, normaliser and added tokens changed to those of other model
families. Exits 1 on any difference and prints the first ones.
"""
import argparse
import copy
import glob
import json
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

TEXT_FILES = [
    "/usr/share/common-licenses/*",
    "/usr/share/perl/5*/unicore/*.txt",
    "/usr/share/perl/5*/**/*.pod",
    "/usr/share/doc/**/README*",
    "/usr/share/doc/**/changelog*",
    sys.prefix + "/lib/python3*/site-packages/**/*.md",
    sys.prefix + "/lib/python3*/site-packages/**/*.py",
]

ATOMS = [
    " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u200b", "\u180e", "\u0085", "\x00", "\x16",
    "\x1b", "a", "Z", "don't", "I'LL", "'s", "'S", "\u2019s", "'\u017f", "'re", "'VE", "''", "'", "1", "12", "12345",
    "\u0661\u0662", "\u00bd", "\u2167", "\u4e00\u4e8c", "\u65e5\u672c\u8a9e", "\u3053\u3093", "\ud55c\uae00",
    "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627", "e\u0301", "\u00e9", "a\u0300\u0301\u0302",
    "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0e2a\u0e27\u0e31\u0e2a", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1eb\U0001f1f7", "\u2764\ufe0f", "\ufffd", "\ufeff", "\U0010ffff", "\ue000", "\u1c89", "\U00010d40", "\ufb01",
    "\u212b", "\u1e9b\u0323", "<|im_start|>", "<|im_end|>", "<|im_end", "|im_end|>", "<|endoftext|>", "<file_sep>",
    "<|im_start|><|im_end|>", "<<|im_end|>>", "<added>", " <added> ", "<lone>", "<th\u00e9>", "<the\u0301>", "x<lone>y", "user", "assistant", "!!!",
    "?!", "--", "...", "$", "\u20ac", "\u221e", "_", "foo_bar", "http://a.b/c?d=e", "{\"k\": 1}", "#include <x>",
    "    if x:", "\t\treturn", "Tessera", "the", " the", "THE", "\u0130", "\u01c5", "\u00df", "\u1100\u1161\u11a8",
]


def real_texts(megabytes):
    texts, size = [], 0
    for pattern in TEXT_FILES:
        taken = 0
        for name in sorted(glob.glob(pattern, recursive=True)):
            try:
                text = Path(name).read_bytes().decode()
            except (OSError, UnicodeDecodeError):
                continue
            texts.append(text)
            taken += len(text.encode())
            if taken > megabytes * 1e6 / 3:
                break
        size += taken
        if size > megabytes * 1e6:
            break
    return texts


def adversarial_texts(count, rng):
    texts = ["", " ", "\n", "a" * 5000, " " * 3000, "\n" * 2000, "1" * 3001, "\u4e00" * 1000, "\u0301" * 500, "'" * 300,
             " \n" * 500, "\r\n" * 300, "ab " * 2000, "\U0001f600" * 300, "<|im_end|>" * 100, "<" * 1000, "\x00" * 50]
    while len(texts) < count:
        kind = rng.random()
        if kind < 0.6:
            texts.append("".join(rng.choice(ATOMS) for _ in range(rng.randint(1, 40))))
        elif kind < 0.8:
            texts.append("".join(rng.choice(ATOMS) * rng.randint(1, 30) for _ in range(rng.randint(1, 6))))
        else:
            points = []
            while len(points) < rng.randint(1, 60):
                c = rng.choice([rng.randrange(0x80), rng.randrange(0x800), rng.randrange(0x10000), rng.randrange(0x110000)])
                if not 0xD800 <= c < 0xE000:
                    points.append(chr(c))
            texts.append("".join(points))
    return texts


def byte_level(use_regex=False, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
            split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
                  r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")]


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
    yield "llama3", make(sequence(split(CL100K % "{1,3}"), byte_level()), model={"ignore_merges": True})
    yield "qwen2", make(sequence(split(CL100K % ""), byte_level()), normalizer={"type": "NFC"})
    yield "qwen2-removed", make(sequence(split(CL100K % "", "Removed", True), byte_level()))
    yield "cl100k-pcre", make(sequence(split(CL100K % "{1,4}"), byte_level()))
    yield "o200k", make(sequence(split(O200K), byte_level()))
    yield "deepseek", make(sequence(*DEEPSEEK, byte_level()), normalizer={"type": "Sequence", "normalizers": []})
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


def compare(name, folder, command, texts):
    reference = AutoTokenizer.from_pretrained(folder)
    answers = Tool(command, folder)([{"text": text} for text in texts])
    wrong = int(len(answers) != len(texts))
    size = 0
    for text, answer in zip(texts, answers):
        expected = reference.backend_tokenizer.encode(text, add_special_tokens=False).ids
        size += len(text.encode())
        got = answer["ids"]
        if got != expected:
            wrong += 1
            if wrong <= 3:
                at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
                print(f"  {name}: id {at} differs: got {got[at:at + 6]} expected {expected[at:at + 6]}")
                print("    near", repr(reference.decode(expected[max(0, at - 4):at + 6])), "text", repr(text[:80]))
    print(f"{name:24} {len(texts):5} texts {size / 1e6:7.2f} MB  {wrong} differ", flush=True)
    return wrong


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
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
