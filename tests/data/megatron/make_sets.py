#!/usr/bin/env python3
"""Makes the token sets beside this file with Megatron-LM's own writer (megatron-core 0.16.1; PyTorch is needed):

    pip download --no-deps megatron-core==0.16.1 and unpack it, then: make_sets.py UNPACKED

Four documents: one of two sequences, an empty one, one of three tokens, one of one; as each type, and with the modes of
a multimodal set.
"""
import os
import sys
import types

import numpy
import torch

ROOT, HERE = sys.argv[1], os.path.dirname(os.path.abspath(__file__))
DOCUMENTS = [[[7, 100, 9], [11]], [[]], [[12, 13, 9]], [[9]]]

# The data sets alone: the rest of the package wants Apex and Transformer Engine.
for name in ("megatron", "megatron.core", "megatron.core.datasets"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [os.path.join(ROOT, *name.split("."))]
sys.modules["megatron.core.msc_utils"] = types.SimpleNamespace(
    MultiStorageClientFeature=types.SimpleNamespace(is_enabled=lambda: False))
sys.modules["megatron.core.utils"] = types.SimpleNamespace(log_single_rank=lambda *words, **more: None)
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder  # noqa: E402

for name, dtype, modes in (("uint8", numpy.uint8, False), ("uint16", numpy.uint16, False), ("int32", numpy.int32, False),
                           ("int64", numpy.int64, False), ("modes", numpy.int32, True)):
    builder = IndexedDatasetBuilder(os.path.join(HERE, name + ".bin"), dtype=dtype, multimodal=modes)
    for document in DOCUMENTS:
        tokens = torch.tensor([token for sequence in document for token in sequence], dtype=torch.int64)
        builder.add_document(tokens, [len(s) for s in document], [1] * len(document) if modes else None)
    builder.finalize(os.path.join(HERE, name + ".idx"))
