#!/usr/bin/env python3
"""Are the ids of `upcycle tokenize` and launch/tokenize_hf.py those of the packages sentencepiece and tokenizers, and
how fast are they beside them?

    tokenizers_agree.py UPCYCLE_BINARY [--lines N] [--sentencepiece FILE.model] [--json tokenizer.json]

Makes N lines (20,000) of mixed text, prose, code, CJK, emoji, control characters and broken UTF-8, each a document, and
tokenizes them with both, in one sitting: all of these use all cores. Without files it makes small tokenizers of the
text. Exit status 0: all ids are equal; 1: some are not, with the first line that differs.
"""
import argparse
import array
import operator
import os
import random
import struct
import subprocess
import sys
import tempfile
import time

try:
    import sentencepiece
except ImportError:
    sys.exit(print("not run: ids beside sentencepiece's (its Python package is missing)"))
from tokenizers import ByteLevelBPETokenizer, Tokenizer

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launch", "tokenize_hf.py")
SEPARATOR = "<|end of line|>"
WORDS = ("the of and to in a is that for it was on are as with his they at be this from have or by one had not but what "
         "all were when we there can an your which their said if do will each about how up out them then she many some "
         "so these would other into has more her two like him see time could no make than first been its who now people "
         "naïve café Straße señor œuvre Ærø smørrebrød 1234567 3.14159 don't o'clock U.S.A. state-of-the-art").split()
CODE = ("for (int i = 0; i < n; ++i) {", "    return x->y[i] & 0xff;", "def f(self, *args, **kw):", "\tif a == b: pass",
        "std::vector<std::string> v{\"a\\n\", 'b'};", "SELECT * FROM t WHERE a >= 10; -- none", "</div><p class=\"x\">&nbsp;")
EMOJI = "😀 😂🤣 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ❤️ ☃ 🙂".split()
CJK = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏ひらがなカタカナ日本語한국어조선글자漢字"
OTHER = ("Привет мир", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "e\u0301a\u0308\u0323", "ﬁ ﬂ Ⅷ ①", "\u200b\u200d\ufeff",
         "\x01\x02\x7f", "a\tb", "  two  spaces ", "\u3000wide\u00a0hard", "</s> <s> <|endoftext|>", "▁under")
BROKEN = (b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x99", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80")


def line_of(draw):
    """Bytes of one line, with something other than white space in it."""
    parts = [b"x"]
    for _ in range(draw.randint(1, 12)):
        kind = draw.random()
        if kind < 0.55:
            parts.append(" ".join(draw.choices(WORDS, k=draw.randint(1, 12))).encode())
        elif kind < 0.68:
            parts.append(draw.choice(CODE).encode())
        elif kind < 0.78:
            parts.append("".join(draw.choices(CJK, k=draw.randint(1, 15))).encode())
        elif kind < 0.87:
            parts.append(draw.choice(EMOJI).encode())
        elif kind < 0.96:
            parts.append(draw.choice(OTHER).encode())
        else:
            parts.append(draw.choice(BROKEN))
    draw.shuffle(parts)
    return (b" " if draw.random() < 0.7 else b"").join(parts)


def read_set(prefix):
    with open(prefix + ".idx", "rb") as file:
        index = file.read()
    code, sequences = struct.unpack_from("<BQ", index, 17)
    sizes = struct.unpack_from(f"<{sequences}i", index, 34)
    ids = array.array("H" if code == 8 else "i")
    with open(prefix + ".bin", "rb") as file:
        ids.frombytes(file.read())
    return sizes, ids


def compare(name, prefix, expected):
    sizes, ids = read_set(prefix)
    if len(sizes) != len(expected):
        sys.exit(f"{name}: {len(sizes)} documents of {len(expected)}")
    at = 0
    for line, (size, want) in enumerate(zip(sizes, expected)):
        found = ids[at:at + size - 1]  # the last is the end of document
        if len(found) != len(want) or any(map(operator.ne, found, want)):
            sys.exit(f"{name}: line {line}: ids {list(found)}, expected {list(want)}")
        at += size
    print(f"{name}: {len(sizes)} lines, {at - len(sizes)} tokens, all ids equal")


def say(name, seconds, tokens):
    print(f"  {name}: {seconds:.2f} s, {tokens / seconds / 1e6:.2f} M tokens/s", flush=True)


def by_package(name, texts, encode):
    """The ids of all texts, of many at a time; what is timed is the package's own call."""
    ids, seconds = [], 0
    for first in range(0, len(texts), 50000):
        begin = time.monotonic()
        found = encode(texts[first:first + 50000])
        seconds += time.monotonic() - begin
        ids += [array.array("i", getattr(text, "ids", text)) for text in found]
    say(name, seconds, sum(map(len, ids)))
    return ids


def by_program(name, words, tokens, **more):
    begin = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    say(name, time.monotonic() - begin, tokens)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upcycle")
    parser.add_argument("--lines", type=int, default=20000)
    parser.add_argument("--sentencepiece", metavar="FILE")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        def path(name):
            return os.path.join(folder, name)

        draw = random.Random(1)
        lines = [line_of(draw) for _ in range(args.lines)]
        texts = [line.decode("utf-8", "replace") for line in lines]
        with open(path("text.txt"), "wb") as file:
            file.write(f"\n{SEPARATOR}\n".encode().join(lines) + b"\n")
        broken = sum("\ufffd" in text for text in texts)
        print(f"{args.lines} lines, {os.path.getsize(path('text.txt')) / 1e6:.1f} MB, {broken} of them not valid UTF-8, "
              f"{os.cpu_count()} cores")
        common = ["--output", path("set"), "--doc-separator", SEPARATOR, "--invalid-utf8=replace", path("text.txt")]

        model = args.sentencepiece
        if model is None:
            model = path("small.model")
            with open(path("sample.txt"), "w", encoding="utf-8") as file:
                file.write("\n".join(texts[:3000]))
            sentencepiece.SentencePieceTrainer.train(
                input=path("sample.txt"), model_prefix=path("small"), vocab_size=1000, model_type="bpe",
                byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                character_coverage=0.999, minloglevel=2)
        processor = sentencepiece.SentencePieceProcessor(model_file=model)
        expected = by_package("sentencepiece", texts, lambda t: processor.encode(t, num_threads=os.cpu_count()))
        by_program("upcycle tokenize", [args.upcycle, "tokenize", "--tokenizer", model, *common], sum(map(len, expected)))
        compare("sentencepiece", path("set"), expected)

        file = args.json
        if file is None:
            file = path("tokenizer.json")
            trained = ByteLevelBPETokenizer()
            trained.train_from_iterator(texts[:3000], vocab_size=2000, special_tokens=["<s>", "</s>"])
            trained.save(file)
            with open(path("tokenizer_config.json"), "w", encoding="utf-8") as config:
                config.write('{"eos_token": "</s>"}')
        tokenizer = Tokenizer.from_file(file)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
        expected = by_package("tokenizers", texts, lambda t: encode(t, add_special_tokens=False))
        programs = {"launch/tokenize_hf.py": [sys.executable, SCRIPT], "upcycle tokenize": [args.upcycle, "tokenize"]}
        for name, start in programs.items():
            environment = {**os.environ, "UPCYCLE_PYTHON": sys.executable}
            words = [*start, "--tokenizer", file, *common]
            by_program(name, words, sum(map(len, expected)), env=environment)
            compare(f"tokenizers by {name}", path("set"), expected)


if __name__ == "__main__":
    main()
