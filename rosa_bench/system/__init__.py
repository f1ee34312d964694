"""Everything close to the machine: devices, memory, files, the network, and errors."""
