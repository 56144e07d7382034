"""Images in, labels and tables out. `open_source` and `create_sink` choose the format by the file's suffix."""

from cellengine.io.inputs import InputFile, find_inputs, output_stems
from cellengine.io.memory import MemorySource
from cellengine.io.opening import open_source
from cellengine.io.sink import LabelSink, MemorySink, create_sink
from cellengine.io.source import ImageSource

__all__ = [
    "ImageSource",
    "InputFile",
    "LabelSink",
    "MemorySink",
    "MemorySource",
    "create_sink",
    "find_inputs",
    "open_source",
    "output_stems",
]
