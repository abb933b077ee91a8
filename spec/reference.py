#!/usr/bin/env python3
"""The adapter file of format.md and the arithmetic of projection.md, slow and plain.

Standard library alone. Python's float is IEEE-754 binary64, math.sqrt rounds correctly and nothing is fused.
sum() is never used on floats: since Python 3.12 it compensates for rounding.
Exit status: 0 yes; 1 no, and the refusal is named; 2 could not say.
"""
import argparse, hashlib, json, math, os, re, struct, sys

MAGIC, VERSION, MAX_RANK, MAX_VALUES, MAX_JSON = b"\x89TLA", 1, 64, 1 << 22, 100_000_000
ALL_LAYERS, HEAD = 65535, (65535, 7)
LAYOUT = struct.Struct("<4s6B3HQf2H32s32s")
FIELDS = ("magic version scalar split tying rank projection width groups roles seed scale first_layer layers"
          " base_digest factors_digest").split()
CODES = {"scalar": ["bf16", "f16", "f32"], "split": ["paper", "peft"], "tying": ["tiled", "structured"],
         "projection": ["seeded", "unit"]}
ROLES = ["q", "k", "v", "o", "gate", "up", "down", "lm_head"]
def named(module): return "lm_head" if module == HEAD else f"layers.{module[0]}.{ROLES[module[1]]}"

class Refusal(Exception): """Its name in the spec and, where one helps, the offending value."""
class Unreadable(Exception): """No checkpoint that this program can read."""

# ---- Floats: bits of the significand, exponents of the least unit and of overflow, bytes, code of struct.
FLOATS = {"bf16": (8, -133, 128, 2, ""), "f16": (11, -24, 16, 2, "e"), "f32": (24, -149, 128, 4, "f")}

def narrow(x, kind):
    """The binary64 x rounded once to kind: to nearest, ties to even."""
    bits, least, top, *_ = FLOATS[kind]
    if x == 0 or not math.isfinite(x): return x
    unit = max(math.frexp(x)[1] - bits, least)
    y = math.ldexp(round(math.ldexp(x, -unit)), unit)
    return math.copysign(math.inf if abs(y) >= 2.0**top else y, x)

def to_bytes(values, kind):
    """Little-endian bytes of values that kind holds exactly."""
    if kind == "bf16": return b"".join(struct.pack("<f", x)[2:] for x in values)
    return struct.pack(f"<{len(values)}{FLOATS[kind][4]}", *values)

def widened(raw, kind):
    """Bytes of kind as bytes of f32. Zeros keep their sign and NaNs their bits; those of f16 become quiet."""
    if kind == "f32": return raw
    def bits(word):
        if kind == "bf16": return word << 16
        if word & 0x7FFF > 0x7C00: return (word & 0x8000) << 16 | 0x7FC00000 | (word & 0x3FF) << 13
        return struct.unpack("<I", struct.pack("<f", *struct.unpack("<e", struct.pack("<H", word))))[0]
    return b"".join(struct.pack("<I", bits(word)) for word, in struct.iter_unpack("<H", raw))

# ---- The file.
def decode(data):
    """The header, a dict by the names of the layout, and the values v."""
    if len(data) < 128: raise Refusal("too-short", len(data))
    h = dict(zip(FIELDS, LAYOUT.unpack(data[:96])))
    if h.pop("magic") != MAGIC: raise Refusal("bad-magic", data[:4].hex())
    if h.pop("version") != VERSION: raise Refusal("unknown-version", data[4])
    for name, known in CODES.items():
        if h[name] >= len(known): raise Refusal(f"unknown-{name}", h[name])
        h[name] = known[h[name]]
    if h["roles"] > 255: raise Refusal("unknown-roles", hex(h["roles"]))
    h["roles"] = [role for bit, role in enumerate(ROLES) if h["roles"] >> bit & 1]
    check(h)
    if len(data) != length(h): raise Refusal("wrong-length", f"{len(data)}, not {length(h)}")
    if hashlib.sha256(data[:-32]).digest() != data[-32:]: raise Refusal("wrong-checksum")
    v = [x for x, in struct.iter_unpack("<f", widened(data[96:-32], h["scalar"]))]
    for index, x in enumerate(v):
        if not math.isfinite(x): raise Refusal("value-not-finite", f"v[{index}]")
        if x == 0 and math.copysign(1, x) < 0: raise Refusal("negative-zero", f"v[{index}]")
    return h, v

