"""Writers of tables: Markdown, LaTeX, HTML, CSV, terminal."""
