"""Read rows, tokenise them, and make ordered, padded batches. Independent of any task."""
