"""A sandbox for programs that a model wrote: what starts it, what runs inside it, and a file for each layer of isolation."""
