"""What a run found and how it went, for people (report.html) and programs (report.json); read from its outputs.

Everything is read from the files that `infer` wrote, in blocks: a resumed run gets the report of an uninterrupted one,
and millions of objects take no more memory than thousands.
"""

from cellengine.engine.report.write import write_report

__all__ = ["write_report"]
