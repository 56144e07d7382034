"""The parts of `cellengine evaluate`: pairing files, scoring them by task, and writing the report."""
