#!/usr/bin/env python3
"""Rendered chats of Tessera against transformers' apply_chat_template, and loss masks against its assistant masks.

    tests/parity/chat_parity.py --tool TEMPLATE_TOOL --tokenize COMMAND

Templates are those that the TRL package ships, and a few of our own that use the rest of the language. Each renders each
conversation with and without the generation prompt; where transformers refuses a conversation, Tessera must refuse it too.
TRL's training templates mark what the assistant says with {% generation %}: Tessera, which does not look at those marks
(COMMAND is `tessera tokenize --model`), has to train the same text.
"""
import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import trl
from tokenizer_families import CL100K, byte_level, bytes_family, isolated
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEMPLATES = Path(trl.__file__).parent / "chat_templates"

OWN = {
    "zephyr": "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
              "{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n' + m['content'] + eos_token }}\n{% endif %}\n"
              "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "mistral": "{%- set system = messages[0].content if messages[0].role == 'system' else none %}"
               "{%- set rest = messages[1:] if system is not none else messages %}{{ bos_token }}"
               "{%- for m in rest %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
               "{{- raise_exception('roles must alternate') }}{%- endif %}"
               "{%- if m.role == 'user' %}{{- '[INST] ' + ((system ~ '\n\n') if loop.last and system else '') + m.content + '[/INST]' }}"
               "{%- else %}{{- ' ' + (m.content | trim) + eos_token }}{%- endif %}{%- endfor %}",
    "llama3.1": "{{- bos_token }}{%- set today = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}"
                "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + today }}"
                "{%- if tools is not none %}{%- for t in tools %}{{- '\n' + (t | tojson(indent=4)) }}{%- endfor %}{%- endif %}"
                "{{- '<|eot_id|>' }}{%- for m in messages %}{%- if 'tool_calls' in m and m.tool_calls %}"
                "{%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}"
                "{%- set call = m.tool_calls[0].function %}{{- call.name ~ '(' }}"
                "{%- for k, v in call.arguments | items %}{{- k + '=\"' ~ v ~ '\"' }}{{- ', ' if not loop.last }}{%- endfor %}{{- ')' }}"
                "{%- elif m.role in ['tool', 'ipython'] %}{{- m.content | tojson if m.content is mapping or m.content is iterable else m.content }}"
                "{%- else %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content | trim) + '<|eot_id|>' }}{%- endif %}"
                "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}",
    "language": "{%- macro show(value, depth=0, mark='-') -%}{%- if value is mapping %}{%- for k, v in value | dictsort %}"
                "{{ '\n' ~ '  ' * depth ~ mark ~ k ~ ':' }}{{ show(v, depth + 1, mark=mark) }}{%- endfor %}"
                "{%- elif value is iterable and value is not string %}{%- for v in value %}{{ show(v, depth + 1) }}{%- endfor %}"
                "{%- else %} {{ value }}{%- endif %}{%- endmacro -%}"
                "{% set ns = namespace(count=0, names=[]) %}{% for m in messages if m.content is string %}"
                "{% set ns.count = ns.count + 1 %}{% set ns.names = ns.names + [m.role | upper] %}"
                "{{ loop.index }}/{{ loop.length }} {{ loop.previtem.role if loop.previtem is defined else 'none' }}"
                "{{ loop.nextitem.role | default('last') }} {{ m.content[:5] }}|{{ m.content[::-1] | trim }}|{{ m.content | title }}"
                "|{{ m.content.title() }}|{{ m.content | capitalize }}|{{ m.content.split() }}|{{ m.content.rsplit(' ', 1) | last }}"
                "|{{ m.content | replace('\n', '/') | indent(2) }}|{{ m.content | lower }}|{{ m.content.swapcase is defined }}\n"
                "{% else %}nobody{% endfor %}{{ ns.count }} {{ ns.names | unique | join('+') }} {{ ns.names | sort(reverse=true) | first }}"
                "{{ messages[::-1] | map(attribute='role') | list }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
                "{{ messages | rejectattr('role', 'in', ['user', 'system']) | map(attribute='role') | join(',') }}"
                "{{ show({'b': [1, {'c': none}], 'A': true}) }}{{ (tools or []) | tojson(ensure_ascii=True) }}"
                "{{ documents | tojson(indent=2) if documents }}{% set x %} block {{ 1 + 1 }} {% endset %}[{{ x }}]"
                "{% for i in range(10) %}{% if i is odd %}{% continue %}{% elif i > 6 %}{% break %}{% endif %}{{ i }}{% endfor %}"
                "{{ enable_thinking | default('unset') }}{{ 1.0 }}{{ 7 / 2 }}{{ 2 ** 3 }}{{ 'a' < 'b' <= 'b' }}{{ not none }}",
}

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather of a \u57ce\u5e02 & \"town\"", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Name"}, "unit": {"type": "string", "enum": ["C", "F"]},
                                     "days": {"type": "array", "items": {"type": "integer"}}}, "required": ["city"]}}},
         {"type": "function", "function": {"name": "stop", "description": "End.", "parameters": {"type": "object", "properties": {}}}}]


