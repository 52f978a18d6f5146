"""The stand-in images: three services that keep the real images' contracts."""
