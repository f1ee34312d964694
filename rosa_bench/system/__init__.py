"""What the project needs of the machine: devices, files, network, and errors."""
