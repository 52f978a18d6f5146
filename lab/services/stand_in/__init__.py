"""What runs inside the stand-in images. Standard library only, and little of it: a health check starts it every few seconds."""
