"""Lists the kernels of ONNX Runtime's CUDA provider, by its own word, on a machine without a GPU.

usage: kernels.py OUT_FILE      run by a Python that has onnxruntime-gpu; `make cuda-kernels` sets it up

A copy of the installed package is given CUDA libraries that do nothing (idle_cuda.py) and asked for
its kernels and operators. Of each operator the list holds the versions that an operator set of 13
or later can mean. One line each, sorted:

    op DOMAIN NAME SINCE INPUT:TYPE … -> OUTPUT:TYPE …
    kernel DOMAIN NAME FIRST LAST TYPE=KIND|KIND …

TYPE is a type variable of the operator, or KIND where the operator fixes it; `*` marks the input
or output that may be repeated. The default domain is `onnx`. LAST is `*` if no later version of
the operator is known to the kernel: ONNX Runtime then takes FIRST alone.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
DOMAINS = {"": "onnx", "com.microsoft": "com.microsoft"}
FIRST_OPSET = 13
OPEN = 2**31 - 1


def kind(text: str) -> str:
    """`tensor(float)` as `float`; sequences and optionals as they are, without spaces."""
    found = re.fullmatch(r"tensor\((\w+)\)", text)
    return found.group(1) if found else text.replace(" ", "")


def operators(state) -> list[tuple]:
    """Versions of operators still meant by an operator set of FIRST_OPSET or later."""
    known: dict[tuple, list] = {}
    for schema in state.get_all_operator_schema():
        if schema.domain in DOMAINS:
            known.setdefault((DOMAINS[schema.domain], schema.name), []).append(schema)
    listed = []
    for name, schemas in known.items():
        schemas.sort(key=lambda s: s.since_version)
        for schema, following in zip(schemas, schemas[1:] + [None]):
            if name[0] == "onnx" and following is not None and following.since_version <= FIRST_OPSET:
                continue
            listed.append((*name, schema))
    return listed


def formal(schema, parameters) -> str:
    def one(p) -> str:
        repeated = "*" if "Variadic" in str(p.option) else ""
        return f"{p.name}{repeated}:{kind(p.typeStr)}"

    return " ".join(one(p) for p in parameters)


def merged(kernels: list[dict]) -> list[dict]:
    """Kernels that differ in the kinds of one type variable alone, as one."""
    for variable in sorted({v for k in kernels for v in k}):
        groups: dict[tuple, set] = {}
        for kernel in kernels:
            rest = tuple(sorted((v, tuple(sorted(t))) for v, t in kernel.items() if v != variable))
            groups.setdefault((variable in kernel, rest), set()).update(kernel.get(variable, ()))
        kernels = [
            {**{v: set(t) for v, t in rest}, **({variable: kinds} if has else {})}
            for (has, rest), kinds in groups.items()
        ]
    return kernels


def lines() -> list[str]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found, wanted = [], {}
    by_name: dict[tuple, list[int]] = {}
    for domain, name, schema in operators(state):
        text = f"op {domain} {name} {schema.since_version} {formal(schema, schema.inputs)} -> {formal(schema, schema.outputs)}"
        found.append(" ".join(text.split()))
        by_name.setdefault((domain, name), []).append(schema.since_version)
    for kernel in state.get_all_opkernel_def():
        name = (DOMAINS.get(kernel.domain), kernel.op_name)
        first, last = kernel.version_range
        means = [v for v in by_name.get(name, []) if (v == first if last == OPEN else first <= v <= last)]
        if kernel.provider == "CUDAExecutionProvider" and means:
            types = {v: {kind(t) for t in kinds} for v, kinds in kernel.type_constraints.items()}
            wanted.setdefault((*name, first, "*" if last == OPEN else str(last)), []).append(types)
    for (domain, name, first, last), kernels in wanted.items():
        for types in merged(kernels):
            given = " ".join(f"{v}={'|'.join(sorted(t))}" for v, t in sorted(types.items()))
            found.append(f"kernel {domain} {name} {first} {last} {given}".strip())
    return sorted(set(found))


def main(out: pathlib.Path) -> None:
    import onnxruntime

    import idle_cuda

    package = pathlib.Path(onnxruntime.__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch, "onnxruntime")
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("*tensorrt.so", "transformers"))
        cuda = copy / "capi" / "libonnxruntime_providers_cuda.so"
        if not cuda.is_file():
            sys.exit(f"{package} has no CUDA provider: install onnxruntime-gpu")
        idle = pathlib.Path(scratch, "idle")
        idle_cuda.build(cuda, idle)
        shim = copy / "capi" / "libonnxruntime_providers_tensorrt.so"
        subprocess.run(["gcc", "-shared", "-fPIC", HERE / "idle_tensorrt.c", "-o", shim], check=True)
        environment = {**os.environ, "LD_LIBRARY_PATH": str(idle), "PYTHONPATH": scratch}
        asked = [sys.executable, __file__, "--ask"]
        text = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
    head = f"# Kernels of the CUDA provider of onnxruntime-gpu {onnxruntime.__version__}, by tools/cuda-kernels/kernels.py.\n"
    out.write_text(head + text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--ask":
        print("\n".join(lines()))
    else:
        main(pathlib.Path(sys.argv[1]))
