"""Pages to read in a browser: HTML and charts as text, one style, nothing that must be fetched. No files, no arrays."""
