"""docker-proxy: carries a published port's connections to the container."""
