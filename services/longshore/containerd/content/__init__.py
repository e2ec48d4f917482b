"""Content: blobs named by their digest, and the ingests that become blobs."""
