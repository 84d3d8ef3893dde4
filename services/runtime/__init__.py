"""What every service needs to be run: configuration, logs, health and an orderly end."""
