"""What is in a recording, and what a model makes of it layer by layer: numbers, pictures and sounds to look into."""
