"""What runs inside the stand-in images. Standard library only, and little of it: health checks start it often."""