def user(content):
    return {"role": "user", "content": content}


def said(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def call(name, **arguments):
    return {"type": "function", "id": "call12345", "function": {"name": name, "arguments": arguments}}


def tool(content):
    return {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": content}


def conversations():
    """(messages, variables)"""
    weather = [user("Weather?"), said("", tool_calls=[call("get_weather", city="Z\u00fcrich", days=[1, 2])]), tool("{\"t\": 21}"),
               said("21 degrees.")]
    plain = [
        [user("Hi")],
        [user("Hi"), said("Hello!")],
        [system("Be brief."), user("2+2?"), said("4"), user(" and\n3+3? "), said("6, of course.\n")],
        [user("\u4f60\u597d \U0001f600"), said("e\u0301t\u00e9 <|im_start|> x")],
        [user(""), said("")],
        [user("  spaces  "), said("\n\nlines\n\n"), user("\ttab"), said(" x ")],
        [user("1"), said("2"), user("3"), said("4"), user("5"), said("6"), user("7")],
        [system(""), user("a"), said("b")],
        [user("q"), said("<think>\nthought\n</think>\n\nanswer")],
        [user("q"), said("<think>t1</think>a1"), user("q2"), said("<think>\nt2\n</think>\n\na2")],
        [user("q"), said("answer", reasoning_content="thought")],
        [user("q"), said("a", reasoning_content="r1"), user("q2"), said("a2", reasoning_content="r2")],
        [user("q"), said("</think>odd"), user("q2")],
        [user("q"), said("<think>unfinished"), user("q2")],
        [user("one"), user("two"), said("three")],
        [said("I begin."), user("Oh.")],
        [system("s"), user("a"), said("b"), system("again"), user("c")],
        [user("'quotes' \"double\" \\ backslash & <html> {{ braces }} {% tag %}"), said("\u2028 \x7f \u00a0end")],
        [user("x" * 3000), said("y" * 3000)],
        [user("q"), said(None, tool_calls=[call("stop")])],
        [user("q"), said("text too", tool_calls=[call("stop"), call("get_weather", city="A", unit=None)])],
        [user("q"), said("", reasoning_content="why", tool_calls=[call("get_weather", city="B")]), tool("ok"), said("done")],
        weather,
        weather + [user("Thanks"), said("Bye", reasoning_content="polite")],
        [user([{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}]), said("ok")],
    ]
    for messages in plain:
        yield messages, {}
    yield plain[2], {"enable_thinking": False}
    yield plain[9], {"enable_thinking": True}
    yield weather, {"tools": TOOLS}
    yield [system("Be brief."), *weather, user("Thanks")], {"tools": TOOLS, "enable_thinking": False}
    yield [user("Read.")], {"documents": [{"title": "T", "text": "body \u00e9"}], "tools": None}
    yield [user("q"), said("a")], {"tools": [], "thinking": True, "reasoning_effort": "low", "keep_past_thinking": True}


def expected_of(tokenizer, template, messages, prompt, variables):
    try:
        return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=prompt,
                                             **variables)
    except Exception as error:  # whatever Python raises, Tessera has to refuse
        return error


CHATML = ["<|im_start|>", "<|im_end|>"]
DEEPSEEK = ["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"]
MASKS = {  # a template with {% generation %}, and the special tokens of its model
    "llama3_training": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen2_5_training": CHATML, "qwen3_training": CHATML, "qwen3_instruct_2507_training": CHATML,
    "deepseekv3_training": DEEPSEEK, "deepseek_r1_distill_training": DEEPSEEK,
    "gemma_training": ["<start_of_turn>", "<end_of_turn>"], "phi3_training": ["<|user|>", "<|assistant|>", "<|end|>", "<|system|>"],
}


PROMPTS = ["<\uff5cAssistant\uff5c>", "<\uff5ctool\u2581outputs\u2581end\uff5c>", "<think>", "</think>"]


def masks_agree(tokenizer, ids, ours, theirs):
    """The same text. TRL also marks white space behind an answer, and what generation prompts write before it."""
    extra = tokenizer.decode([i for i, a, b in zip(ids, ours, theirs) if b and not a])
    for prompt in PROMPTS:
        extra = extra.replace(prompt, "")
    return extra.strip() == "" and all(b for a, b in zip(ours, theirs) if a)


def compare_masks(name, special, command, folder):
    data = bytes_family(["hello world, hello again. " * 50] * 10, byte_level(isolated(CL100K % "")), ["<s>", "<|endoftext|>", *special])
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "chat_template.jinja").write_text((TEMPLATES / f"{name}.jinja").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|endoftext|>"}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected, lines = [], []
    for messages, variables in conversations():
        try:
            expected.append(tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, **variables))
        except Exception:  # compared above
            continue
        lines.append(json.dumps({"messages": messages, "chat_template_kwargs": variables}))
    done = subprocess.run(shlex.split(command) + [str(folder)], input="\n".join(lines).encode(), capture_output=True, check=True)
    answers = [json.loads(line) for line in done.stdout.decode().split("\n") if line]
    wrong = doubtful = 0
    for line, answer, reference in zip(lines, answers, expected):
        doubtful += "doubts" in answer
        if answer["ids"] != reference["input_ids"] or not ("doubts" in answer or masks_agree(
                tokenizer, answer["ids"], answer["loss_mask"], reference["assistant_masks"])):
            wrong += 1
            print(f"  {name}: the mask differs: {line[:300]}")
    print(f"{name:30} {len(lines)} masks: {wrong} differ, {doubtful} would be refused", flush=True)
    return wrong + (doubtful > 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--tokenize", required=True)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **special)
    templates = {f"trl/{path.stem}": path.read_text() for path in sorted(TEMPLATES.glob("*.jinja"))} | OWN
    templates = {name: text for name, text in templates.items() if options.only in name}
    cases, lines = [], []
    for name, template in templates.items():
        for number, (messages, variables) in enumerate(conversations()):
            for prompt in (False, True):
                cases.append((name, number, prompt, expected_of(tokenizer, template, messages, prompt, variables)))
                lines.append(json.dumps({"template": template, "variables": special, "messages": messages, "extra": variables,
                                         "add_generation_prompt": prompt}))
    done = subprocess.run([options.tool], input="\n".join(lines).encode(), capture_output=True, check=True)
    answers = [json.loads(line) for line in done.stdout.decode().split("\n") if line]
    wrong = int(len(answers) != len(cases))
    rendered = {name: 0 for name in templates}
    bad = {name: 0 for name in templates}
    for (name, number, prompt, expected), answer in zip(cases, answers):
        got = answer.get("text")
        rendered[name] += isinstance(expected, str)
        if got == (expected if isinstance(expected, str) else None):
            continue
        wrong += 1
        bad[name] += 1
        if bad[name] > 2:
            continue
        print(f"{name}: conversation {number}, prompt {prompt}")
        if isinstance(expected, str) and got is not None:
            at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
            print(f"    got      {got[max(0, at - 40):at + 60]!r}\n    expected {expected[max(0, at - 40):at + 60]!r}")
        else:
            print(f"    got      {answer if got is None else got[:100]!r}\n    expected {expected!r:.300}")
    for name in templates:
        if bad[name]:
            print(f"{name:40} {rendered[name]:3} rendered, {bad[name]} differ")
    print(f"{len(templates)} templates, {len(cases)} chats, of which {sum(rendered.values())} rendered by transformers; {wrong} differ")
    for name, special in MASKS.items():
        if options.only in name:
            with tempfile.TemporaryDirectory() as scratch:
                wrong += compare_masks(name, special, options.tokenize, Path(scratch))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
