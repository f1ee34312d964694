"""The Hugging Face hub: files at one commit, their cache on this machine, and errors of the network."""
