"""What is trained: a Lightning module for each network, and its losses."""
