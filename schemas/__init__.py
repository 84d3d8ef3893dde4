"""Message and configuration types: the contract between the services."""
