#!/usr/bin/env python3
"""Text to a token set (PREFIX.bin, PREFIX.idx) with a Hugging Face tokenizer.json.

Does for tokenizer.json what `upcycle tokenize` does, with the same rules: a .jsonl file has one document per line; any
other file is one document, or several separated by lines with only the separator; the newline that ends a document's
last line is not part of it; documents of only white space are dropped; an end-of-document token follows each document,
and no other special token is added. A whole document is held in memory: split long files with --doc-separator. Files
may be compressed (.gz, .zst) or .parquet, of which the column --jsonl-key is read; the last two need
launch/install.sh parquet. Killed, the same call goes on where it was (PREFIX.resume): it reads the texts again up to
there, and tokenizes from there.

--chat: each line of .jsonl (row of .parquet) is a conversation, {"messages": [{"role", "content"}, ...]}, and becomes
one document by the tokenizer's own chat template. PREFIX.mask has a byte for each token: 1 where it is an answer's. An
answer is what the template marks with {% generation %}; where it marks nothing, what an assistant's message adds to the
text of those before it and the prompt for an answer.
"""
import argparse
import array
import contextlib
import gzip
import io
import itertools
import json
import os
import re
import struct
import sys
import time

BATCH_BYTES = 4 << 20
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INSTALLED = os.path.join(ROOT, "build/deps/tokenizer_json/bin/python3")  # by launch/install.sh tokenizer_json


class InputError(Exception):
    pass


def pyarrow_for(path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path}: is read by the Python package pyarrow, which is missing; run launch/install.sh parquet")
    return pyarrow


def open_bytes(path):
    if path.endswith(".gz"):
        return gzip.open(path, "rb")
    if path.endswith(".zst"):
        return io.BufferedReader(pyarrow_for(path).input_stream(path, compression="zstd"))
    return open(path, "rb")


def load_config(path):
    """The tokenizer_config.json beside a tokenizer, {} where there is none."""
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}); get it anew")
    if not isinstance(config, dict):
        raise InputError(f"{path}: found no object, expected one; get it anew")
    return config


class Reader:
    """Reads documents; counts text that is not UTF-8, or half a surrogate pair, as --invalid-utf8 has it."""

    def __init__(self, args):
        self.args, self.invalid_characters, self.invalid_documents, self.empty = args, 0, 0, 0

    def decode(self, line, where):
        """The text of a document's bytes; None where it is left out."""
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            if self.args.invalid_utf8 == "error":
                raise InputError(f"{where}: is not valid UTF-8; convert the file, or give --invalid-utf8=replace or skip")
            text = line.decode("utf-8", "replace")
            return self.note(text, text.count("\ufffd") - line.count("\ufffd".encode()))

    def note(self, text, characters):
        self.invalid_documents += 1
        self.invalid_characters += characters if self.args.invalid_utf8 == "replace" else 0
        return text if self.args.invalid_utf8 == "replace" else None

    def text_documents(self, path):
        separator, lines, first = self.args.doc_separator.encode(), [], 1
        with open_bytes(path) as file:
            for number, line in enumerate(file, 1):
                if separator and line.removesuffix(b"\n").removesuffix(b"\r") == separator:
                    yield self.decode(b"".join(lines).removesuffix(b"\n"), f"{path}:{first}")
                    lines, first = [], number + 1
                else:
                    lines.append(line)
        yield self.decode(b"".join(lines).removesuffix(b"\n"), f"{path}:{first}")

    def jsonl_values(self, path):
        with open_bytes(path) as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                text = self.decode(line, where) if line.strip() else None
                if text is None:
                    continue
                try:
                    yield json.loads(text), where
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{where}: is not JSON ({error}); expected one object per line")

    def parquet_values(self, path):
        key = "messages" if self.args.chat else self.args.jsonl_key
        file = pyarrow_for(path).parquet.ParquetFile(path)
        if key not in file.schema_arrow.names:
            raise InputError(f"{path}: found no column {key}, expected one; choose it with --jsonl-key")
        rows = itertools.chain.from_iterable(b.to_pylist() for b in file.iter_batches(1024, columns=[key]))
        for number, row in enumerate(rows, 1):
            yield row, f"{path}, row {number}"

    def text_of(self, value, where):
        key = self.args.jsonl_key
        if not isinstance(value, dict) or not isinstance(value.get(key), str):
            raise InputError(f'{where}: expected an object with a text at key "{key}"; choose the key with --jsonl-key')
        text = value[key]
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            if self.args.invalid_utf8 == "error":
                raise InputError(f"{where}: holds half a surrogate pair; mend the JSON escapes")
            mended = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
            return self.note(mended, sum("\ud800" <= c <= "\udfff" for c in text))
        return text

    def documents(self):
        """Texts, or under --chat (conversation, where)."""
        for path in self.args.files:
            name = path.removesuffix(".gz").removesuffix(".zst")
            values = {".jsonl": self.jsonl_values, ".parquet": self.parquet_values}.get(os.path.splitext(name)[1])
            try:
                if self.args.chat:
                    if values is None:
                        raise InputError(f"{path}: expected .jsonl or .parquet, a conversation per line, under --chat")
                    yield from values(path)
                    continue
                texts = (self.text_of(*v) for v in values(path)) if values else self.text_documents(path)
                for text in texts:
                    if text is not None and text.strip(" \t\r\n\v\f"):
                        yield text
            except (OSError, EOFError) as error:
                raise InputError(f"{path}: cannot be read ({error}); give text, .jsonl or .parquet files")

    def said(self):
        if self.invalid_documents == 0:
            return ""
        if self.args.invalid_utf8 == "skip":
            return f", {self.invalid_documents} documents left out that are not valid UTF-8"
        return f", {self.invalid_characters} characters of {self.invalid_documents} documents replaced"


