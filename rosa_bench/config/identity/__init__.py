"""What makes a run another one: its id, its deviations from a protocol, and the defaults it is compared with."""
