"""The closed loop in virtual time: the shipped decision core and actuators around an emulated API server and bus."""
