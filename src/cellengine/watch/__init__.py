"""Beside the microscope: pictures are labelled as they arrive, each once, and a page shows what was found."""
