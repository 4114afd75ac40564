"""The dashboard's own queries, asked of a real Prometheus that scrapes a real bridge; and a picture of what they give."""
