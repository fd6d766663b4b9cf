#!/usr/bin/env python3
"""Text to a token set (PREFIX.bin, PREFIX.idx) with a Hugging Face tokenizer.json.

Does for tokenizer.json what `upcycle tokenize` does for sentencepiece models, with the same rules: a .jsonl file has
one document per line; any other file is one document, or several separated by lines with only the separator; the
newline that ends a document's last line is not part of it; documents of only white space are dropped; an end-of-document
token follows each document, and no other special token is added. A whole document is held in memory: split long files
with --doc-separator.
"""
import argparse
import array
import json
import os
import struct
import sys

BATCH_BYTES = 8 << 20
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INSTALLED = os.path.join(ROOT, "build/deps/tokenizer_json/bin/python3")  # by launch/install.sh tokenizer_json


class InputError(Exception):
    pass


def documents_of_text(path, separator):
    lines = []
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            if separator and line.removesuffix("\n").removesuffix("\r") == separator:
                yield "".join(lines).removesuffix("\n")
                lines = []
            else:
                lines.append(line)
    yield "".join(lines).removesuffix("\n")


def documents_of_jsonl(path, key):
    with open(path, encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: is not JSON ({error}); expected one object a line")
            if not isinstance(value, dict) or not isinstance(value.get(key), str):
                wanted = f'an object with a text at key "{key}"'
                raise InputError(f"{path}:{number}: expected {wanted}; choose the key with --jsonl-key")
            if not value[key].isascii() and any("\ud800" <= c <= "\udfff" for c in value[key]):
                raise InputError(f"{path}:{number}: holds half a surrogate pair; mend the JSON escapes")
            yield value[key]


def documents_of(args):
    for path in args.files:
        try:
            if path.endswith(".jsonl"):
                documents = documents_of_jsonl(path, args.jsonl_key)
            else:
                documents = documents_of_text(path, args.doc_separator)
            for text in documents:
                if text.strip(" \t\r\n\v\f"):
                    yield text
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give text or .jsonl files")
        except UnicodeDecodeError:
            raise InputError(f"{path}:{first_bad_line(path)}: is not valid UTF-8; convert the file to UTF-8")


def first_bad_line(path):
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number


def end_of_document(args, tokenizer):
    """The id of --eod, or of the eos_token in the tokenizer_config.json beside the tokenizer."""
    token = args.eod
    config = os.path.join(os.path.dirname(args.tokenizer), "tokenizer_config.json")
    if token is None and os.path.exists(config):
        with open(config, encoding="utf-8") as file:
            token = json.load(file).get("eos_token")
        if isinstance(token, dict):
            token = token.get("content")
    if token is None:
        raise InputError(f"{config}: names no eos_token; say which token ends a document with --eod TOKEN")
    found = tokenizer.token_to_id(token)
    if found is None:
        raise InputError(f"--eod {token}: is no token of {args.tokenizer}; give one of its tokens")
    return found


def write_tokens(out, args, tokenizer, eod, typecode):
    """Writes .bin; returns the number of tokens of each document."""
    sizes, total, batch, batch_bytes = [], sum(os.path.getsize(f) for f in args.files), [], 0
    done = 0

    def flush():
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            if encoding.ids:
                ids = array.array(typecode, encoding.ids)
                ids.append(eod)
                out.write(ids.tobytes())
                sizes.append(len(ids))
        if sys.stderr.isatty():
            print(f"\r{100 * done // max(total, 1):3d} %  {len(sizes)} documents", end="", file=sys.stderr)
        batch.clear()

    for text in documents_of(args):
        batch.append(text)
        batch_bytes += len(text)
        if batch_bytes >= BATCH_BYTES:
            done, batch_bytes = done + batch_bytes, 0
            flush()
    flush()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return sizes


def write_index(out, sizes, typecode):
    """The layout of Megatron-LM's indexed_dataset.py."""
    width = 2 if typecode == "H" else 4
    out.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8 if typecode == "H" else 4, len(sizes), len(sizes) + 1))
    out.write(array.array("i", sizes).tobytes())
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

    temporary = {name: f"{args.output}.{name}.tmp" for name in ("bin", "idx")}
    try:
        with open(temporary["bin"], "wb") as out:
            sizes = write_tokens(out, args, tokenizer, eod, typecode)
        if not sizes:
            raise InputError(f"{args.files[0]}: the {len(args.files)} input files hold no text; nothing was written")
        with open(temporary["idx"], "wb") as out:
            write_index(out, sizes, typecode)
        if os.path.exists(f"{args.output}.idx"):  # so that an index never meets another set's tokens
            os.remove(f"{args.output}.idx")
        for name in ("bin", "idx"):
            os.rename(temporary[name], f"{args.output}.{name}")
    except OSError as error:
        path = error.filename or args.output
        raise InputError(f"{path}: cannot be written ({error.strerror}); the output needs a writable folder")
    finally:
        for name in temporary.values():
            if os.path.exists(name):
                os.remove(name)
    print(f"{args.output}: {len(sizes)} documents, {sum(sizes)} tokens, vocabulary {vocab}, end of document {eod}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, metavar="FILE", help="tokenizer.json")
    parser.add_argument("--output", required=True, metavar="PREFIX", help="writes PREFIX.bin and PREFIX.idx")
    parser.add_argument("--doc-separator", default="", metavar="LINE", help="splits text files into documents")
    parser.add_argument("--jsonl-key", default="text", metavar="KEY", help="where .jsonl lines hold the text")
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
