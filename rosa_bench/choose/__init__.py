"""Choose a method, its rank and its learning rate on the user's data, within a budget of time and memory."""
