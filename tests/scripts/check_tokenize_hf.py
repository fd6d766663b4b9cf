#!/usr/bin/env python3
"""Does launch/tokenize_hf.py write what the `tokenizers` package says, in files that upcycle reads?

    check_tokenize_hf.py UPCYCLE_BINARY

Makes a small byte-level BPE tokenizer.json and texts of every kind, tokenizes them, and compares every id and document
with the package's own encoding, and conversations with transformers' (where that is installed), loss mask included;
`upcycle tokenize` must write the same set, and `upcycle eval` of a random model then reads it. Bad input must give one line and
exit status 2, and leave no file. Exit status 0: all agree; 1: something differs, with one line saying what.
"""
import gzip
import json
import os
import struct
import subprocess
import sys
import tempfile

from tokenizers import ByteLevelBPETokenizer, Tokenizer

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launch", "tokenize_hf.py")


def fail(message):
    sys.exit(f"check_tokenize_hf.py: {message}")


def read_set(prefix):
    with open(prefix + ".idx", "rb") as file:
        index = file.read()
    if index[:9] != b"MMIDIDX\0\0":
        fail("the index does not begin with MMIDIDX")
    version, code, sequences, indices = struct.unpack_from("<QBQQ", index, 9)
    if (version, code, indices) != (1, 8, sequences + 1):
        fail(f"version {version}, dtype code {code}, {indices} document indices of {sequences} sequences")
    sizes = struct.unpack_from(f"<{sequences}i", index, 34)
    with open(prefix + ".bin", "rb") as file:
        data = file.read()
    ids = struct.unpack(f"<{len(data) // 2}H", data)
    documents, at = [], 0
    for size in sizes:
        documents.append(list(ids[at:at + size]))
        at += size
    if at != len(ids):
        fail(f"the sizes add up to {at}, .bin has {len(ids)} ids")
    return documents


# ChatML, and the same with what the assistant says marked as transformers has it.
PLAIN_TEMPLATE = ("{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '</s>' }}{% endfor %}"
                  "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}")
MARKED_TEMPLATE = ("{% for m in messages %}{{ '<' + m['role'] + '>' }}{% if m['role'] == 'assistant' %}{% generation %}"
                   "{{ m['content'] + '</s>' }}{% endgeneration %}{% else %}{{ m['content'] + '</s>' }}{% endif %}"
                   "{% endfor %}")


def check_invalid(path, run, common, texts):
    with open(path("broken.txt"), "wb") as file:
        file.write(b"\n<|end|>\n".join([texts[0].encode(), b"b\xff\xe2\x82(", texts[2].encode()]))
    for compressed, rule, documents in ((False, "replace", 3), (True, "replace", 3), (True, "skip", 2)):
        if compressed:
            with open(path("broken.txt"), "rb") as file, gzip.open(path("broken.txt.gz"), "wb") as out:
                out.write(file.read())
        done = run(*common, "--doc-separator", "<|end|>", f"--invalid-utf8={rule}",
                   path("broken.txt.gz" if compressed else "broken.txt"))
        said = "2 characters of 1 documents replaced" if rule == "replace" else "1 documents left out"
        if done.returncode or said not in done.stdout or len(read_set(path("set"))) != documents:
            fail(f"--invalid-utf8={rule}: {done.stdout.strip()!r} {done.stderr.strip()!r}")


