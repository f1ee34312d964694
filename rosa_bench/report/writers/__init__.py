"""Writers of tables: Markdown, LaTeX, HTML, terminal."""
