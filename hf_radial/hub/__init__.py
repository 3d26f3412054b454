"""Model cards and what else goes to the Hub."""
