"""The parts of a judge: requests, their cache, the endpoint, and the questions of each benchmark."""
