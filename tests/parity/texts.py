"""Texts for the parity tests: real ones found on the machine, and adversarial ones."""

import glob
import sys
from pathlib import Path

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
    "\u2003", "\u2009", "\u205f", "\u1680", "\x1f", "\x85", "\u0300", "\u20dd", "\U0001f3fd", "\U0001f3f4\U000e0067\U000e007f",
    "\U00020000", "\U0002f800", "\U000e0001", "\U000f0000", "\U00100000", "\U0001d400", "\ufffe", "\u2581", "\u2581\u2581",
    "\uff5c", "<\uff5cUser\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<s>", "</s>", " <s> ", "<0x0A>", "<unk>", "12345678901234567890",
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
