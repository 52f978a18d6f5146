"""Package repositories for a bare lab host: Docker's, NVIDIA's and the distribution's, packed and signed anew."""