def check_parquet(path, run, common, texts, expected):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        print("not run: .parquet (launch/install.sh parquet)")
        return
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "n": [1, 2, 3]}), path("text.parquet"))
    if run(*common, path("text.parquet")).returncode or read_set(path("set")) != expected:
        fail("text.parquet: the ids are not the tokenizer's")
    with pyarrow.output_stream(path("text.jsonl.zst"), compression="zstd") as out:
        out.write("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    if run(*common, path("text.jsonl.zst")).returncode or read_set(path("set")) != expected:
        fail("text.jsonl.zst: the ids are not the tokenizer's")


def check_chat(path, run, common, tokenizer, eod):
    conversations = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wer? 猫 🙂"},
                      {"role": "assistant", "content": "Niemand 🙂, naïvely"}, {"role": "user", "content": "Why?"},
                      {"role": "assistant", "content": "So."}],
                     [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    lines = path("chat.jsonl", "".join(json.dumps({"messages": c}) + "\n" for c in conversations))
    marked = path("marked.jinja", MARKED_TEMPLATE)
    for words in (("--chat", lines), ("--chat", "--chat-template", marked, lines)):
        done = run(*common, *words)
        if done.returncode:
            fail(f"{words}: exit status {done.returncode}: {done.stderr.strip()}")
        with open(path("set.mask"), "rb") as file:
            mask = list(file.read())
        for conversation, ids in zip(conversations, read_set(path("set"))):
            own, mask = mask[:len(ids)], mask[len(ids):]
            answers = "".join(m["content"] + "</s>" for m in conversation if m["role"] == "assistant")
            found = tokenizer.decode([i for i, counts in zip(ids, own) if counts], skip_special_tokens=False)
            if found != answers or ids.count(eod) != len(conversation):
                fail(f"{words}: the answers are {found!r}, expected {answers!r}")
            check_with_transformers(path, conversation, ids, own)
        if mask:
            fail(f"{words}: the mask has {len(mask)} bytes too many")
    check_resume(path, run, common, ("--chat", path("chat.jsonl", open(lines).read() * 3)), ("bin", "idx", "mask"))
    if run(*common, lines, "--jsonl-key", "none").returncode != 2:
        fail("a conversation without --chat was taken for a text")


# Ends as if killed after so many saves.
KILLED = """
import os, sys
sys.path.insert(0, os.path.dirname({script!r}))
import tokenize_hf as t
t.Progress.SECONDS, t.BATCH_BYTES, save, saves = 0, 30, t.Progress.save, []
def killing(self, *arguments):
    save(self, *arguments)
    saves.append(0)
    if len(saves) == {saves}:
        os._exit(9)
t.Progress.save = killing
sys.argv = ["tokenize_hf.py", *sys.argv[1:]]
sys.exit(t.main())
"""


def check_resume(path, run, common, words, names):
    def contents():
        return [open(f"{path('set')}.{name}", "rb").read() for name in names]

    if (done := run(*common, *words)).returncode:
        fail(f"{words}: {done.stderr.strip()}")
    whole = contents()
    for saves in (1, 2):
        for name in names:
            os.remove(f"{path('set')}.{name}")
        script = KILLED.format(script=os.path.abspath(SCRIPT), saves=saves)
        killed = subprocess.run([sys.executable, "-c", script, *common, *words], capture_output=True, text=True)
        if killed.returncode != 9 or not os.path.exists(path("set.resume")) or os.path.exists(path("set.idx")):
            fail(f"the call that is killed ends with {killed.returncode}: {killed.stderr.strip()}")
        with open(path("set.bin.tmp"), "ab") as file:
            file.write(b"after the save")
        done = run(*common, *words)
        if done.returncode or "goes on after" not in done.stderr or contents() != whole:
            fail(f"{words}: killed after save {saves} and gone on with, the set is another one: {done.stderr.strip()}")
        left = [name for name in os.listdir(path("")) if name.startswith("set.") and name.split(".", 1)[1] not in names]
        if left:
            fail(f"{words}: {left} were left")
    subprocess.run([sys.executable, "-c", script, *common, *words], capture_output=True)
    done = run(*common, *words, "--invalid-utf8=skip")
    if done.returncode or "goes on after" in done.stderr:
        fail("a call with other options went on with what is not its own")


def check_with_transformers(path, conversation, ids, mask):
    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        return
    theirs = PreTrainedTokenizerFast(tokenizer_file=path("tokenizer.json")).apply_chat_template(
        conversation, chat_template=MARKED_TEMPLATE, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    if theirs["input_ids"] != ids or list(theirs["assistant_masks"]) != mask:
        fail(f"transformers has the ids {theirs['input_ids']} and the mask {theirs['assistant_masks']}")


def main(binary):
    texts = ["The cat sat on the mat.\nIt sat there for hours — naïvely.", "Zweites Dokument, ganz kurz: 猫", "third"]
    with tempfile.TemporaryDirectory() as folder:
        def path(name, content=None):
            if content is not None:
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.write(content)
            return os.path.join(folder, name)

        def run(*words):
            return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)

        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(texts * 5, vocab_size=300, special_tokens=["<s>", "</s>"])
        trained.save(path("tokenizer.json"))
        tokenizer = Tokenizer.from_file(path("tokenizer.json"))
        eod = tokenizer.token_to_id("</s>")
        expected = [tokenizer.encode(text, add_special_tokens=False).ids + [eod] for text in texts]

        plain = path("text.txt", "\n<|end|>\n".join(texts) + "\n")
        lines = path("text.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        common = ("--tokenizer", path("tokenizer.json"), "--output", path("set"))
        for words in (("--eod", "</s>", "--doc-separator", "<|end|>", plain), ("--eod", "</s>", lines)):
            done = run(*common, *words)
            if done.returncode:
                fail(f"{words}: exit status {done.returncode}: {done.stderr.strip()}")
            if read_set(path("set")) != expected:
                fail(f"{words}: the ids are not the tokenizer's")

        path("tokenizer_config.json", json.dumps({"eos_token": "</s>", "chat_template": PLAIN_TEMPLATE}))
        environment = {**os.environ, "UPCYCLE_PYTHON": sys.executable}
        subprocess.run([binary, "tokenize", *common[:3], path("by_binary"), lines], check=True, env=environment,
                       capture_output=True)
        if read_set(path("by_binary")) != expected:
            fail("upcycle tokenize: the ids are not the tokenizer's")
        check_invalid(path, run, common, texts)
        check_parquet(path, run, common, texts, expected)
        check_chat(path, run, common, tokenizer, eod)
        check_resume(path, run, common, (path("many.jsonl", open(lines).read() * 4), ), ("bin", "idx"))
        run(*common, lines)
        if os.path.exists(path("set.mask")):
            fail("a set without a loss mask left the mask of the one before")
        os.remove(path("tokenizer_config.json"))

        vocabulary = tokenizer.get_vocab_size()
        model = ["--model.hidden_size=16", "--model.intermediate_size=16", "--model.num_hidden_layers=1",
                 "--model.num_attention_heads=2", f"--model.vocab_size={vocabulary}", "--dtype=fp32", "--train.steps=1",
                 "--train.seq_length=8", "--train.micro_batch_size=1", "--train.global_batch_size=1",
                 f"--data.train={path('set')}", f"--data.tokenizer={path('tokenizer.json')}",
                 f"--checkpoint.dir={path('run')}"]
        subprocess.run([binary, "train", *model], capture_output=True, check=True)
        done = subprocess.run([binary, "eval", path("run"), "--data", path("set"), "--json"], capture_output=True)
        tokens = json.loads(done.stdout)["tokens"]
        if tokens != sum(map(len, expected)) - 1:
            fail(f"upcycle eval predicts {tokens} tokens of {sum(map(len, expected))}")

        before = sorted(os.listdir(folder))
        with open(path("bytes.txt"), "wb") as file:
            file.write(b"ab\xff\xfe")
        os.rename(path("bytes.txt"), path("text.txt"))
        for words, named in (((path("none.txt"), ), "none.txt"), ((plain, ), "UTF-8"), (("--eod", "<no>", lines), "<no>"),
                             (("--jsonl-key", "body", lines), "body")):
            done = run(*common[:3], path("bad"), *(words if "--eod" in words else ("--eod", "</s>", *words)))
            if done.returncode != 2 or done.stderr.count("\n") != 1 or named not in done.stderr or done.stdout:
                fail(f"{words}: exit status {done.returncode}, {done.stderr.strip()!r}; expected one line with {named}")
        if sorted(os.listdir(folder)) != before:
            fail(f"bad input left files behind: {sorted(set(os.listdir(folder)) - set(before))}")
    print("launch/tokenize_hf.py: ids, documents and errors are as expected")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        fail("usage: check_tokenize_hf.py UPCYCLE_BINARY")
    main(sys.argv[1])
