"""Images in, labels and tables out. `open_source` and `create_sink` choose the format by the file's suffix."""

from cellengine.io.inputs import InputFile, find_inputs, output_stems
from cellengine.io.memory import MemorySource
from cellengine.io.opening import open_source
from cellengine.io.previews import write_png
from cellengine.io.sink import LabelSink, MemorySink, create_sink
from cellengine.io.source import ImageSource
from cellengine.io.tables import TableWriter, read_table, write_table

__all__ = [
    "ImageSource",
    "InputFile",
    "LabelSink",
    "MemorySink",
    "MemorySource",
    "TableWriter",
    "create_sink",
    "find_inputs",
    "open_source",
    "output_stems",
    "read_table",
    "write_png",
    "write_table",
]
