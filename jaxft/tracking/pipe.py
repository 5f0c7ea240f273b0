"""The pipe from a worker process to its parent: events as JSON lines."""

from typing import TextIO

from jaxft.core.events import Event


class PipeWriter:
    """Writes each event to a stream as a line of JSON. The parent reads them (`jaxft.study.workers`)."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __call__(self, event: Event) -> None:
        self.stream.write(event.to_json() + "\n")
        self.stream.flush()