def check(h):
    """Refuses a header for what its fields say."""
    head = "lm_head" in h["roles"]
    selectable = (h["layers"] or ALL_LAYERS) * (len(h["roles"]) - head) + head
    for name, wrong in {
        "no-roles": not h["roles"], "rank-zero": h["rank"] == 0, "rank-too-large": h["rank"] > MAX_RANK,
        "width-zero": h["width"] == 0, "unit-width": h["projection"] == "unit" and h["width"] != h["rank"] ** 2,
        "groups-zero": h["groups"] == 0,
        "scale-not-finite": not math.isfinite(h["scale"]), "scale-not-positive": h["scale"] <= 0,
        "first-layer-without-layers": h["layers"] == 0 and h["first_layer"] != 0,
        "layers-overflow": h["first_layer"] + h["layers"] > 65535,
        "too-many-groups": h["groups"] > selectable, "too-many-values": h["groups"] * h["width"] > MAX_VALUES,
    }.items():
        if wrong: raise Refusal(name)

def length(h): return 96 + FLOATS[h["scalar"]][3] * h["groups"] * h["width"] + 32

def encode(h, v):
    """The one file of a header and its values."""
    check(h)
    if len(v) != h["groups"] * h["width"]: raise Refusal("wrong-value-count", len(v))
    for x in v:
        if not math.isfinite(x): raise Refusal("value-not-finite", x)
        if narrow(x, h["scalar"]) != x: raise Refusal("value-not-representable", x)
    wire = {**h, **{name: known.index(h[name]) for name, known in CODES.items()}}
    wire.update(magic=MAGIC, version=VERSION, roles=sum(1 << ROLES.index(role) for role in h["roles"]))
    body = LAYOUT.pack(*(wire[name] for name in FIELDS)) + to_bytes([x + 0.0 for x in v], h["scalar"])
    return body + hashlib.sha256(body).digest()

# ---- Checkpoints: one .safetensors file, or a folder with model.safetensors[.index.json].
NAME = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,4})\.(?:self_attn|mlp)\.(?:(?<=attn\.)([qkvo])_proj\.weight|(?<=mlp\.)(gate|up|down)_proj\.weight|.*)", re.S)

