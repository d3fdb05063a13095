"""The errors of a request, each with its HTTP status."""


class RequestError(Exception):
    """The reason why a request is not answered.

    Attributes:
        status: HTTP status.
        code: Code for programs, in the manner of OpenAI.
        param: The field of the request that is to blame.
        retry_after: Seconds after which another attempt makes sense.
    """

    status = 400
    code = "invalid_request"

    def __init__(self, message: str, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after = retry_after


class InvalidRequest(RequestError):
    """The user can correct the request."""


class PromptTooLong(RequestError):
    code = "context_length_exceeded"


class Overloaded(RequestError):
    """Too many requests, of all clients or of this one."""

    status = 429
    code = "rate_limit_exceeded"


class DeadlineExceeded(RequestError):
    status = 504
    code = "deadline_exceeded"


class WorkerCrashed(RequestError):
    """The worker failed with this request in flight, or has not restarted yet."""

    status = 503
    code = "worker_crashed"


class ShuttingDown(RequestError):
    status = 503
    code = "shutting_down"
