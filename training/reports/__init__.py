"""Reports of runs, as self-contained HTML pages and terminal tables."""
