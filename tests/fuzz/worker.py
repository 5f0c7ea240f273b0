"""Reads mutated files in a process of its own: `python worker.py FOLDER` answers each line `KIND<tab>NUMBER`.

An answer is a JSON object: `outcome` ('read', 'refused' or 'failed'), `detail`, `seconds` of processor time, and
`bytes`, the peak of the memory of the process since the answer before.
"""

import json
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.kinds import KINDS, cache, files_of, reset_peak, size_in_kib
from fuzz.mutations import mutated

import jaxft

MOST_SECONDS = 10.0  # of processor time per file; then the system ends this process by SIGPROF
MORE_BYTES = 4 << 30  # of address space, so that a blow-up ends in this process
LONGEST_MESSAGE = 1000


def write_mutated(contents, kind, number):
    """Mutates one of the files with these contents, and returns its path."""
    rng = random.Random(f"{kind}/{number}")
    file = rng.choice(list(contents))
    file.write_bytes(mutated(contents[file], rng))
    return file


def read(path, kind, number):
    """Returns (outcome, detail) of reading the path."""
    try:
        KINDS[kind].read(path, number)
        return "read", ""
    except jaxft.UserError as error:
        message = str(error)
        is_sentence = len(message.splitlines()) == 1 and len(message) <= LONGEST_MESSAGE
        return ("refused", message) if is_sentence else ("failed", f"not one short sentence: {message[:300]!r}")
    except BaseException as error:
        return "failed", "".join(traceback.format_exception(error)[-3:])


def main():
    folder = Path(sys.argv[1])
    seeds = {}
    answers, sys.stdout = sys.stdout, sys.stderr
    limit = size_in_kib("VmSize") * 1024 + MORE_BYTES
    for line in sys.stdin:
        kind, number = line.rstrip("\n").split("\t")
        if kind not in seeds:
            place = folder / str(len(seeds))
            place.mkdir(parents=True)
            path = KINDS[kind].make(place)
            seeds[kind] = path, {file: file.read_bytes() for file in files_of(place)}
            if kind != "caffe":  # which has no names for the toy network
                for variant in range(3):
                    KINDS[kind].read(path, variant)
            limit = max(limit, size_in_kib("VmSize") * 1024 + MORE_BYTES)
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        path, contents = seeds[kind]
        file = write_mutated(contents, kind, number)
        reset_peak()
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        start = time.process_time()
        outcome, detail = read(path, kind, int(number))
        seconds = time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
        file.write_bytes(contents[file])
        shutil.rmtree(Path(cache()) / "images", ignore_errors=True)
        answer = {"outcome": outcome, "detail": detail, "seconds": seconds, "bytes": size_in_kib("VmHWM") * 1024}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
