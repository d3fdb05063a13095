"""The parts of a judge: requests, their cache, the endpoint, and what each benchmark asks."""
