"""How many dimensions the value `hidden` has in plain onnxruntime: no part of this project has a hand in it.

`python ranks.py FOLDER COUNT` runs the models 0.onnx, 1.onnx, … of a folder and writes a list of numbers, null
for a model that the runtime refuses.
"""

import json
import sys

import numpy
import onnxruntime

onnxruntime.set_default_logger_severity(4)
KINDS = {"float": "float32", "bool": "bool", "int8": "int8", "uint8": "uint8"}


def rank(path):
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feeds = {
            given.name: numpy.ones(given.shape, KINDS[given.type[len("tensor(") : -1]])
            for given in session.get_inputs()
        }
        return session.run(["hidden"], feeds)[0].ndim
    except Exception:
        return None


folder, count = sys.argv[1:]
print(json.dumps([rank(f"{folder}/{number}.onnx") for number in range(int(count))]))
