"""Seeded mutations of files: of bytes, of text, and of the entries of archives."""

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile

EDGES = (0, 1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
TEXTS = (b"9" * 9, b"-1", b"1e9", b"0", b"null", b"[]", b"{}", b'"', b"1e999", b"\\ud800", b"[" * 2000, b"9" * 5000)
LONG_NAME = b"x" * 70_000


def mutated(content, rng):
    """Returns the bytes of a file after a mutation that fits its format, or after one of bytes."""
    structured = [mutate for matches, mutate in STRUCTURED if matches(content)]
    if structured and rng.random() < 0.5:
        return rng.choice(structured)(content, rng)
    return changed_bytes(content, rng)


def changed_bytes(content, rng):
    """Returns bytes with a few changes: bits, bytes, integers, numbers in text, parts removed, repeated or inserted."""
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        result = result or bytearray(1)
        at = rng.randrange(len(result)) if rng.random() < 0.6 else rng.randrange(min(len(result), 400))
        rng.choice(CHANGES)(result, at, rng)
    if rng.random() < 0.05:
        del result[rng.randrange(len(result) + 1) :]
    return bytes(result)


def flip_bit(result, at, rng):
    result[at] ^= 1 << rng.randrange(8)


def set_byte(result, at, rng):
    result[at] = rng.randrange(256)


def set_integer(result, at, rng):
    size = rng.choice((1, 2, 4, 8))
    order = rng.choice(("little", "big"))
    result[at : at + size] = (rng.choice(EDGES) % 256**size).to_bytes(size, order)


def remove(result, at, rng):
    del result[at : at + rng.choice((1, 4, 100, 1000))]


def repeat(result, at, rng):
    result[at:at] = result[at : at + rng.choice((1, 8, 200, 2000))] * rng.choice((1, 1, 20))


def insert(result, at, rng):
    result[at:at] = rng.choice((rng.randbytes(1), rng.randbytes(4), *TEXTS))


def set_number(result, at, rng):
    digits = [i for i in range(at, min(at + 300, len(result))) if 48 <= result[i] < 58]
    if digits:
        result[digits[0] : digits[0] + 1] = rng.choice(TEXTS)


CHANGES = (flip_bit, set_byte, set_byte, set_integer, remove, repeat, insert, set_number)


# --- archives -----------------------------------------------------------------------------------------------------


def changed_zip(content, rng):
    """Returns a zip archive with a mutated or renamed entry with the right checksum, or with an entry that lies."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
    if not entries:
        return changed_bytes(content, rng)
    name, entry, method = entries[at := rng.randrange(len(entries))]
    match rng.randrange(8):
        case 0:
            name = changed_bytes(name.encode(), rng).decode("latin1")[:60_000] or "a"
        case 1:
            name = LONG_NAME[:60_000].decode() + name
        case 2:
            entry = bytes(rng.choice((1_000_000, 20_000_000)))  # compresses to a thousandth
        case _:
            entry = mutated(entry, rng)
    entries[at] = (name, entry, rng.choice((method, method, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)))
    if rng.random() < 0.1:
        entries *= 2
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, entry, method in entries:
            archive.writestr(zipfile.ZipInfo(name), entry, method)
    return lying_zip(result.getvalue(), rng) if rng.random() < 0.3 else result.getvalue()


def lying_zip(content, rng):
    """Returns a zip archive whose directory declares another size of an entry."""
    result = bytearray(content)
    headers = [at for at in range(len(result) - 46) if result[at : at + 4] == b"PK\1\2"]
    if headers:
        field = rng.choice((20, 24))  # compressed and uncompressed size
        struct.pack_into("<I", result, rng.choice(headers) + field, rng.choice(EDGES) % 2**32)
    return bytes(result)


def changed_tar(content, rng):
    """Returns a tar archive with a header that has another size, type or name and a right checksum."""
    result = bytearray(content)
    headers = [at for at in range(0, len(result) - 511, 512) if result[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return changed_bytes(content, rng)
    at = rng.choice(headers)
    header = result[at : at + 512]
    match rng.randrange(3):
        case 0:
            size = rng.choice((-512, -1024, 0, 1, 1 << 20, 1 << 33, 1 << 62))
            header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
        case 1:
            header[156:157] = rng.choice(b"01234567LKxgSD").to_bytes(1, "big")
        case 2:
            header[: rng.randrange(1, 100)] = b""
            header[0:0] = bytes(512 - len(header))
    header[148:156] = b"%06o\0 " % (tarfile.calc_chksums(bytes(header[:512]))[0] % 8**6)
    result[at : at + 512] = header[:512]
    return bytes(result)


def changed_gzip(content, rng):
    """Returns gzip data of mutated content with a right checksum."""
    return gzip.compress(mutated(gzip.decompress(content), rng), 1)


def changed_safetensors(content, rng):
    """Returns a safetensors file with a mutated header of the right length, or with a changed header in its JSON."""
    (length,) = struct.unpack_from("<Q", content)
    header, values = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.3:
        header = changed_bytes(header, rng)
    else:
        header = json.dumps(changed_json(json.loads(header), rng)).encode()
    return struct.pack("<Q", len(header)) + header + values


def changed_lines(content, rng):
    """Returns JSON, or lines of JSON, with one changed value."""
    lines = content.splitlines() if content.count(b"\n") > 1 and content.count(b"\n{") else [content]
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(changed_json(json.loads(lines[at]), rng)).encode()
    return b"\n".join(lines)


VALUES = (None, [], {}, "", 0, -1, 1e300, 2**63, True, "x" * 70_000, [[]] * 3, "\ud800", "../x", [1] * 70, 10**30)


def changed_json(value, rng):
    """Returns a JSON value with one value or key in it replaced, removed or nested."""
    if isinstance(value, str) and value.startswith("{"):  # JSON in JSON, such as the record in a weight file
        return json.dumps(with_digest(changed_json(json.loads(value), rng)))
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return nested(rng) if rng.random() < 0.1 else rng.choice(VALUES)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        return [*value[:at], changed_json(value[at], rng), *value[at + 1 :]]
    key = rng.choice(list(value))
    match rng.randrange(8):
        case 0:
            return {name: item for name, item in value.items() if name != key}
        case 1:
            return {("x" * 70_000 if name == key else name): item for name, item in value.items()}
    return value | {key: changed_json(value[key], rng)}


def with_digest(record):
    """Returns the record of a weight file with the digest that fits it, if it is a record."""
    if not isinstance(record, dict) or "record_sha256" not in record:
        return record
    rest = {name: value for name, value in record.items() if name != "record_sha256"}
    return rest | {"record_sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def nested(rng):
    value = {}
    for _ in range(rng.choice((10, 900))):
        value = {"a": value} if rng.random() < 0.5 else [value]
    return value


def _is_json(content):
    try:
        return bool(json.loads(content.splitlines()[0] if content.count(b"\n{") else content))
    except (ValueError, IndexError):
        return False


def _is_safetensors(content):
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content)


STRUCTURED = (
    (lambda content: content.startswith(b"PK\3\4"), changed_zip),
    (lambda content: content[257:262] == b"ustar", changed_tar),
    (lambda content: content.startswith(b"\x1f\x8b"), changed_gzip),
    (_is_safetensors, changed_safetensors),
    (_is_json, changed_lines),
)
