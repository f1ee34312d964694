"""How a process is asked to stop, and how workers end with the process that started them."""
