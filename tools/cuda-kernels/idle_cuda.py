"""Builds CUDA libraries that do nothing, so that a CUDA provider opens on a machine without a GPU.

usage: idle_cuda.py PROVIDER_LIBRARY OUT_DIR

Device memory is host memory, copies copy, and kernels are not run: sessions load, nodes are placed
and tensors are bound as on a GPU, and every result of a computation is meaningless. Needs gcc and nm.
"""

import pathlib
import subprocess
import sys

LIBRARIES = {
    "libcudart.so.13": ("cuda", "__cuda"),
    "libcublas.so.13": ("cublas",),
    "libcublasLt.so.13": ("cublasLt",),
    "libcurand.so.10": ("curand",),
    "libcuda.so.1": ("cu",),
}

OWN = r"""
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
static int take(void **p, size_t n) { *p = aligned_alloc(256, (n + 511) & ~(size_t)255); return *p ? 0 : 2; }
int cudaMalloc(void **p, size_t n) { return take(p, n); }
int cudaMallocHost(void **p, size_t n) { return take(p, n); }
int cudaHostAlloc(void **p, size_t n, unsigned f) { (void)f; return take(p, n); }
int cudaFree(void *p) { free(p); return 0; }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaMemcpy(void *to, const void *from, size_t n, int k) { (void)k; memcpy(to, from, n); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int k, void *s) { (void)k; (void)s; memcpy(to, from, n); return 0; }
int cudaMemset(void *p, int v, size_t n) { memset(p, v, n); return 0; }
int cudaMemsetAsync(void *p, int v, size_t n, void *s) { (void)s; memset(p, v, n); return 0; }
int cudaMemGetInfo(size_t *free_, size_t *total) { *free_ = *total = (size_t)16 << 30; return 0; }
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *n) { *n = 0; return 0; }
int cudaSetDevice(int n) { return n == 0 ? 0 : 101; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaDeviceGetAttribute(int *v, int a, int d) { (void)d; *v = a == 75 ? 9 : a == 76 ? 0 : 64; return 0; }
/* The struct is about 1 KiB; name, shared memory, registers, warp size, threads, version and processors matter. */
int cudaGetDeviceProperties(void *p, int d) {
  char *at = p;
  (void)d;
  memset(p, 0, 512);
  strcpy(p, "idle");
  *(size_t *)(at + 288) = (size_t)16 << 30;
  *(size_t *)(at + 296) = 48 << 10;
  int *fields = (int *)(at + 304);
  fields[0] = 1 << 16, fields[1] = 32, fields[4] = 1024, fields[5] = fields[6] = fields[7] = 1024;
  fields[8] = fields[9] = fields[10] = 1 << 16;
  *(int *)(at + 360) = 9;
  *(int *)(at + 384) = 64;
  return 0;
}
const char *cudaGetErrorString(int e) { return e == 101 ? "invalid device ordinal" : "an error of the idle CUDA"; }
const char *cudaGetErrorName(int e) { return e == 101 ? "cudaErrorInvalidDevice" : "cudaErrorIdle"; }
int cudaStreamIsCapturing(void *s, int *v) { (void)s; *v = 0; return 0; }
int cudaStreamCreateWithFlags(void **s, unsigned f) { (void)f; *s = malloc(8); return 0; }
int cudaStreamCreate(void **s) { *s = malloc(8); return 0; }
int cudaStreamDestroy(void *s) { free(s); return 0; }
int cublasCreate_v2(void **h) { *h = malloc(8); return 0; }
int cublasDestroy_v2(void *h) { free(h); return 0; }
int cublasLtCreate(void **h) { *h = malloc(8); return 0; }
int cublasLtDestroy(void *h) { free(h); return 0; }
const char *cublasGetStatusName(int e) { (void)e; return "CUBLAS_STATUS_IDLE"; }
const char *cublasGetStatusString(int e) { (void)e; return "a status of the idle cuBLAS"; }
"""


def wanted(library: pathlib.Path) -> list[str]:
    """The CUDA functions that the provider's library asks others for."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    names = {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()}
    return sorted(n for n in names if n.startswith(("cu", "__cuda")) and not n.startswith("__cuda_"))


def home_of(name: str) -> str:
    """The library that a function belongs to: the longest prefix decides."""
    fits = [(len(p), lib) for lib, prefixes in LIBRARIES.items() for p in prefixes if name.startswith(p)]
    return max(fits)[1]


def build(provider: pathlib.Path, out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    names = wanted(provider)
    defined = {line.split("(")[0].split()[-1].lstrip("*") for line in OWN.splitlines() if "(" in line and "{" in line}
    for library in LIBRARIES:
        own = [n for n in names if home_of(n) == library]
        body = OWN if any(n in defined for n in own) else ""
        rest = "\n".join(f"int {n}(void) {{ return 0; }}" for n in own if n not in defined)
        source = out / f"{library}.c"
        source.write_text(f"{body}\n{rest}\n")
        script = out / f"{library}.map"
        exported = "".join(f" {n};" for n in own)
        script.write_text(f"{library} {{ global:{exported} local: *; }};\n" if own else "{ local: *; };\n")
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-w", f"-Wl,-soname,{library}", f"-Wl,--version-script={script}", source, "-o", out / library],
            check=True,
        )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    build(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
