"""Logits of a model in plain onnxruntime: no part of this project has a hand in them.

`python logits.py MODEL.onnx TOKENS.json OUT`: TOKENS holds `ids`, `mask` and `positions`, each
[rows, length], `head`, the size of a head where the model does not say it, and `v`, a list with one entry a run: null, or what is fed to `tla_v`. OUT gets
float32 [runs, rows, length, vocabulary] in the byte order of this machine, and standard output the
shape.
"""

import json
import sys

import numpy
import onnxruntime

model, tokens, out = sys.argv[1:]
with open(tokens) as file:
    given = json.load(file)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
names = {"ids": "input_ids", "mask": "attention_mask", "positions": "position_ids"}
feeds = {names[key]: numpy.array(given[key], dtype=numpy.int64) for key in names}
rows = len(given["ids"])
known = {i.name: i for i in session.get_inputs()}
feeds = {name: value for name, value in feeds.items() if name in known}
for name, value in known.items():
    if name.startswith("past_key_values."):
        head = value.shape[3] if isinstance(value.shape[3], int) else given["head"]
        kind = numpy.float16 if value.type == "tensor(float16)" else numpy.float32
        feeds[name] = numpy.zeros((rows, value.shape[1], 0, head), dtype=kind)
runs = []
for v in given["v"]:
    run = onnxruntime.RunOptions()
    fed = {}
    if isinstance(v, str):
        adapter = onnxruntime.LoraAdapter()
        adapter.Load(v)
        run.add_active_adapter(adapter)
    elif v is not None:
        fed = {"tla_v": numpy.array(v, dtype=numpy.float32)}
    runs.append(session.run(["logits"], {**feeds, **fed}, run)[0].astype(numpy.float32))
numpy.stack(runs).tofile(out)
print(json.dumps([len(runs), *runs[0].shape]))
