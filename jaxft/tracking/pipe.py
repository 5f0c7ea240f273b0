"""The pipe from a worker process to its parent: events as JSON lines."""

from typing import TextIO

from jaxft.core.events import Event


class PipeWriter:
    """A listener that writes each event as a line of JSON to a stream, which `jaxft.study.workers` reads."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __call__(self, event: Event) -> None:
        self.stream.write(event.to_json() + "\n")
        self.stream.flush()
