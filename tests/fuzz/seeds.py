"""Writes a small seed corpus for each fuzz target: seeds.py FOLDER."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))
from harness import ROOT, TEMPLATE, make_model  # noqa: E402


def main(folder):
    def seed(target, name, content):
        path = folder / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    for path in [*ROOT.glob("recipes/*.yaml"), *ROOT.glob("recipes/*/*.yaml")]:
        seed("recipe", path.name, path.read_bytes())
    seed("recipe", "fresh", json.dumps({"model": {"tokenizer": "t", "config": {"model_type": "llama", "x": [1, 2.5, None, True]}},
                                        "data": {"train": [{"path": "a", "weight": 2}]}, "train": {"steps": 1}, "name": "a\u00e9\n"}))
    model = folder / "model"
    make_model(model, hidden=8, intermediate=8, layers=1, heads=2, kv_heads=1)
    seed("safetensors", "model", (model / "model.safetensors").read_bytes()[:400])
    seed("safetensors", "one", b"\x5b\0\0\0\0\0\0\0" + b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}}'.ljust(0x5b) + b"\0" * 4)
    seed("safetensors", "empty", b"\2\0\0\0\0\0\0\0{}")
    seed("tokenizer", "bytes", (model / "tokenizer.json").read_bytes())
    seed("tokenizer", "small", json.dumps({"added_tokens": [{"id": 3, "content": "<|x|>", "special": True}], "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\p{L}+| ?\d{1,3}|\s+(?!\S)"}, "behavior": "Isolated", "invert": False},
            {"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": True, "use_regex": False}]},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}))
    seed("tokenizer", "characters", json.dumps({
        "added_tokens": [{"id": 0, "content": "<s>", "special": True}, {"id": 5, "content": "b\u00e9", "normalized": True, "lstrip": True}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "\u2581"},
                                                           {"type": "Replace", "pattern": {"Regex": " +"}, "content": "\u2581"}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                           "special_tokens": {"<s>": {"ids": [0]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                                     {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1}]},
        "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "\u2581": 2, "\u2581a": 3, "<0xC3>": 4}, "unk_token": "<s>", "fuse_unk": True,
                  "byte_fallback": True, "merges": [["\u2581", "a"]]}}))
    seed("chat_template", "tiny", TEMPLATE)
    for path in ROOT.glob("tests/data/golden/*.jinja"):
        seed("chat_template", path.name, path.read_bytes())
    seed("chat_template", "language", "{% raw %}{{ x }}{% endraw %}{% macro f(a, b=a) %}{{ caller(a) }}{% endmacro %}{% call(v) f(1) %}{{ v ** 2 }}"
         "{% endcall %}{% filter upper | indent(2) %}a\nb{% endfilter %}{% with a = [3, 1] %}{{ a | sort | unique | list }}{{ a[::-1] }}{% endwith %}"
         "{% set x | trim %} y {% endset %}{{ messages | map(attribute='role') | reject('none') | join('-') | replace('a', 'bb') | title }}"
         "{{ 'a b'.split() }}{{ 'x'.rjust(5, '-') }}{{ {'b': 1} | dictsort }}{{ 1 < 2 <= 3 }}{{ 'ab' * 3 }}{{ range(3) | sum }}{{ '3.7' | float | round }}")
    seed("chat_template", "rich", "{%- set ns = namespace(x=1) -%}{%- for m in messages if m.role != 'x' -%}{% if loop.first and m['content'] is defined %}"
         "{{ m.content | trim | upper }}{% elif tools %}{{ tools | tojson(indent=2) }}{% else %}{{ raise_exception('no') }}{% endif %}"
         "{% set ns.x = ns.x + 1 %}{{ loop.index0 % 2 == 0 }}{{ m.content[1:-1].split('a')[0] ~ \"b\" }}{%- endfor -%}{% macro f(a, b=1) %}{{ a }}{% endmacro %}")
    for name, line in {"chat": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}], "tools": [{"a": 1}]},
                       "completion": {"prompt": "a", "completion": "b"}, "text": {"text": "hello \u00e9"},
                       "tokens": {"tokens": [1, 2, 3], "loss_mask": [0, 1, 1]}}.items():
        seed("jsonl", name, json.dumps(line))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
