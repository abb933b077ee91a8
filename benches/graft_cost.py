"""Time of one token of a base and of its grafted models, in plain onnxruntime on the CPU.

`python benches/graft_cost.py BASE.onnx GRAFTED.onnx…`, with --threads, --past (tokens in the cache),
--batch, --tokens (timed for each model). The models take turns, five tokens at a time, so that what
else the machine does meets all of them; the fastest token and the fastest twentieth are reported.
"""

import argparse
import time

import numpy
import onnxruntime

TURN = 5

arguments = argparse.ArgumentParser()
arguments.add_argument("models", nargs="+")
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--past", type=int, default=40)
arguments.add_argument("--batch", type=int, default=1)
arguments.add_argument("--tokens", type=int, default=5000)
given = arguments.parse_args()


def loaded(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = given.threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def step(session):
    start = time.perf_counter()
    session.run(None, feeds)
    return 1e3 * (time.perf_counter() - start)


sessions = [loaded(path) for path in given.models]
known = {i.name: i for i in sessions[0].get_inputs()}
random = numpy.random.default_rng(0)
feeds = {
    name: random.standard_normal((given.batch, i.shape[1], given.past, i.shape[3]), numpy.float32)
    for name, i in known.items()
    if name.startswith("past_key_values.")
}
feeds["input_ids"] = numpy.full((given.batch, 1), 5)
feeds["attention_mask"] = numpy.ones((given.batch, given.past + 1), numpy.int64)
if "position_ids" in known:
    feeds["position_ids"] = numpy.full((given.batch, 1), given.past)

times = [[] for _ in sessions]
for _ in range(given.tokens // TURN):
    for session, own in zip(sessions, times):
        step(session)
        own.extend(step(session) for _ in range(TURN))

least = [min(own) for own in times]
early = [numpy.quantile(own, 0.05) for own in times]
print(f"{given.threads} threads, batch {given.batch}, {given.past} tokens before")
print("   fastest            5 % quantile")
for path, a, b in zip(given.models, least, early):
    more = [100 * (x / all[0] - 1) for x, all in ((a, least), (b, early))]
    print(f"{a:7.4f} ms {more[0]:+6.1f} %  {b:7.4f} ms {more[1]:+6.1f} %  {path}")
