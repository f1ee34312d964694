"""From records to the cells of tables: settings, variants, selection, statistics, costs, and words about them."""