class ChatTemplate:
    """As transformers renders it, with where the answers lie."""

    BEGIN, END = "\x02", "\x03"  # around what {% generation %} holds

    def __init__(self, args):
        try:
            import jinja2.ext
            import jinja2.sandbox
        except ImportError:
            raise InputError("the Python package jinja2 is missing; run launch/install.sh tokenizer_json")
        self.folder = os.path.dirname(args.tokenizer)
        text, config = self.find(args)
        begin, end = self.BEGIN, self.END

        class Generation(jinja2.ext.Extension):
            tags = {"generation"}

            def parse(self, parser):
                line = next(parser.stream).lineno
                body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
                return jinja2.nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

            def mark(self, caller):
                return begin + caller() + end

        def fail(message):
            raise jinja2.exceptions.TemplateError(message)

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
        environment.filters["tojson"] = lambda x, **more: json.dumps(x, ensure_ascii=False, **more)
        environment.globals["raise_exception"] = fail
        self.error = jinja2.exceptions.TemplateError
        try:
            self.template = environment.from_string(text)
        except self.error as error:
            raise InputError(f"{args.tokenizer}: its chat template can not be read ({error})")
        self.marks = re.search(r"{%[-+]?\s*generation\s*[-+]?%}", text) is not None
        contents = {k: v.get("content") if isinstance(v, dict) else v for k, v in config.items() if k.endswith("_token")}
        self.tokens = {k: v for k, v in contents.items() if isinstance(v, str)}

    def find(self, args):
        path = os.path.join(self.folder, "tokenizer_config.json")
        config = load_config(path)
        for file in (args.chat_template, os.path.join(self.folder, "chat_template.jinja")):
            if file and (file == args.chat_template or os.path.exists(file)):
                with open(file, encoding="utf-8") as opened:
                    return opened.read(), config
        text = config.get("chat_template")
        if isinstance(text, list):  # several, by name
            text = next((t.get("template") for t in text if isinstance(t, dict) and t.get("name") == "default"), None)
        if not isinstance(text, str):
            raise InputError(f"{path}: names no chat_template; give one with --chat-template FILE")
        return text, config

    def render(self, messages, where, prompt=False):
        try:
            return self.template.render(messages=messages, add_generation_prompt=prompt, tools=None, documents=None,
                                        **self.tokens)
        except Exception as error:  # a template is a program, which may fail in any way
            raise InputError(f"{where}: the chat template refuses this conversation ({error})")

    def __call__(self, value, where):
        """(text, [(begin, end) of each answer])"""
        messages = value.get("messages") if isinstance(value, dict) else None
        if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
            raise InputError(f'{where}: expected a conversation, {{"messages": [{{"role": ..., "content": ...}}, ...]}}')
        if "\\u0002" in (shown := json.dumps(messages)) or "\\u0003" in shown:
            raise InputError(f"{where}: holds one of the control characters U+0002 and U+0003; remove it")
        text = self.render(messages, where)
        if self.marks:
            parts, spans, at = [], [], 0
            for outer in text.split(self.BEGIN):
                answer, _, after = outer.rpartition(self.END) if parts else ("", "", outer)
                spans.append((at, at + len(answer)))
                parts.append(answer + after)
                at += len(parts[-1])
            return self.answered("".join(parts), [s for s in spans if s[0] < s[1]], where)
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:i], where, prompt=True) if i > 0 else ""
            after = self.render(messages[:i + 1], where)
            if not (text.startswith(after) and after.startswith(before)):
                raise InputError(f"{where}: where the answers lie can not be told: the chat template changes what it "
                                 "wrote of earlier messages; mark them in it with {% generation %} (--chat-template)")
            spans.append((len(before), len(after)))
        return self.answered(text, spans, where)

    @staticmethod
    def answered(text, spans, where):
        if not spans:
            raise InputError(f"{where}: found a conversation without an answer, expected one")
        return text, spans


