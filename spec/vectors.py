#!/usr/bin/env python3
"""Writes the vectors anew: python3 spec/vectors.py [FOLDER]. These four folders in it are replaced:

accept/   adapters, and every field as a reader must see it; for bound ones the bases they belong to
reject/   files and uses that must be refused, and by which name
basis/    matrices, and the factors digest of each as the only module: unit projection, R the identity
models/   the bases, as safetensors
"""
import hashlib, json, os, shutil, struct, sys

import reference as ref

SHAPES = {"q": (16, 12), "k": (8, 12), "v": (8, 12), "o": (12, 16), "gate": (20, 12), "up": (20, 12), "down": (12, 20)}
LINEAR = ref.ROLES[:7]
DEFAULT = dict(
    scalar="bf16", split="paper", tying="tiled", rank=2, projection="seeded", width=13, groups=1, roles=LINEAR,
    seed=7, scale=1.0, first_layer=0, layers=0, base_digest=bytes(32), factors_digest=bytes(32),
)
FOLDERS = ["accept", "reject", "basis", "models"]
ROOT = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors")


def write(path, data):
    path = os.path.join(ROOT, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)


def write_json(path, value):
    """Objects over several lines, lists in one."""

    def text(value, margin):
        if not isinstance(value, dict) or not value:
            return json.dumps(value, ensure_ascii=False)
        lines = [f"{margin} {json.dumps(str(key))}: {text(item, margin + ' ')}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{margin}}}"

    write(path, (text(value, "") + "\n").encode())


def integers(label, count, bits):
    """Integers of so many bits from SHA-256 of the label."""
    size, blocks = bits // 8, range(count * bits // 256 + 1)
    raw = b"".join(hashlib.sha256(f"{label} {block}".encode()).digest() for block in blocks)
    return [int.from_bytes(raw[k * size : k * size + size], "little") for k in range(count)]


# ---- Models.
def short(label, rows, cols):
    """Multiples of 1/64 of seven bits, which every float type holds."""
    return [max(x - 128, -127) / 64 for x in integers(label, rows * cols, 8)]


def fine(label, rows, cols):
    """f32 of 24 bits, most of which bf16 and f16 cannot hold."""
    return [(x - (1 << 23)) / (1 << 25) for x in integers(label, rows * cols, 24)]


def tensors(make, layers, head=False, skip=()):
    """Hugging Face name → (shape, values)."""
    found = {}
    for layer in range(layers):
        for role in [role for role in LINEAR if (layer, role) not in skip]:
            block = "mlp" if role in ("gate", "up", "down") else "self_attn"
            name = f"model.layers.{layer}.{block}.{role}_proj.weight"
            found[name] = SHAPES[role], make(f"{layer} {role}", *SHAPES[role])
    if head:
        found["lm_head.weight"] = (24, 12), make("head", 24, 12)
    # What a checkpoint holds besides is no module.
    found["model.norm.weight"] = (12,), make("norm", 1, 12)
    return found


def write_model(name, found, kind):
    entries, data = {"__metadata__": {"format": "pt"}}, b""
    for tensor, (shape, values) in sorted(found.items()):
        raw = ref.to_bytes(values, kind)
        entries[tensor] = {"dtype": kind.upper(), "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    write(f"models/{name}", len(head).to_bytes(8, "little") + head + data)


def models():
    tiny = tensors(short, 2, head=True)
    for kind in ref.FLOATS:
        write_model(f"tiny-{kind}.safetensors", tiny, kind)
    names, places = sorted(tiny), {}
    for part, chosen in enumerate([names[:9], names[9:]], 1):
        file = f"model-{part:05}-of-00002.safetensors"
        write_model(f"tiny-sharded/{file}", {name: tiny[name] for name in chosen}, "bf16")
        places.update({name: file for name in chosen})
    write_json("models/tiny-sharded/model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    write_model("fine-f32.safetensors", tensors(fine, 2), "f32")
    rounded = {n: (s, [ref.narrow(x, "bf16") for x in v]) for n, (s, v) in tensors(fine, 2).items()}
    write_model("fine-bf16.safetensors", rounded, "bf16")
    write_model("without-down.safetensors", tensors(short, 2, skip=[(1, "down")]), "bf16")
    broken = tensors(short, 1)
    broken["model.layers.0.self_attn.v_proj.weight"][1][5] = float("nan")
    write_model("not-finite.safetensors", broken, "f32")


# ---- Adapters.
def values(count, unit):
    """Multiples of the unit around 0, and 0."""
    return [((5 * i + 3) % 17 - 8) * unit for i in range(count)]


def adapter(v=None, **fields):
    h = {**DEFAULT, **fields}
    return ref.encode(h, values(h["width"] * h["groups"], 1 / 8) if v is None else v)


def bound(base, v=None, **fields):
    """An adapter that belongs to a model and names what it rebuilds to."""
    h = {**DEFAULT, **fields}
    v = values(h["width"] * h["groups"], 1 / 64) if v is None else v
    checkpoint = ref.Checkpoint(os.path.join(ROOT, "models", base))
    h["base_digest"] = checkpoint.base_digest()
    h["factors_digest"] = ref.factors_digest(ref.factors(h, v, checkpoint.modules, checkpoint.matrix))
    return ref.encode(h, v)


def accept(name, why, data, *bases):
    """Bases: models it belongs to. The first and last merged module of each are digested, as they are stored."""
    write(f"accept/{name}.tla", data)
    merged = {}
    for base in bases:
        h, checkpoint, made, _ = ref.verify(data, os.path.join(ROOT, "models", base))
        raw = {ref.named(m): ref.merged(h, checkpoint, m, *made[m]) for m in sorted({min(made), max(made)})}
        merged[f"models/{base}"] = {module: hashlib.sha256(data).hexdigest() for module, data in raw.items()}
    write_json(f"accept/{name}.json", {"why": why, "show": ref.show(data)} | ({"merged": merged} if merged else {}))


def reject(failure, name, why, data, use=None, base=None):
    """Without a use the file itself is refused; otherwise verify or merge with a base."""
    name = f"{failure}-{name}" if name else failure
    write(f"reject/{name}.tla", data)
    extra = {"use": use, "base": f"models/{base}"} if use else {}
    write_json(f"reject/{name}.json", {"failure": failure, "why": why} | extra)


def sealed(body):
    return body + hashlib.sha256(body).digest()


def patched(offset, new, data=adapter()):
    """An adapter with other bytes at an offset, under a right checksum."""
    return sealed(data[:offset] + new + data[offset + len(new) : -32])


def u16(*numbers):
    return struct.pack(f"<{len(numbers)}H", *numbers)


def accepted():
    eighths = [(i - 6) / 8 for i in range(13)]
    accept("default", "the sample of format.md", adapter(eighths))
    accept("smallest", "one value: no adapter is shorter than 130 bytes", adapter([1.0], rank=1, width=1))
    for kind, (bits, least, top, *_) in ref.FLOATS.items():
        unit, largest = 2.0**least, 2.0**top - 2.0 ** (top - bits)
        extremes = [largest, -largest, unit, -unit, 2.0 ** (least + bits - 1), 2.0 ** (least + bits - 1) - unit, 0.0]
        accept(f"extremes-{kind}", "largest, smallest subnormal, smallest normal, largest subnormal, 0",
               adapter(extremes, scalar=kind, width=7))
    accept("minus-zero-in", "the writer was given -0 and wrote 0", adapter([-0.0] * 13))
    accept("split-peft", "the square root of the singular values on both sides", adapter(split="peft"))
    accept("tying-structured", "groups of one role", adapter(tying="structured", groups=7, width=2))
    accept("groups-tiled", "groups of neighbours in depth", adapter(groups=5, width=3))
    accept("rank-64", "the largest rank", adapter(rank=64))
    accept("width-257", "a width that takes both bytes", adapter(width=257))
    accept("unit-rank-3", "unit projection: r squared values", adapter(rank=3, projection="unit", width=9))
    accept("unit-seed", "without effect, but kept", adapter(rank=1, projection="unit", width=1, seed=1))
    accept("seed-zero", "the smallest seed", adapter(seed=0))
    accept("seed-largest", "a seed beyond what binary64 counts exactly", adapter(seed=2**64 - 1))
    accept("scale-smallest", "the smallest positive f32", adapter(scale=2.0**-149))
    accept("scale-largest", "the largest f32", adapter(scale=2.0**128 - 2.0**104))
    for role in ref.ROLES:
        accept(f"role-{role}", "one role alone", adapter(roles=[role]))
    accept("roles-all", "every role", adapter(roles=ref.ROLES))
    accept("layers-range", "layers 3, 4 and 5", adapter(first_layer=3, layers=3))
    accept("layers-last", "the last layer there can be", adapter(first_layer=65534, layers=1))
    accept("layers-most", "as many layers as there can be, one by one", adapter(layers=65535))
    most = adapter(roles=["q", "lm_head"], layers=2, groups=3, width=1)
    accept("groups-most", "as many groups as layers and roles can select", most)
    accept("bound-to-a-base-only", "half bound is unbound", adapter(base_digest=bytes(range(32))))
    accept("bound-to-factors-only", "half bound is unbound", adapter(factors_digest=bytes(range(32))))
    elsewhere = adapter(base_digest=bytes(range(32)), factors_digest=b"\xff" * 32)
    accept("bound-elsewhere", "bound to weights that are not here", elsewhere)

    same = ["tiny-f32.safetensors", "tiny-bf16.safetensors", "tiny-f16.safetensors", "tiny-sharded"]
    accept("tiny", "one base digest, however the values are stored", bound(same[0]), *same)
    for name, fields in {
        "peft": dict(split="peft"),
        "f16": dict(scalar="f16"),
        "f32": dict(scalar="f32", scale=0.3),
        "tiled": dict(groups=4, width=3),
        "structured": dict(groups=4, width=3, tying="structured"),
        "a-group-each": dict(groups=14, width=1, scalar="f16"),
        "unit": dict(projection="unit", width=4),
        "unit-peft": dict(projection="unit", rank=3, width=9, split="peft"),
        "rank-1": dict(rank=1, width=1),
        "rank-beyond-the-matrix": dict(rank=18, width=2, split="peft"),
        "one-role": dict(roles=["down"]),
        "one-layer": dict(first_layer=1, layers=1),
        "both-layers": dict(layers=2),
        "with-head": dict(roles=ref.ROLES),
        "head-alone": dict(roles=["lm_head"], first_layer=9, layers=3),
        "other-seed": dict(seed=2**64 - 1),
    }.items():
        accept(f"tiny-{name}", json.dumps(fields), bound(same[0], **fields), same[0])
    accept("fine-f32", "weights of 24 bits", bound("fine-f32.safetensors"), "fine-f32.safetensors")
    accept("fine-bf16", "merging rounds once, from binary64", bound("fine-bf16.safetensors"), "fine-bf16.safetensors")
    accept("nothing", "v = 0 merges to the base", bound("fine-f32.safetensors", [0.0] * 13), "fine-f32.safetensors")


def rejected():
    whole = adapter()
    for count in (0, 1, 4, 96, 127):
        reject("too-short", f"{count}", f"the first {count} bytes of an adapter", whole[:count])
    reject("bad-magic", "first", "the first byte", patched(0, b"\x88"))
    reject("bad-magic", "last", "the last byte of the magic, in lower case", patched(3, b"a"))
    reject("bad-magic", "seven-bits", "the first byte without its high bit", patched(0, b"\x09"))
    reject("bad-magic", "zeros", "128 zeros", bytes(128))
    for field, offset, codes in [("version", 4, (0, 2, 255)), ("scalar", 5, (3, 255)), ("split", 6, (2, 255)),
                                 ("tying", 7, (2, 255)), ("projection", 9, (2, 255))]:
        for code in codes:
            reject(f"unknown-{field}", f"{code}", f"{field} {code}", patched(offset, bytes([code])))
    for bits in (0x017F, 0x8000):
        reject("unknown-roles", f"{bits:04x}", "a bit without a role", patched(14, u16(bits)))
    reject("no-roles", "", "the empty set", patched(14, u16(0)))
    reject("rank-zero", "", "rank 0", patched(8, b"\0"))
    for rank in (65, 255):
        reject("rank-too-large", f"{rank}", "beyond 64", patched(8, bytes([rank])))
    reject("width-zero", "", "width 0", patched(10, u16(0)))
    reject("width-zero", "unit", "width 0 comes before what unit asks for", patched(9, b"\x01" + u16(0)))
    for rank, width in [(2, 3), (2, 5), (1, 4), (64, 4095)]:
        reject("unit-width", f"{rank}-{width}", f"{width} values for rank {rank}",
               patched(8, bytes([rank, 1]) + u16(width)))
    reject("groups-zero", "", "no group", patched(12, u16(0)))
    for bits in (0x7FC00000, 0xFF800001, 0x7F800000, 0xFF800000):
        reject("scale-not-finite", f"{bits:08x}", "a NaN or an infinity", patched(24, bits.to_bytes(4, "little")))
    for name, x in {"zero": 0.0, "minus-zero": -0.0, "minus-one": -1.0, "minus-least": -(2.0**-149)}.items():
        reject("scale-not-positive", name, str(x), patched(24, struct.pack("<f", x)))
    for first in (1, 65535):
        reject("first-layer-without-layers", f"{first}", f"all layers, from {first}", patched(28, u16(first, 0)))
    for first, layers in [(65535, 1), (65534, 2), (1, 65535), (65535, 65535)]:
        reject("layers-overflow", f"{first}-{layers}", "ends beyond 65535", patched(28, u16(first, layers)))
    for name, roles, layers, groups in [("one-role", 0x01, 2, 3), ("head", 0x80, 0, 2), ("head-in-a-range", 0x80, 5, 2),
                                        ("role-and-head", 0x81, 2, 4), ("all", 0xFF, 1, 9)]:
        data = patched(12, u16(groups, roles), patched(30, u16(layers)))
        reject("too-many-groups", name, f"{groups} groups, one more than there can be modules", data)
    reject("too-many-values", "one", "2113 · 1985 = 4194305", patched(10, u16(2113, 1985)))
    reject("too-many-values", "most", "65535 · 65535: its bytes overflow 32 bits", patched(10, u16(65535, 65535)))
    reject("wrong-length", "most-values", "4194304 values pass, but are not there", patched(10, u16(2048, 2048)))
    reject("wrong-length", "trailing-zero", "one zero more", whole + b"\0")
    reject("wrong-length", "trailing-newline", "as an editor leaves it", whole + b"\n")
    reject("wrong-length", "twice", "two adapters in one file", whole * 2)
    reject("wrong-length", "last-byte", "cut by one byte", whole[:-1])
    reject("wrong-length", "sealed-with-more", "a right checksum over a value too many", sealed(whole[:-32] + u16(0)))
    reject("wrong-length", "sealed-with-fewer", "a right checksum over a value too few", sealed(whole[:-34]))
    reject("wrong-length", "half-a-value", "a right checksum over half a value more", sealed(whole[:-32] + b"\0"))
    reject("wrong-length", "other-scalar", "f32 in the header, bf16 behind it", patched(5, b"\x02"))
    reject("wrong-length", "no-values", "128 bytes: header and checksum alone", sealed(whole[:96]))
    for name, offset in {"seed": 16, "base-digest": 32, "factors-digest": 95, "value": 100, "itself": 153}.items():
        damaged = bytearray(whole)
        damaged[offset] ^= 1
        reject("wrong-checksum", name, f"one bit of byte {offset}", bytes(damaged))
    reject("wrong-checksum", "zeros", "a checksum of zeros", whole[:-32] + bytes(32))
    alone = hashlib.sha256(whole[96:-32]).digest()
    reject("wrong-checksum", "of-values-only", "a checksum that leaves out the header", whole[:-32] + alone)
    reject("wrong-checksum", "before-values", "a NaN under a wrong checksum", whole[:96] + u16(0x7FC0) + whole[98:])
    for kind, special in {"bf16": (0x7F80, 0xFF80, 0x7FC0, 0x7F81), "f16": (0x7C00, 0xFC00, 0x7E00, 0x7C01),
                          "f32": (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001)}.items():
        data, size = adapter(scalar=kind), ref.FLOATS[kind][3]
        for bits in special:
            changed = patched(96 + 2 * size, bits.to_bytes(size, "little"), data)
            reject("value-not-finite", f"{kind}-{bits:0{2 * size}x}", "v[2] is an infinity or a NaN", changed)
        changed = patched(len(data) - 32 - size, bytes(size - 1) + b"\x80", data)
        reject("negative-zero", kind, "the last value is -0", changed)
    reject("value-not-finite", "first", "NaN, then -0", patched(96, u16(0x7FC0, 0x8000)))
    reject("negative-zero", "first", "-0, then NaN", patched(96, u16(0x8000, 0x7FC0)))

    # Two faults: the one that comes first in the table names the file.
    reject("bad-magic", "before-version", "another magic and version 2", patched(3, b"a\x02"))
    reject("unknown-version", "before-all", "version 2, 255 in all that follows", whole[:4] + b"\2" + b"\xff" * 149)
    reject("unknown-scalar", "before-split", "255 from scalar to projection", patched(5, b"\xff" * 5))
    reject("unknown-projection", "before-rank", "rank 0 and projection 2", patched(8, b"\0\2"))
    reject("unknown-roles", "before-rank", "rank 0 and an unknown role", patched(14, u16(0x0100), patched(8, b"\0")))
    reject("no-roles", "before-rank", "no role and rank 0", patched(14, u16(0), patched(8, b"\0")))
    reject("rank-zero", "before-the-rest", "zeros from rank on, but for q", patched(8, bytes(6) + b"\1" + bytes(17)))
    reject("too-many-groups", "before-values", "too many groups and values", patched(10, u16(65535, 65535, 0x80)))
    reject("wrong-length", "before-checksum", "a byte too many, so the checksum is elsewhere", whole + bytes(32))


def rejected_at_use():
    tiny, fine_base = "tiny-f32.safetensors", "fine-f32.safetensors"
    good = bound(tiny)

    def verify(failure, name, why, data, base=tiny):
        reject(failure, name, why, data, "verify", base)

    verify("unbound", "", "neither digest", adapter())
    verify("unbound", "base", "no base digest", patched(32, bytes(32), good))
    verify("unbound", "factors", "no factors digest", patched(64, bytes(32), good))
    reject("unbound", "merge", "merging asks for both digests, too", adapter(), "merge", tiny)
    verify("no-base-digest", "", "layer 1 has no down", good, "without-down.safetensors")
    verify("other-base", "model", "the base is another model", good, fine_base)
    verify("other-base", "bit", "one bit of the base digest", patched(63, bytes([good[63] ^ 0x80]), good))
    verify("other-base", "bf16", "rounded to bf16, a base is another one", bound(fine_base), "fine-bf16.safetensors")
    reject("other-base", "merge", "merging checks the base, too", good, "merge", fine_base)
    verify("nothing-selected", "", "layers 2 and 3 of a base of two", patched(28, u16(2, 2), good))
    verify("role-missing", "", "the base has no lm_head", patched(14, u16(0xFF), bound(fine_base)), fine_base)
    verify("layer-missing", "", "layers 0, 1 and 2 of a base of two", patched(28, u16(0, 3), good))
    groups = adapter(groups=15, width=1, base_digest=good[32:64], factors_digest=good[64:96])
    verify("more-groups-than-modules", "", "15 groups for 14 modules", groups)
    broken = ref.Checkpoint(os.path.join(ROOT, "models/not-finite.safetensors")).base_digest()
    verify("weight-not-finite", "", "layer 0, v has a NaN", patched(32, broken, good), "not-finite.safetensors")
    verify("other-factors", "bit", "one bit of the factors digest", patched(64, bytes([good[64] ^ 1]), good))
    verify("other-factors", "seed", "another seed", patched(16, b"\x08", good))
    verify("other-factors", "value", "another value", patched(96, u16(0x3F80), good))
    verify("other-factors", "split", "another split", patched(6, b"\1", good))
    verify("other-factors", "roles", "one role fewer", patched(14, u16(0x3F), good))
    reject("other-factors", "merge", "merging checks the factors, too", patched(16, b"\x08", good), "merge", tiny)
    huge = patched(24, struct.pack("<f", 2.0**127), bound(tiny, [ref.narrow(3e38, "bf16")] * 13))
    reject("merged-not-finite", "f32", "sums beyond the largest binary32", huge, "merge", tiny)
    huge = patched(24, struct.pack("<f", 65536.0), good)
    reject("merged-not-finite", "f16", "sums that binary32 would hold", huge, "merge", "tiny-f16.safetensors")


# ---- Single matrices.
def basis(name, why, ranks, rows, layer=0, role="q"):
    """Rows of f32 entries as the weight of a module."""
    flat, found, module = [x for row in rows for x in row], {}, (layer, ref.ROLES.index(role))
    for rank in ranks:
        one = [1.0 if k % (rank + 1) == 0 else 0.0 for k in range(rank * rank)]
        digests = {}
        for split in ref.CODES["split"]:
            h = {**DEFAULT, "rank": rank, "width": rank * rank, "projection": "unit", "roles": [role], "split": split}
            digests[split] = ref.factors_digest(ref.factors(h, one, [module], lambda _: rows)).hex()
        found[rank] = {"sigma": ref.basis(rows, module, rank)[1]} | digests
    matrix = {"why": why, "layer": layer, "role": role, "rows": len(rows), "cols": len(rows[0])}
    write_json(f"basis/{name}.json", matrix | {"f32": ref.to_bytes(flat, "f32").hex(), "ranks": found})


def bases():
    def noise(rows, cols, scale=1.0):
        x = fine(f"{rows} {cols}", rows, cols)
        return [[ref.narrow(4 * scale * x[i * cols + j], "f32") for j in range(cols)] for i in range(rows)]

    def diagonal(entries, cols=None):
        n = len(entries)
        return [[entries[i] if i == j else 0.0 for j in range(cols or n)] for i in range(n)]

    def decaying(rows, cols, base, first=1):
        scale = [base**-i * (1 if i else first) for i in range(rows)]
        return [[ref.narrow(x * scale[i], "f32") for x in row] for i, row in enumerate(noise(rows, cols))]

    basis("zero", "no value, yet directions: V holds start vectors, L is zero", (1, 3, 6), [[0.0] * 5] * 7)
    basis("minus-zero", "the same factors as zero", (1, 3), [[-0.0] * 5] * 7)
    basis("one-zero", "1×1", (1, 2), [[0.0]])
    basis("one-negative", "1×1: V is positive, the sign is in L", (1, 3), [[-3.0]])
    basis("rank-one", "every entry 1: one value, and the rest 0", (1, 2, 4), [[1.0] * 17] * 13)
    two = [[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0], [1.0, -1.0, 0.5, 0.0], [-1.0, 1.0, -0.5, 0.0]]
    basis("rank-two", "a row and its double, another and its opposite", (1, 2, 4), two)
    basis("row", "1×n", (1, 2, 5), noise(1, 29))
    basis("column", "n×1", (1, 2, 5), noise(29, 1))
    basis("start-of-zero", "n×1, and the first start vector of (0, k) is zero", (1, 2), noise(29, 1), role="k")
    basis("starts-in-line", "both start vectors of (466, v) have one direction", (2,), noise(4, 3), 466, "v")
    basis("starts-in-line-too", "another completion for (1074, v)", (2,), noise(4, 3), 1074, "v")
    basis("tie-of-sign", "entries of equal magnitude: the first is made positive", (1, 2), [[-1.0, 1.0]])
    basis("identity", "one value, twelve times", (1, 2, 4, 6), diagonal([1.0] * 12))
    basis("repeated", "a value four times, then others", (2, 4, 6), diagonal([5.0, 5.0, 5.0, 5.0, 2.0, 1.0, 0.0, 0.0]))
    basis("opposite", "equal values of opposite sign", (1, 2, 4), diagonal([2.0, -2.0, 1.0, -1.0, 0.5]))
    basis("single-entry", "all zero but the last", (1, 2), diagonal([0.0, 0.0, 0.0, 0.0, -2.0], 7))
    graded = diagonal([ref.narrow(3.0**-i, "f32") for i in range(18)])
    basis("graded", "powers of 1/3: from 2⁻²⁴ of the first on a value is 0", (2, 5, 18), graded)
    basis("subnormal", "every entry a subnormal of f32", (1, 2, 4), noise(9, 8, 2.0**-141))
    basis("least", "entries of 2⁻¹⁴⁹ and 0", (1, 2), diagonal([2.0**-149] * 3, 5))
    basis("huge", "entries near the largest f32", (1, 2, 4), noise(9, 8, 1.9 * 2.0**127))
    basis("largest", "every entry the largest f32", (1, 2), [[2.0**128 - 2.0**104] * 6] * 5)
    basis("block-128", "one full block of rows", (2,), noise(128, 3))
    basis("block-129", "one row more than a block", (2,), noise(129, 3))
    basis("blocks", "two blocks and a part", (2, 3), noise(300, 3))
    basis("decaying", "the search ends before the space does", (1, 2), decaying(24, 24, 1.5))
    basis("slow", "the search takes steps of more than one vector", (1, 2), decaying(32, 32, 1.03))
    basis("floor", "small values behind a large one: 2⁻⁴⁶ of it is enough", (2, 4), decaying(32, 40, 1.3, 2048))
    basis("weak", "a step leads nowhere: 2⁻⁴⁰ of the longest", (2, 3, 4), decaying(32, 40, 1.6, 2048))
    basis("wide", "more columns than rows: the search stays on the side of n", (1, 3, 5), noise(4, 41))


if __name__ == "__main__":
    for folder in FOLDERS:
        shutil.rmtree(os.path.join(ROOT, folder), ignore_errors=True)
    models()
    accepted()
    rejected()
    rejected_at_use()
    bases()
