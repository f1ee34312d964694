"""What a model is made of: blocks, attention, linear layers; and replacing those."""
