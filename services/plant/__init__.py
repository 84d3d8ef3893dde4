"""The plant: a robot factory whose packets are real or simulated, behind one interface."""
