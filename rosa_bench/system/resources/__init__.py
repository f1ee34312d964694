"""What a run takes of the machine: a device, time and memory."""