def counted(offsets, spans):
    """1 for each token that begins in a span."""
    mask, at = bytearray(len(offsets)), 0
    for i, (begin, _) in enumerate(offsets):
        while at < len(spans) and begin >= spans[at][1]:
            at += 1
        mask[i] = at < len(spans) and begin >= spans[at][0]
    return mask


def end_of_document(args, tokenizer):
    """The id of --eod, or of the eos_token in the tokenizer_config.json beside the tokenizer."""
    token = args.eod
    config = os.path.join(os.path.dirname(args.tokenizer), "tokenizer_config.json")
    if token is None:
        token = load_config(config).get("eos_token")
        if isinstance(token, dict):
            token = token.get("content")
    if not isinstance(token, str):
        raise InputError(f"{config}: names no eos_token; say which token ends a document with --eod TOKEN")
    found = tokenizer.token_to_id(token)
    if found is None:
        raise InputError(f"--eod {token}: is no token of {args.tokenizer}; give one of its tokens")
    return found


def batches_of(documents, size_of):
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += size_of(document)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Progress:
    """PREFIX.resume: how far a call came, should it be killed, which is of one tokenizer, list of files and options."""

    SECONDS = 20.0  # between two saves

    def __init__(self, args, files):
        self.path, self.files, self.saved_at = f"{args.output}.resume", files, time.monotonic()
        about = {name: value for name, value in vars(args).items() if name not in ("output", "files")}
        inputs = [args.tokenizer, *args.files, *([args.chat_template] if args.chat_template else [])]
        stats = [os.stat(path) for path in inputs]
        self.call = json.dumps([about, [(path, s.st_size, s.st_mtime_ns) for path, s in zip(inputs, stats)]])

    def read(self):
        """(documents read, sizes, tokens that count), with the files cut to them; None: start over."""
        try:
            with open(self.path, encoding="utf-8") as file:
                saved = json.load(file)
            if saved["call"] != self.call:
                return None
            if any(os.path.getsize(self.files[name]) < size for name, size in saved["bytes"].items()):
                return None
            for name, size in saved["bytes"].items():
                os.truncate(self.files[name], size)
            sizes = array.array("i")
            with open(self.files["sizes"], "rb") as file:
                sizes.frombytes(file.read())
            return saved["read"], sizes, saved["targets"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, outputs, read, targets):
        if time.monotonic() - self.saved_at < self.SECONDS:
            return
        for file in outputs.values():
            file.flush()
            os.fsync(file.fileno())
        saved = {"call": self.call, "read": read, "targets": targets,
                 "bytes": {name: file.tell() for name, file in outputs.items()}}
        with open(f"{self.path}.tmp", "w", encoding="utf-8") as file:
            json.dump(saved, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{self.path}.tmp", self.path)
        self.saved_at = time.monotonic()


def write_tokens(outputs, begun, progress, args, reader, tokenizer, eod, typecode):
    """Writes .bin and, under --chat, .mask; returns the number of tokens of each document, and of those that count."""
    read, sizes, targets = begun
    out, masks = outputs["bin"], outputs.get("mask")
    first = len(sizes)

    def keep():
        nonlocal first
        outputs["sizes"].write(sizes[first:].tobytes())
        first = len(sizes)
        progress.save(outputs, read, targets)

    if args.chat:
        template = ChatTemplate(args)
        unread = itertools.islice(reader.documents(), read, None)
        conversations = (template(*document) for document in unread)  # (text, answers)
        for batch in batches_of(conversations, lambda c: len(c[0])):
            encodings = tokenizer.encode_batch([text for text, _ in batch], add_special_tokens=False)
            for encoding, (_, spans) in zip(encodings, batch):
                ids, mask = array.array(typecode, encoding.ids), counted(encoding.offsets, spans)
                if not ids or ids[-1] != eod:  # some templates end with it
                    ids.append(eod)
                    mask.append(0)
                out.write(ids.tobytes())
                masks.write(mask)
                sizes.append(len(ids))
                targets += sum(mask)
            read += len(batch)
            keep()
    else:
        encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)  # without offsets
        for batch in batches_of(itertools.islice(reader.documents(), read, None), len):
            for encoding in encode(batch, add_special_tokens=False):
                if ids := encoding.ids:
                    ids.append(eod)
                    out.write(array.array(typecode, ids).tobytes())
                    sizes.append(len(ids))
            read += len(batch)
            keep()
            if sys.stderr.isatty():
                print(f"\r{len(sizes)} documents", end="", file=sys.stderr)
        if sys.stderr.isatty():
            print(file=sys.stderr)
    return sizes, targets