def load_json(raw, path):
    """A JSON object in which no name occurs twice."""
    def once(pairs):
        if len(dict(pairs)) < len(pairs): raise ValueError("a name occurs twice")
        return dict(pairs)
    try: found = json.loads(raw.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error: raise Unreadable(f"{path}: {error}") from error
    if not isinstance(found, dict): raise Unreadable(f"{path}: not a JSON object")
    return found

def safetensors(path):
    """name → (path, dtype, shape, offset in the file, length) of every tensor, all checked."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > min(8 + MAX_JSON, size): raise Unreadable(f"{path}: {size} bytes, its header ends at {start}")
        entries = load_json(file.read(start - 8), path)
    entries.pop("__metadata__", None)
    found, end = {}, start
    for name, entry in entries.items():
        try:
            kind, shape, (begin, stop) = entry["dtype"].lower(), entry["shape"], entry["data_offsets"]
            whole = all(type(x) is int and 0 <= x < 1 << 63 for x in shape + [begin, stop - begin])
            fits = kind not in FLOATS or math.prod(shape) * FLOATS[kind][3] == stop - begin
            if not (whole and fits and entry["dtype"].isupper()): raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unreadable(f"{path}: {name}: {entry}") from error
        found[name] = (path, kind, shape, start + begin, stop - begin)
    for name, (*_, offset, count) in sorted(found.items(), key=lambda item: item[1][3:]):
        if offset != end: raise Unreadable(f"{path}: {name}: a hole or an overlap")
        end += count
    if end != size: raise Unreadable(f"{path}: {size} bytes, its tensors end at {end}")
    return found

class Checkpoint:
    """modules: (layer, role number) → tensor; layers: how many have anything in a block."""
    def __init__(self, path):
        index = os.path.join(path, "model.safetensors.index.json")
        if os.path.exists(index):
            with open(index, "rb") as file: places = load_json(file.read(MAX_JSON), index).get("weight_map")
            if not isinstance(places, dict) or not all(str(f) == os.path.basename(str(f)) for f in places.values()):
                raise Unreadable(f"{index}: no weight_map to files of its folder")
            files = {file: safetensors(os.path.join(path, file)) for file in set(map(str, places.values()))}
            tensors = {name: files[str(file)].get(name) for name, file in places.items()}
            if None in tensors.values(): raise Unreadable(f"{index}: a tensor is not in its file")
        else:
            tensors = safetensors(os.path.join(path, "model.safetensors") if os.path.isdir(path) else path)
        self.modules, self.layers = {}, 0
        for name, tensor in tensors.items():
            module = HEAD if name == "lm_head.weight" else None
            if (match := NAME.fullmatch(name)) and int(match[1]) < ALL_LAYERS:
                module = (int(match[1]), ROLES.index(match[2] or match[3])) if match[2] or match[3] else None
                self.layers = max(self.layers, int(match[1]) + 1)
            if module and tensor[1] in FLOATS and len(tensor[2]) == 2 and 0 not in tensor[2]:
                self.modules[module] = tensor

    def raw(self, module):
        """The bytes of W as f32."""
        path, kind, _, offset, count = self.modules[module]
        with open(path, "rb") as file:
            file.seek(offset)
            return widened(file.read(count), kind)

    def matrix(self, module):
        """W as rows."""
        return [list(row) for row in struct.iter_unpack(f"<{self.modules[module][2][1]}f", self.raw(module))]

    def base_digest(self):
        hashed = hashlib.sha256(b"tla-base-v1".ljust(16, b"\0"))
        for module in [(layer, role) for layer in range(self.layers) for role in range(7)] or [(0, 0)]:
            if module not in self.modules: raise Refusal("no-base-digest", named(module))
            record = struct.pack("<HBII", *module, *self.modules[module][2])
            hashed.update(record + hashlib.sha256(self.raw(module)).digest())
        return hashed.digest()

# ---- P, R and the groups.
def stream(domain, seed, module, i, count):
    """c of the first words of stream i."""
    words = ()
    while len(words) < count:
        message = domain + struct.pack("<QHHII", seed, *module, i, len(words) // 4)
        words += struct.unpack("<4Q", hashlib.sha256(message).digest())
    return [(word.bit_count() - 32) / 4 for word in words[:count]]

def select(h, modules):
    """The modules that carry an update, sorted by (layer, role)."""
    layers = range(h["first_layer"], h["first_layer"] + (h["layers"] or ALL_LAYERS))
    found = sorted(m for m in modules if ROLES[m[1]] in h["roles"] and (m == HEAD or m[0] in layers))
    if not found: raise Refusal("nothing-selected")
    for role in h["roles"]:
        if not any(ROLES[m[1]] == role for m in found): raise Refusal("role-missing", role)
    for layer in layers if h["layers"] and h["roles"] != ["lm_head"] else []:
        if not any(m[0] == layer for m in found): raise Refusal("layer-missing", layer)
    if h["groups"] > len(found): raise Refusal("more-groups-than-modules", f"{h['groups']}, {len(found)}")
    return found

def mixing(h, v, modules, module):
    """R of a module, as rows."""
    r, u = h["rank"], h["width"]
    order = sorted(modules, key=lambda m: m[::-1]) if h["tying"] == "structured" else modules
    group = order.index(module) * h["groups"] // len(modules)
    if h["projection"] == "unit": p = [[1.0 if k == i else 0.0 for k in range(r * r)] for i in range(u)]
    else: p = [divided(stream(b"tla-projection-1", h["seed"], module, i, r * r), math.sqrt(r)) for i in range(u)]
    entries = combine([0.0] * (r * r), v[group * u : group * u + u], p)
    return [entries[a * r : a * r + r] for a in range(r)]

# ---- Vectors.
def norm(a): return math.sqrt(dot(a, a))
def divided(a, by): return [x / by for x in a]

def dot(a, b):
    l = [0.0] * 8
    for k, (x, y) in enumerate(zip(a, b)): l[k % 8] += x * y
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))

def combine(start, coefficients, rows):
    """start + c₀·row₀ + c₁·row₁ + …, from left to right."""
    for c, row in zip(coefficients, rows): start = [x + c * y for x, y in zip(start, row)]
    return start

def orth(z, q):
    total = [0.0] * len(q)
    for _ in range(2):
        h = [dot(row, z) for row in q]
        z, total = combine(z, [-x for x in h], q), [x + y for x, y in zip(total, h)]
    return z, total

def passed(w, x):
    """t = W x and y = WᵀW x."""
    t, y = [dot(row, x) for row in w], None
    for start in range(0, len(w), 128):
        share = combine([0.0] * len(x), t[start : start + 128], w[start : start + 128])
        y = share if y is None else [a + b for a, b in zip(y, share)]
    return t, y

def complete(q, n):
    for j in range(n):
        outside = 1.0
        for row in q: outside -= row[j] * row[j]
        if outside >= 1 / (2 * n):
            z, _ = orth([1.0 if k == j else 0.0 for k in range(n)], q)
            return divided(z, norm(z))

# ---- The basis of one matrix.
def eigenpairs(t):
    """Values, decreasing, and vectors of the symmetric matrix t."""
    p = len(t)
    v = [[1.0 if i == j else 0.0 for j in range(p)] for i in range(p)]
    small = 2.0**-54 * max(abs(x) for row in t for x in row)
    for _ in range(30):
        rotated = False
        for i, j in [(i, j) for i in range(p) for j in range(i + 1, p)]:
            x, ii, jj = t[i][j], t[i][i], t[j][j]
            if not abs(x) > small: continue
            rotated = True
            tau = (jj - ii) / (2 * x)
            rho = math.sqrt(1 + tau * tau)
            tan = 1 / (tau + rho) if tau >= 0 else -1 / (rho - tau)
            c = 1 / math.sqrt(1 + tan * tan)
            s = tan * c
            for m in (t, v):
                m[i], m[j] = [c * a - s * b for a, b in zip(m[i], m[j])], [s * a + c * b for a, b in zip(m[i], m[j])]
            for k in range(p): t[k][i], t[k][j] = t[i][k], t[j][k]
            t[i][i], t[j][j], t[i][j], t[j][i] = ii - tan * x, jj + tan * x, 0.0, 0.0
        if not rotated: break
    order = sorted(range(p), key=lambda k: -t[k][k])
    return [t[k][k] for k in order], [v[k] for k in order]

def residual(s, columns, rows):
    """Length of the part of the residual of Σ sⱼ·qⱼ in these rows."""
    square = 0.0
    for row in rows:
        part = 0.0
        for h, x in zip(columns, s): part += h[row] * x if row < len(h) else 0.0
        square += part * part
    return math.sqrt(square)

def search(w, module, r):
    """The leading eigenvectors of WᵀW."""
    n, wanted = len(w[0]), min(r, len(w), len(w[0]))
    q, columns, longest, drawn, due = [], [], 0.0, 0, wanted
    while True:
        for _ in range(min(4, wanted) if len(columns) == len(q) else 0):
            z = stream(b"tla-start-vecs-1", 0, module, drawn, n)
            drawn, b = drawn + 1, norm(z)
            a = norm(z := orth(z, q)[0])
            if a > 2.0**-20 * b: q.append(divided(z, a))
            elif len(q) < n: q.append(complete(q, n))
        for y in [passed(w, x)[1] for x in q[len(columns) :]]:
            longest = max(longest, norm(y))
            y, h = orth(y, q)
            beta = norm(y)
            grows = len(q) < n and beta > 2.0**-40 * longest
            if grows: q.append(divided(y, beta))
            columns.append(h + [beta] * grows)
        p = len(columns)
        stop = p == len(q) or p >= 8 * r + 240
        if p < wanted or (p < due and not stop): continue
        values, vectors = eigenpairs([[columns[max(i, j)][min(i, j)] for j in range(p)] for i in range(p)])
        far = [residual(s, columns, range(p, len(q))) for s in vectors[:wanted]]
        if stop or all(e <= 2.0**-33 * x or e <= 2.0**-46 * values[0] for e, x in zip(far, values)):
            return [combine([0.0] * n, s, q) for s in vectors[:wanted]]
        due = p + max(1, p // 8)

def basis(w, module, r):
    """Rows u₀ …, values σ and rows v₀ … of a matrix."""
    m, n = len(w), len(w[0])
    if not all(math.isfinite(x) for row in w for x in row): raise Refusal("weight-not-finite", named(module))
    us, sigma, vs = [], [], []
    for v in search(w, module, r):
        v, _ = orth(v, vs)
        vs.append(divided(v, norm(v) if max(v, key=abs) >= 0 else -norm(v)))
    images = [passed(w, v)[0] for v in vs]
    for t in images:
        size, a = norm(t), 0.0
        if size > 2.0**-24 * norm(images[0]):
            a = norm(u := orth(divided(t, size), us)[0])
        us.append(divided(u, a) if a > 0.5 else complete(us, m))
        sigma.append(size if a > 0.5 else 0.0)
    none = r - len(vs)
    return us + [[0.0] * m] * none, sigma + [0.0] * none, vs + [[0.0] * n] * none

# ---- Factors, and what they merge to.
def factors(h, v, modules, matrix):
    """module → (L, V) as lists of rows, for every selected module."""
    found, selected = {}, select(h, modules)
    for module in selected:
        us, sigma, vs = basis(matrix(module), module, h["rank"])
        lam = sigma if h["split"] == "paper" else [math.sqrt(x) for x in sigma]
        r = mixing(h, v, selected, module)
        left = [combine([0.0] * len(r), [x * y for x, y in zip(u, lam)], r) for u in zip(*us)]
        if h["split"] == "peft": left = [[x * y for x, y in zip(row, lam)] for row in left]
        found[module] = left, [list(row) for row in zip(*vs)]
    return found

def factors_digest(found):
    hashed = hashlib.sha256(b"tla-factors-v1\0\0")
    for module, (left, right) in sorted(found.items()):
        hashed.update(struct.pack("<HHIQQ", *module, len(left[0]), len(left), len(right)))
        for row in left + right: hashed.update(struct.pack(f"<{len(row)}d", *(x + 0.0 for x in row)))
    return hashed.digest()

def merged(h, base, module, left, right):
    """Bytes of W' = round(W + ΔW), row after row, in the type of W."""
    kind, out = base.modules[module][1], []
    for row, l in zip(base.matrix(module), left):
        out += [narrow(x + h["scale"] * y, kind) for x, y in zip(row, combine([0.0] * len(row), l, zip(*right)))]
    if not all(map(math.isfinite, out)): raise Refusal("merged-not-finite", named(module))
    return to_bytes(out, kind)

# ---- The command line.
def show(data):
    h, v = decode(data)
    assert encode(h, v) == data
    digests = {name: h[name].hex() for name in ("base_digest", "factors_digest")}
    return {"magic": MAGIC.hex(), "version": VERSION, **h, **digests, "v": v, "checksum": data[-32:].hex(),
            "bytes": len(data), "parameters": len(v), "bound": bytes(32) not in (h["base_digest"], h["factors_digest"])}

def verify(data, path, unbound=False):
    """Header, checkpoint, factors and digests of an adapter that belongs to a checkpoint."""
    (h, v), zero = decode(data), bytes(32)
    if not unbound and zero in (h["base_digest"], h["factors_digest"]): raise Refusal("unbound")
    base = Checkpoint(path)
    base_digest = base.base_digest() if h["base_digest"] != zero else zero
    if h["base_digest"] != base_digest: raise Refusal("other-base", base_digest.hex())
    made = factors(h, v, base.modules, base.matrix)
    digest = factors_digest(made)
    if h["factors_digest"] not in (zero, digest): raise Refusal("other-factors", digest.hex())
    return h, base, made, {"base_digest": base_digest.hex(), "factors_digest": digest.hex()}

def report(options, path):
    if options.command == "digest": return {"base_digest": Checkpoint(path).base_digest().hex()}
    with open(path, "rb") as file: data = file.read(1 << 25)
    if options.command == "show" or not options.base: return show(data)
    h, base, made, found = verify(data, options.base, options.unbound)
    if options.command == "verify": return found
    chosen = [m for m in made if options.module in (None, named(m))]
    return {**found, "merged": {named(m): hashlib.sha256(merged(h, base, m, *made[m])).hexdigest() for m in chosen}}

def main():
    parser = argparse.ArgumentParser(description="Reads, verifies and merges .tla adapters, slowly.")
    parser.add_argument("command", choices=["show", "verify", "merge", "digest"],
                        help="fields; file and base; SHA-256 of merged weights; base digest of a checkpoint")
    parser.add_argument("files", nargs="+", help="adapters; for digest checkpoints")
    parser.add_argument("--base", help="the checkpoint: a .safetensors file, or a folder")
    parser.add_argument("--module", help="merge this one alone: layers.0.q, lm_head")
    parser.add_argument("--unbound", action="store_true", help="take an adapter that names no base or factors")
    parser.add_argument("--json", action="store_true", help="one line of JSON per file")
    options, status = parser.parse_args(), 0
    if options.command == "merge" and not options.base: parser.error("merge needs --base")
    for path in options.files:
        try: line = {"file": path, "valid": True, "failure": None, **report(options, path)}
        except Refusal as no:
            line, status = dict(zip(["file", "valid", "failure", "detail"], [path, False, *no.args])), max(status, 1)
        except (Unreadable, OSError) as error:
            line, status = {"file": path, "valid": None, "failure": None, "detail": str(error)}, 2
        print(json.dumps(line) if options.json else "\n".join(f"{key:<14}  {value}" for key, value in line.items()))
    return status

if __name__ == "__main__": sys.exit(main())
