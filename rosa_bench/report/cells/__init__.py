"""Which runs a cell shows: settings, variants, selection and statistics."""