def write_index(out, sizes, typecode):
    """The layout of Megatron-LM's indexed_dataset.py."""
    width = 2 if typecode == "H" else 4
    out.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8 if typecode == "H" else 4, len(sizes), len(sizes) + 1))
    out.write(sizes.tobytes())
    pointer, pointers = 0, array.array("q")
    for size in sizes:
        pointers.append(pointer)
        pointer += size * width
    out.write(pointers.tobytes())
    out.write(array.array("q", range(len(sizes) + 1)).tobytes())


def run(args):
    try:
        from tokenizers import Tokenizer
    except ImportError:
        if sys.executable != INSTALLED and os.path.exists(INSTALLED):
            os.execv(INSTALLED, [INSTALLED, *sys.argv])
        raise InputError("the Python package `tokenizers` is missing; run launch/install.sh tokenizer_json")
    for path in args.files:
        if not os.path.isfile(path):
            raise InputError(f"{path}: is not a file; give text or .jsonl files")
    if not os.path.isfile(args.tokenizer):
        raise InputError(f"{args.tokenizer}: is not a file; give a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(args.tokenizer)
    except Exception as error:  # the package raises nothing narrower
        raise InputError(f"{args.tokenizer}: is not a Hugging Face tokenizer ({error}); give its tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    eod = end_of_document(args, tokenizer)
    vocab = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    typecode = "H" if vocab < 65500 else "i"  # Megatron's rule

    names = ("mask", "bin", "idx") if args.chat else ("bin", "idx")
    temporary = {name: f"{args.output}.{name}.tmp" for name in (*names, "sizes")}
    folder = os.path.dirname(args.output) or "."
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); the output needs a writable folder") from None
    reader, progress = Reader(args), Progress(args, temporary)
    begun = progress.read()
    if begun is not None:
        print(f"{args.output}: goes on after {len(begun[1])} documents, {sum(begun[1])} tokens", file=sys.stderr)
    ended = True
    try:
        with contextlib.ExitStack() as opened:
            outputs = {name: opened.enter_context(open(temporary[name], "ab" if begun else "wb"))
                       for name in ("bin", "sizes", *(("mask",) if args.chat else ()))}
            sizes, targets = write_tokens(outputs, begun or (0, array.array("i"), 0), progress, args, reader, tokenizer,
                                          eod, typecode)
        if not sizes:
            raise InputError(f"{args.files[0]}: the {len(args.files)} input files hold no text; nothing was written")
        with open(temporary["idx"], "wb") as out:
            write_index(out, sizes, typecode)
        for name in ("idx", "mask"):  # so that an index never meets another set's tokens
            if os.path.exists(f"{args.output}.{name}"):
                os.remove(f"{args.output}.{name}")
        for name in names:
            os.rename(temporary[name], f"{args.output}.{name}")
    except OSError as error:
        path = error.filename or args.output
        raise InputError(f"{path}: cannot be written ({error.strerror}); the output needs a writable folder")
    except KeyboardInterrupt:
        ended = False  # what is there is gone on from
        raise
    finally:
        for path in (*temporary.values(), progress.path, f"{progress.path}.tmp") if ended else ():
            if os.path.exists(path):
                os.remove(path)
    said = (f", {targets} of the tokens count in the loss" if args.chat else "") + reader.said()
    print(f"{args.output}: {len(sizes)} documents, {sum(sizes)} tokens, vocabulary {vocab}, end of document {eod}{said}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, metavar="FILE", help="tokenizer.json")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="writes PREFIX.bin and PREFIX.idx")
    parser.add_argument("--doc-separator", default="", metavar="LINE", help="splits text files into documents")
    parser.add_argument("--jsonl-key", default="text", metavar="KEY", help="where .jsonl lines hold the text")
    parser.add_argument("--invalid-utf8", default="error", choices=["error", "replace", "skip"],
                        help="text that is not UTF-8: ends here, gets U+FFFD for each broken character, or its document "
                        "is left out")
    parser.add_argument("--chat", action="store_true", help="lines are conversations; writes PREFIX.mask too")
    parser.add_argument("--chat-template", metavar="FILE", help="in place of the tokenizer's own")
    parser.add_argument("--eod", metavar="TOKEN", help="ends a document; default: eos_token of tokenizer_config.json")
    parser.add_argument("files", nargs="+", metavar="FILE")
    try:
        run(parser.parse_args())
    except InputError as error:
        print(f"tokenize_hf.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
