"""Values as texts, tables and digests."""

import hashlib
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.core.digests import json_digest, sha256_of, short_digest
from jaxft.core.tables import format_table
from jaxft.core.text import (
    byte_size,
    cut_off,
    duration,
    percent,
    percent_interval,
    points,
    shortened,
    some_of,
)


@pytest.mark.parametrize(
    ("seconds", "rounded", "precise"),
    [
        (20.5, "20 s", "20.5 s"),
        (75, "75 s", "1 min 15 s"),
        (125, "2 min", "2 min 05 s"),
        (3599.6, "60 min", "1 h 00 min"),
        (7000, "1 h 57 min", "1 h 56 min"),
        (math.nan, "–", "–"),
        (None, "–", "–"),
    ],
)
def test_durations(seconds, rounded, precise):
    assert (duration(seconds), duration(seconds, precise=True)) == (rounded, precise)


def test_accuracies_are_in_percent_and_missing_ones_a_dash():
    assert percent(0.8349) == "83.5" and percent(math.nan) == percent(None) == "–"
    assert percent_interval((0.83, 0.0411, 4)) == "83.0 ± 4.1" and percent_interval((1.0, 0.0, 3)) == "100.0 ± 0.0"
    assert percent_interval((0.98, 0.05, 3)) == "98.0 (93.0 to 100.0)"
    assert percent_interval((0.02, 0.05, 3)) == "2.0 (0.0 to 7.0)"
    assert percent_interval((0.5, 1.27, 2)) == "50.0 (0.0 to 100.0)"
    assert percent_interval((0.83, math.nan, 1)) == "83.0" and percent_interval((math.nan, math.nan, 0)) == "–"
    assert points((0.067, 0.115, 3)) == "+6.7 ± 11.5" and points((-0.067, math.nan, 1)) == "−6.7"


def test_a_table_aligns_numbers_and_cuts_nothing_off():
    long = "x" * 300
    table = format_table(["name", "count"], [["[b]a[/b]", "1"], [long, "1,234"]], numbers={1}, ruled=False)
    assert table.splitlines() == [f"{'name':<300}  count", f"{'[b]a[/b]':<300}      1", f"{long}  1,234"]
    ruled = format_table(["name", "count"], [["a", "1"]], numbers={1})
    assert [line.strip() for line in ruled.splitlines()] == ["", "name   count", "────────────", "a          1"]


def test_a_digest_is_the_beginning_of_sha256():
    assert short_digest("ä") == short_digest("ä".encode()) == hashlib.sha256(b"\xc3\xa4").hexdigest()[:16]


def test_a_digest_of_several_contents_is_that_of_their_concatenation():
    transposed = np.arange(6, dtype=np.uint8).reshape(2, 3).T
    expected = hashlib.sha256(b"a\xff" + bytes([0, 3, 1, 4, 2, 5])).hexdigest()
    assert sha256_of("a", b"\xff", transposed) == sha256_of("a\udcff", transposed) == expected
    assert sha256_of(np.zeros((0, 3))) == sha256_of() == hashlib.sha256().hexdigest()
    assert sha256_of(jnp.ones(2, jnp.bfloat16)) == hashlib.sha256(b"\x80\x3f" * 2).hexdigest()


def test_a_digest_of_json_does_not_depend_on_the_order_of_fields():
    expected = hashlib.sha256(b'{"a":[1,2.5,null],"b":"\\u00e4"}').hexdigest()[:16]
    assert json_digest({"b": "ä", "a": (1, 2.5, None)}) == json_digest({"a": [1, 2.5, None], "b": "ä"}) == expected


def test_long_strings_lose_their_middle():
    assert shortened("abcdefghij" * 4, 10) == "abcd…fghij" and shortened("abc", 3) == "abc"


def test_long_strings_lose_their_end():
    assert cut_off("abcdefghij" * 4, 10) == "abcdefg..." and cut_off("abc", 3) == "abc"


def test_long_lists_are_counted():
    assert some_of(["a", "b", "c"], 2) == "a, b and 1 more" and some_of(["a", "b"], 2) == "a, b" and some_of([]) == ""
    assert some_of(list("abcde")) == "a, b, c and 2 more"


def test_bytes_are_in_megabytes_or_gigabytes():
    assert byte_size(1_250_000_000) == "1.2 GB" and byte_size(36_450_000) == "36.5 MB" and byte_size(0) == "0.0 MB"
