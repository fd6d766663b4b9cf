#!/usr/bin/env python3
"""Every golden model in transformers: straight from its folder, and through import (sharded HDF5) and export, whose
tensors are the same bit for bit.

    check_goldens.py UPCYCLE_BINARY [NAME...]

NAME: a folder of tests/golden; all of them otherwise. In one process, as Python's packages take seconds to load.
Exit status 0: all agree; 1: something differs, with one line saying what.
"""
import json
import os
import subprocess
import sys
import tempfile
from glob import glob

import torch
from transformers.utils import logging

from check_export import check, fail

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        fail(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    binary, names = sys.argv[1], sys.argv[2:]
    names = names or sorted(os.path.basename(os.path.dirname(path)) for path in glob(f"{GOLDEN}/*/config.json"))
    if not names:
        fail(f"{GOLDEN}: found no golden models")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    for name in names:
        folder = os.path.relpath(os.path.join(GOLDEN, name))
        check(binary, folder)
        with open(f"{folder}/config.json") as f:
            family = json.load(f)["model_type"]
        with tempfile.TemporaryDirectory() as scratch:
            run(binary, "import", folder, f"{scratch}/{name}", "--shards=3")
            run(binary, "export", f"{scratch}/{name}", f"{scratch}/{name}_hf", "--to", family)
            check(binary, f"{scratch}/{name}_hf", same_as=folder)
