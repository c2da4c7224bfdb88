"""A run folder in, one self-contained HTML page out (`page.write_report`)."""
