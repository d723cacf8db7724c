"""Sales Commission: the application that the console serves out of the box, to learn on."""
